"""One operator and one service per module; every HTTP test runs with the fast path and with aiohttp alone."""

from collections.abc import Iterator

import pytest

from bidstream_svc.devoperator import DevOperator, OperatorState
from tests.support.operator import operator_in_thread
from tests.support.sidecar import RunningService, operator_settings, service_in_thread


@pytest.fixture(scope="module")
def operator() -> Iterator[DevOperator]:
    with operator_in_thread(OperatorState(seed=2)) as running:
        yield running


@pytest.fixture(scope="module")
def state(operator: DevOperator) -> OperatorState:
    return operator.state


@pytest.fixture(scope="module", params=[True, False], ids=["fast path", "aiohttp"])
def has_fast_path(request: pytest.FixtureRequest) -> bool:
    return bool(request.param)


@pytest.fixture(scope="module")
def service(operator: DevOperator, *, has_fast_path: bool) -> Iterator[RunningService]:
    with service_in_thread(has_fast_path=has_fast_path, **operator_settings(operator)) as running:
        yield running
