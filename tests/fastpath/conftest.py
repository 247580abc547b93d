"""A fast path on a fake transport for each test, and the bearer token for tests that need one."""

from collections.abc import AsyncIterator

import pytest

from bidstream_svc.core.kernel import IS_NATIVE
from bidstream_svc.server.auth import BearerToken
from tests.core.openrtb_compare import KEYS
from tests.fastpath.corpus import BEARER
from tests.fastpath.support import FastPathSide, Side
from tests.vectors.inputs import NOW_MS


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


@pytest.fixture
def vectors_clock(monkeypatch: pytest.MonkeyPatch) -> None:
    """The time for which the tokens in the files are made."""
    for module in ("fastpath.connection", "data_plane"):
        monkeypatch.setattr(f"bidstream_svc.server.{module}.wall_clock_ms", lambda: NOW_MS)


@pytest.fixture
async def bid_sides(vectors_clock: None) -> AsyncIterator[list[Side]]:
    """The fast path and aiohttp, each with the kernels and without."""
    sides = [
        kind(snapshots=KEYS, has_kernel=has_kernel)
        for kind in (FastPathSide, Side)
        for has_kernel in sorted({False, IS_NATIVE})
    ]
    yield sides
    for side in sides:
        side.close()
