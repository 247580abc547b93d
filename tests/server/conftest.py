"""One operator and one service per module; every HTTP test runs with the fast path and with aiohttp alone."""

import ssl
from collections.abc import AsyncIterator, Iterator

import pytest
import trustme

from bidstream_svc.devoperator import DevOperator, OperatorState
from bidstream_svc.metrics.cells import CONNECTIONS
from bidstream_svc.server.connections import ConnectionLimits
from tests.fastpath.support import FastPathSide, Side, settle
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


@pytest.fixture(scope="module")
def authority() -> trustme.CA:
    return trustme.CA()


@pytest.fixture(scope="module")
def tls_files(authority: trustme.CA, tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    directory = tmp_path_factory.mktemp("tls")
    certificate = authority.issue_cert("localhost")
    certificate.private_key_pem.write_to_path(directory / "key.pem")
    for number, blob in enumerate(certificate.cert_chain_pems):
        blob.write_to_path(directory / "cert.pem", append=number > 0)
    return {"tls_cert": str(directory / "cert.pem"), "tls_key": str(directory / "key.pem")}


@pytest.fixture
def client_tls(authority: trustme.CA) -> ssl.SSLContext:
    context = ssl.create_default_context()
    authority.configure_trust(context)
    return context


@pytest.fixture(params=[FastPathSide, Side], ids=["fast path", "aiohttp"])
async def side(request: pytest.FixtureRequest, limits: ConnectionLimits) -> AsyncIterator[Side]:
    side = request.param(limits=limits)
    yield side
    side.close()
    await settle()
    assert side.failures == []
    assert side.metrics.row[CONNECTIONS] == 0


@pytest.fixture
async def aiohttp(limits: ConnectionLimits) -> AsyncIterator[Side]:
    side = Side(limits=limits)
    yield side
    side.close()
    assert side.failures == []


@pytest.fixture
async def fast_path(limits: ConnectionLimits) -> AsyncIterator[FastPathSide]:
    side = FastPathSide(limits=limits)
    yield side
    side.close()
    assert side.failures == []
