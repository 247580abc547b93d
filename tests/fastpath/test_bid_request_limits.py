"""`POST /openrtb` and `/openrtb/rewrite`: limits, codings, and many at a time."""

import asyncio
import gzip
import tracemalloc
import zlib
from itertools import product

import pytest

from bidstream_svc.server.answers import MALFORMED_GZIP
from bidstream_svc.server.connections import ConnectionLimits
from tests.core.openrtb_compare import KEYS
from tests.fastpath.bid_support import GZIP, IDS, LIMIT, REWRITE, SMALL, answers_to, expected, hostile, seen
from tests.fastpath.corpus import make
from tests.fastpath.support import FastPathSide, Side, settle

pytestmark = pytest.mark.usefixtures("vectors_clock")


@pytest.fixture(params=[FastPathSide, Side], ids=["fast path", "aiohttp"])
def kind(request: pytest.FixtureRequest) -> type[Side]:
    found: type[Side] = request.param
    return found


def padded(size: int) -> bytes:
    return SMALL + b" " * (size - len(SMALL))


@pytest.mark.parametrize("path", [IDS, REWRITE])
async def test_limits_as_sent_and_inflated(bid_sides: list[Side], path: str) -> None:
    wanted = expected(path, SMALL)
    for side in bid_sides:
        (answer,) = await answers_to(side, make(padded(LIMIT), target=path))
        assert answer.status == 200
        assert answer.body.rstrip(b" ") == wanted.body
        (answer,) = await answers_to(side, make(gzip.compress(padded(LIMIT)), GZIP, target=path))
        assert answer.body.rstrip(b" ") == wanted.body
        for too_long in (padded(LIMIT + 1), padded(50 * LIMIT)):
            gzipped = make(gzip.compress(too_long), GZIP, target=path)
            refused, following = await answers_to(side, gzipped, make(SMALL, target=path))
            assert (refused.status, b"too_large" in refused.body) == (413, True)
            assert seen(following) == wanted
        (refused,) = await answers_to(side, make(padded(LIMIT + 1), target=path))
        assert (refused.status, b"524288 bytes" in refused.body) == (413, True)


MEMBER = gzip.compress(SMALL)
HALVES = gzip.compress(SMALL[:100]) + gzip.compress(SMALL[100:])
NOT_GZIP = {
    "plain": SMALL,
    "empty": b"",
    "cut": MEMBER[:-1],
    "cut in the head": MEMBER[:9],
    "cut in the second member": HALVES[:-1],
    "garbage behind": MEMBER + b"x",
    "zeros behind": MEMBER + b"\0" * 8,
    "wrong checksum": MEMBER[:-8] + bytes(4) + MEMBER[-4:],
    "wrong length": MEMBER[:-4] + bytes(4),
    "zlib": zlib.compress(SMALL),
}


@pytest.mark.parametrize("path", [IDS, REWRITE])
async def test_what_is_not_gzip_is_a_bad_request(bid_sides: list[Side], path: str) -> None:
    for side, (name, body) in product(bid_sides, NOT_GZIP.items()):
        refused, following = await answers_to(side, make(body, GZIP, target=path), make(SMALL, target=path))
        assert (refused.status, refused.body) == MALFORMED_GZIP, name
        assert following.status == 200


async def test_several_members_are_one_body(bid_sides: list[Side]) -> None:
    empty = gzip.compress(b"")
    for side, body in product(bid_sides, [HALVES, empty + MEMBER, MEMBER + empty * 3, empty * 2_000 + MEMBER]):
        for coding in ("gzip", "GZIP", " x-gzip "):
            (answer,) = await answers_to(side, make(body, f"Content-Encoding: {coding}", target=IDS))
            assert seen(answer) == expected(IDS, SMALL)


