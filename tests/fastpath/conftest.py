"""A fast path on a fake transport for each test, and the bearer token for tests that need one."""

from collections.abc import AsyncIterator

import pytest

from bidstream_svc.server.auth import BearerToken
from tests.fastpath.corpus import BEARER
from tests.fastpath.support import FastPathSide


@pytest.fixture
async def side() -> AsyncIterator[FastPathSide]:
    side = FastPathSide()
    yield side
    side.close()
    assert side.failures == []


@pytest.fixture(scope="session")
def bearer(tmp_path_factory: pytest.TempPathFactory) -> BearerToken:
    path = tmp_path_factory.mktemp("bearer") / "token"
    path.write_text(BEARER, "utf-8")
    return BearerToken(path)
