"""A real Prometheus with the files in deploy/prometheus, at shortened intervals."""

import json
import re
import subprocess
from contextlib import closing
from http import HTTPStatus
from http.client import HTTPConnection
from pathlib import Path
from typing import Any, Self
from urllib.parse import urlencode

from tests.support.sidecar import DEADLINE_S, wait_until
from tests.support.yaml_files import dump_yaml, load_yaml

DEPLOYED = Path(__file__).parents[2] / "deploy" / "prometheus"

_DURATION = re.compile(r"(?P<before>\[|(?:for|interval): )(?P<number>\d+)(?P<unit>[smhd])\b")
_UNIT_MS = {"s": 1_000, "m": 60_000, "h": 3_600_000, "d": 86_400_000}


def speed_up(text: str, factor: int) -> str:
    """Divide every duration of a configuration or of rules: intervals, ranges, `for`."""

    def shorten(found: re.Match[str]) -> str:
        duration_ms = int(found["number"]) * _UNIT_MS[found["unit"]]
        return f"{found['before']}{duration_ms // factor}ms"

    return _DURATION.sub(shorten, text)


class Prometheus:
    """A process that scrapes by copies of the deployed files; a context manager that ends it.

    Args:
        directory: for its files.
        targets: addresses to scrape instead of the configured one.
        speed: how many times faster than configured everything goes.
    """

    def __init__(self, directory: Path, *targets: str, speed: int) -> None:
        for name in ("prometheus.yaml", "rules.yaml"):
            (directory / name).write_text(speed_up((DEPLOYED / name).read_text("utf-8"), speed), "utf-8")
        config = load_yaml(directory / "prometheus.yaml")
        config["scrape_configs"][0]["static_configs"][0]["targets"] = list(targets)
        # Also the time-out of a scrape, which may take longer than the shortened interval on a busy machine.
        config["global"]["scrape_interval"] = "500ms"
        dump_yaml(config, directory / "prometheus.yaml")
        self._log = directory / "prometheus.log"
        with self._log.open("wb") as log:
            self._process = subprocess.Popen(
                [
                    "prometheus",
                    f"--config.file={directory / 'prometheus.yaml'}",
                    f"--storage.tsdb.path={directory / 'data'}",
                    "--web.listen-address=127.0.0.1:0",
                    "--log.format=json",
                ],
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
            )

    def __enter__(self) -> Self:
        wait_until(lambda: self._address() or self._process.poll() is not None, "Prometheus to listen")
        assert self._process.poll() is None, self._log.read_text("utf-8")
        wait_until(lambda: self._ask("/-/ready")[0] == HTTPStatus.OK, "Prometheus to be ready")
        return self

    def __exit__(self, *_exc_info: object) -> None:
        self._process.terminate()
        try:
            self._process.wait(DEADLINE_S)
        finally:
            self._process.kill()

    def query(self, expression: str) -> list[dict[str, Any]]:
        """The samples that an expression has now; an AssertionError if Prometheus refuses it."""
        result: list[dict[str, Any]] = self._get("/api/v1/query", query=expression)["result"]
        return result

    def label_values(self, label: str, selector: str) -> list[str]:
        """The values of a label among the series that a selector finds."""
        values: list[str] = self._get(f"/api/v1/label/{label}/values", **{"match[]": selector})
        return values

    def firing(self) -> dict[tuple[str, str], dict[str, str]]:
        """The annotations of the alerts that fire, by name and programme ("" if it is about none)."""
        alerts = self._get("/api/v1/alerts")["alerts"]
        return {
            (alert["labels"]["alertname"], alert["labels"].get("scope", "")): alert["annotations"]
            for alert in alerts
            if alert["state"] == "firing"
        }

    def rules(self) -> list[dict[str, Any]]:
        """All rules with their health."""
        return [rule for group in self._get("/api/v1/rules")["groups"] for rule in group["rules"]]

    def _get(self, path: str, **parameters: object) -> Any:
        _, body = self._ask(f"{path}?{urlencode(parameters)}")
        found = json.loads(body)
        assert found["status"] == "success", found
        return found["data"]

    def _ask(self, target: str) -> tuple[int, bytes]:
        with closing(HTTPConnection(self._address(), timeout=DEADLINE_S)) as connection:
            connection.request("GET", target)
            response = connection.getresponse()
            return response.status, response.read()

    def _address(self) -> str:
        """Where it listens, out of its log; empty until it does."""
        found = re.search(r'"address":"([^"]+:[1-9]\d*)".*"Listening on"', self._log.read_text("utf-8"))
        return found[1] if found else ""
