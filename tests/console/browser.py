"""A real Chromium, without a window, driven by selenium."""

import base64
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from shutil import which
from typing import Any

from selenium.webdriver import Chrome, ChromeOptions
from selenium.webdriver.chrome.service import Service
from selenium.webdriver.common.by import By
from selenium.webdriver.remote.webelement import WebElement
from selenium.webdriver.support.ui import WebDriverWait

DEADLINE_S = 60
WIDE, NARROW = 1280, 390
_HEIGHT = 900
_FLAGS = (
    "--headless",
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--disable-dev-shm-usage",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
    "--force-color-profile=srgb",
    f"--window-size={WIDE},{_HEIGHT}",
)


class Browser:
    """A browser with one page.

    Attributes:
        driver: selenium's driver.
        downloads: the directory that downloads go to.
    """

    def __init__(self, driver: Chrome, downloads: Path) -> None:
        self.driver = driver
        self.downloads = downloads

    def open(self, url: str) -> None:
        """Load a page."""
        self.driver.get(url)

    def find(self, selector: str) -> WebElement:
        """Return the element that a CSS selector selects."""
        found: WebElement = self.driver.find_element(By.CSS_SELECTOR, selector)
        return found

    def text(self, selector: str) -> str:
        """Return the visible text of an element."""
        return str(self.find(selector).text)

    def script(self, source: str, *arguments: Any) -> Any:
        """Run the body of a function in the page."""
        return self.driver.execute_script(source, *arguments)

    def wait_for(self, expression: str) -> Any:
        """Wait until an expression in the page is true, and return it."""
        wait = WebDriverWait(self.driver, DEADLINE_S, poll_frequency=0.1)
        return wait.until(lambda driver: driver.execute_script(f"return {expression}"), f"in vain: {expression}")

    def look(self, width: int, *, dark: bool) -> None:
        """Show the page on a screen of this width, in light or dark colours."""
        self._command(
            "Emulation.setDeviceMetricsOverride",
            {"width": width, "height": _HEIGHT, "deviceScaleFactor": 1, "mobile": width == NARROW},
        )
        colours = {"name": "prefers-color-scheme", "value": "dark" if dark else "light"}
        self._command("Emulation.setEmulatedMedia", {"features": [colours]})

    def picture(self, path: Path, height: int | None = None) -> None:
        """Write a PNG of the page from its top; of all of it by default."""
        self._command("Emulation.setScrollbarsHidden", {"hidden": True})
        size = self._command("Page.getLayoutMetrics", {})["cssContentSize"]
        clip = {"x": 0, "y": 0, "width": size["width"], "height": height or size["height"], "scale": 1}
        taken = self._command("Page.captureScreenshot", {"captureBeyondViewport": True, "clip": clip})
        path.write_bytes(base64.b64decode(taken["data"]))

    def log(self) -> list[str]:
        """Return what the browser has logged since the last call: errors, and what the CSP forbade."""
        return [str(entry["message"]) for entry in self.driver.get_log("browser")]  # type: ignore[no-untyped-call,unused-ignore]

    def _command(self, name: str, arguments: dict[str, Any]) -> Any:
        return self.driver.execute_cdp_cmd(name, arguments)


@contextmanager
def chromium(directory: Path) -> Iterator[Browser]:
    """Run a browser whose profile and downloads are in a new directory."""
    options = ChromeOptions()
    options.binary_location = which("chromium") or "chromium"
    for flag in (*_FLAGS, f"--user-data-dir={directory / 'profile'}"):
        options.add_argument(flag)
    downloads = directory / "downloads"
    downloads.mkdir()
    options.add_experimental_option("prefs", {"download.default_directory": str(downloads)})
    options.set_capability("goog:loggingPrefs", {"browser": "ALL"})
    # Its own proxy settings would be asked for a loopback address, too.
    environment = {name: value for name, value in os.environ.items() if not name.lower().endswith("_proxy")}
    driver = Chrome(options, Service(which("chromedriver") or "chromedriver", env=environment))
    try:
        yield Browser(driver, downloads)
    finally:
        driver.quit()
