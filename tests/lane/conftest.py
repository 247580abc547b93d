"""A lane without sockets for each test."""

from collections.abc import AsyncIterator

import pytest

from tests.lane.support import LaneSide


@pytest.fixture
async def side() -> AsyncIterator[LaneSide]:
    side = LaneSide()
    yield side
    side.lane.close()
    assert side.failures == []
