"""A sidecar under traffic, and a Prometheus that scrapes it."""

from collections.abc import Iterator

import pytest

from bidstream_svc.core.identity import IdentityScope
from bidstream_svc.devoperator import DevOperator, OperatorState
from tests.support.operator import operator_in_thread
from tests.support.prometheus import Prometheus
from tests.support.sidecar import Sidecar, operator_settings
from tests.support.traffic import mixed_requests, traffic

SPEED = 150  # a scrape each 0.1 s


@pytest.fixture(scope="module")
def operator() -> Iterator[DevOperator]:
    with operator_in_thread() as running:
        yield running


@pytest.fixture(scope="module")
def operators(operator: DevOperator) -> Iterator[dict[IdentityScope, DevOperator]]:
    """One of each programme."""
    with operator_in_thread(OperatorState(seed=2, scope=IdentityScope.EUID)) as euid:
        yield {operator.state.scope: operator, IdentityScope.EUID: euid}


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