@pytest.mark.parametrize("coding", ["br", "deflate", "gzip, gzip", "gzip, identity", "", "zstd"])
@pytest.mark.parametrize("path", [IDS, REWRITE])
async def test_other_codings_and_content_types_are_refused(bid_sides: list[Side], path: str, coding: str) -> None:
    lines = [(f"Content-Encoding: {coding}",), (GZIP, GZIP), ("Content-Type: application/x-protobuf",)]
    for side, each in product(bid_sides, lines):
        (answer,) = await answers_to(side, make(gzip.compress(SMALL), *each, target=path))
        assert (answer.status, b"unsupported_media_type" in answer.body) == (415, True)


@pytest.mark.parametrize("coding", ["gzip", "identity"])
@pytest.mark.parametrize("path", ["/decrypt", "/decrypt/batch"])
async def test_on_other_routes_no_coding_is_taken(bid_sides: list[Side], path: str, coding: str) -> None:
    for side in bid_sides:
        (answer,) = await answers_to(side, make(gzip.compress(b"{}"), f"Content-Encoding: {coding}", target=path))
        assert answer.status == 415


# Many at a time


@pytest.mark.parametrize("has_gzip", [False, True])
async def test_another_connection_is_answered_between_the_steps(bid_sides: list[Side], *, has_gzip: bool) -> None:
    """The single request that comes after it is answered before it."""
    body = hostile("arrays", LIMIT)
    request = make(gzip.compress(body), GZIP, target=REWRITE) if has_gzip else make(body, target=REWRITE)
    for side in bid_sides:
        long, short = side.connect(), side.connect()
        long.feed(request)
        await asyncio.sleep(0)
        short.feed(make(SMALL, target=IDS))
        while not short.statuses:
            assert long.statuses == []
            await asyncio.sleep(0)
        assert (long.statuses, short.statuses) == ([], [200])
        await settle()
        assert long.statuses == [200]


async def test_bodies_count_as_held(kind: type[Side]) -> None:
    body = hostile("strings", 40_000)
    side = kind(limits=ConnectionLimits(1_000, 60, 60, 100_000), snapshots=KEYS)
    transports = [side.connect() for _ in range(4)]
    for transport in transports:
        transport.feed(make(body, target=IDS)[:-1])
    await settle()
    assert [transport.statuses for transport in transports] == [[], [], [503], [503]]
    for transport in transports[:2]:
        transport.feed(make(body, target=IDS)[-1:])
    await settle()
    assert [transport.statuses for transport in transports[:2]] == [[200], [200]]
    side.close()


@pytest.mark.parametrize("is_reversed", [False, True])
async def test_inflated_bodies_count_as_held(kind: type[Side], *, is_reversed: bool) -> None:
    """Whichever connections send first, the newest are refused, and what they have inflated is free at once."""
    side = kind(limits=ConnectionLimits(1_000, 60, 60, 4 * LIMIT), snapshots=KEYS)
    transports = [side.connect() for _ in range(20)]
    body = gzip.compress(hostile("strings", LIMIT))
    for transport in reversed(transports) if is_reversed else transports:
        transport.feed(make(body, GZIP, target=IDS))
    tracemalloc.start()
    await settle()
    _, peak_bytes = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    statuses = [transport.statuses for transport in transports]
    assert statuses[:3] == [[200]] * 3
    assert statuses.count([503]) == 20 - statuses.count([200]) > 10
    assert peak_bytes < 12 * LIMIT
    assert side.connections._budget.held_bytes == 0
    side.close()


async def test_a_client_that_is_gone_costs_no_more(kind: type[Side]) -> None:
    side = kind(snapshots=KEYS)
    body = gzip.compress(hostile("strings", LIMIT))
    for _ in range(5):
        transport = side.connect()
        transport.feed(make(body, GZIP, target=IDS))
        for _ in range(4):
            await asyncio.sleep(0)
        transport.lose()
    await settle()
    assert side.counted_with(200) == side.counted_with(503) == 0
    assert side.failures == []
    side.close()
