"""Tests marked `needs_tools` need tools beyond requirements/dev.txt; only `make deploy-check` selects them.

A missing tool fails such a test if REQUIRE_TOOLS is 1, and skips it otherwise.
"""

import os
from collections.abc import Iterator
from importlib.util import find_spec
from shutil import which

import pytest

from bidstream_svc.devoperator import DevOperator
from tests.support.operator import operator_in_thread
from tests.support.prometheus import Prometheus
from tests.support.sidecar import Sidecar, operator_settings
from tests.support.traffic import mixed_requests, traffic

SPEED = 150  # a scrape each 0.1 s


@pytest.hookimpl(tryfirst=True)  # before fixtures, which need the tools as well
def pytest_runtest_setup(item: pytest.Item) -> None:
    names = {name for marker in item.iter_markers("needs_tools") for name in marker.args}
    missing = sorted(name for name in names if which(name) is None and find_spec(name) is None)
    if not missing:
        return
    message = f"not installed: {', '.join(missing)}"
    if os.environ.get("REQUIRE_TOOLS") == "1":
        pytest.fail(message, pytrace=False)
    pytest.skip(message)


@pytest.fixture(scope="module")
def operator() -> Iterator[DevOperator]:
    with operator_in_thread() as running:
        yield running


@pytest.fixture(scope="module")
def sidecar(operator: DevOperator, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Sidecar]:
    """A real one with two workers, under light traffic of every kind."""
    with (
        Sidecar(tmp_path_factory.mktemp("sidecar"), workers=2, **operator_settings(operator)) as running,
        traffic(running.wait_ready().data, mixed_requests(operator.state), pause_s=0.02),
    ):
        yield running


@pytest.fixture(scope="module")
def prometheus(sidecar: Sidecar, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Prometheus]:
    with Prometheus(tmp_path_factory.mktemp("prometheus"), sidecar.admin, speed=SPEED) as running:
        yield running
