"""A sidecar of UID2 with its console, and a browser. `make console-check` runs the tests that use them."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from bidstream_svc.devoperator import OperatorState
from tests.support.http_server import Reply, http_server_in_thread
from tests.support.operator import operator_in_thread
from tests.support.sidecar import Sidecar, operator_settings

if TYPE_CHECKING:  # `make test` has no selenium
    from tests.console.browser import Browser


@pytest.fixture(scope="session")
def state() -> OperatorState:
    return OperatorState(seed=3)


@pytest.fixture(scope="session")
def sidecar(state: OperatorState, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Sidecar]:
    with (
        operator_in_thread(state) as operator,
        Sidecar(tmp_path_factory.mktemp("sidecar"), console="1", **operator_settings(operator)) as running,
    ):
        running.wait_ready()
        yield running


@pytest.fixture(scope="session")
def browser(tmp_path_factory: pytest.TempPathFactory) -> "Iterator[Browser]":
    from tests.console.browser import chromium  # noqa: PLC0415 - it is not installed for `make test`

    with chromium(tmp_path_factory.mktemp("browser")) as running:
        yield running


@pytest.fixture
def console(browser: "Browser", sidecar: Sidecar) -> "Browser":
    """The console in the browser, as somebody opens it."""
    browser.open(f"http://{sidecar.admin}/console")
    browser.wait_for("document.getElementById('health').textContent === 'ready'")
    browser.log()
    return browser


@contextmanager
def page_elsewhere(content: str) -> Iterator[int]:
    """Serve a page on another port, which is yielded."""
    reply = Reply(200, content.encode(), {"Content-Type": "text/html"})
    with http_server_in_thread(lambda _request: reply) as port:
        yield port


@pytest.fixture(scope="session")
def axe() -> str:
    """The source of axe-core."""
    path = Path(__file__).parents[2] / ".venv/node_modules/axe-core/axe.min.js"
    assert path.is_file(), "`make console-check` fetches axe-core"
    return path.read_text()
