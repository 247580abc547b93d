"""A sidecar under traffic, and a Prometheus that scrapes it."""

from collections.abc import Iterator

import pytest

from bidstream_svc.core.identity import IdentityScope
from bidstream_svc.devoperator import DevOperator, OperatorState
from tests.support.operator import operator_in_thread
from tests.support.prometheus import Prometheus
from tests.support.sidecar import Sidecar, programme_settings
from tests.support.traffic import mixed_requests, traffic

SPEED = 150  # the rate of five minutes is one of 2 s


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
def sidecar(operators: dict[IdentityScope, DevOperator], tmp_path_factory: pytest.TempPathFactory) -> Iterator[Sidecar]:
    """A real one with two workers and both programmes, under light traffic of every kind."""
    requests = [request for operator in operators.values() for request in mixed_requests(operator.state)]
    settings = programme_settings(operators.values())
    with (
        Sidecar(tmp_path_factory.mktemp("sidecar"), workers=2, **settings) as running,
        traffic(running.wait_ready().data, requests, pause_s=0.02),
    ):
        yield running


@pytest.fixture(scope="module")
def prometheus(sidecar: Sidecar, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Prometheus]:
    with Prometheus(tmp_path_factory.mktemp("prometheus"), sidecar.admin, speed=SPEED) as running:
        yield running
