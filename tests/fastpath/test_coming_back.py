"""A connection that aiohttp has got comes back to the fast path at the next plain request."""

import gc

import pytest

from bidstream_svc.metrics.cells import CONNECTIONS
from bidstream_svc.server.aiohttp_connection import AiohttpConnection
from bidstream_svc.server.aiohttp_guest import AiohttpGuest
from bidstream_svc.server.fastpath.connection import FastPathConnection
from tests.fastpath.corpus import BODY, CHUNKED, GOOD, LARGE_BATCH, chunked, make
from tests.fastpath.support import FakeTransport, FastPathSide, settle

ODD = {
    "chunked": CHUNKED,
    "expect": make(BODY, "Expect: 100-continue"),
    "not found": make(target="/nowhere"),
    "not found, chunked": chunked(target="/nowhere"),
    "too large": make(b" " * 16_385),
    "GET": make(b"", method="GET", length=None),
    "text": make(BODY, "Content-Type: text/plain"),
    "line break before": b"\r\n" + GOOD,
    "upgrade": make(BODY, "Connection: Upgrade", "Upgrade: websocket"),
    "large batch": LARGE_BATCH.replace(b"HTTP/1.1\r\n", b"HTTP/1.1\r\nConnection: x\r\n", 1),
}


async def is_answered_by(transport: FakeTransport, request: bytes, kind: type) -> bool:
    """Send a request; whether its connection then is of this kind."""
    before = len(transport.statuses)
    transport.feed(request)
    await settle()
    assert len(transport.statuses) > before
    return isinstance(transport.get_protocol(), kind)


@pytest.mark.parametrize("odd", ODD.values(), ids=ODD)
async def test_the_next_plain_request_is_answered_by_the_fast_path(side: FastPathSide, odd: bytes) -> None:
    transport = side.connect()
    for _ in range(3):
        assert await is_answered_by(transport, odd, AiohttpConnection)
        assert await is_answered_by(transport, odd, AiohttpConnection)
        assert await is_answered_by(transport, GOOD, FastPathConnection)
        assert await is_answered_by(transport, GOOD, FastPathConnection)
    assert not transport.is_reading_paused
    assert len(side.connections) == side.metrics.row[CONNECTIONS] == 1
    transport.lose()
    assert len(side.connections) == side.metrics.row[CONNECTIONS] == 0


@pytest.mark.parametrize("odd", ODD.values(), ids=ODD)
async def test_pipelined_requests_are_answered_in_order(side: FastPathSide, odd: bytes) -> None:
    alone = side.connect()
    for request in (odd, GOOD):
        alone.feed(request)
        await settle()
    together = side.connect()
    together.feed((odd + GOOD) * 20)
    await settle()
    assert together.statuses == alone.statuses * 20
    assert isinstance(together.get_protocol(), FastPathConnection)


_LONG_UNREAD = b"".join(b"1000\r\n%b\r\n" % (b"x" * 4096) for _ in range(250))  # more than aiohttp parses at once


@pytest.mark.parametrize("before", [b"", _LONG_UNREAD], ids=["short", "long"])
@pytest.mark.parametrize("end", [b"4\r\nabcdxx0\r\n\r\n", b"4 \r\nabcd\r\n0\r\n\r\n", b"0\r\nX y\r\n\r\n"])
async def test_a_malformed_body_that_is_not_read_ends_the_connection(
    side: FastPathSide, before: bytes, end: bytes
) -> None:
    head, _, _ = chunked(target="/nowhere").partition(b"\r\n\r\n")
    transport = side.connect()
    transport.feed(head + b"\r\n\r\n")
    await settle()
    transport.feed(before + end + GOOD)
    await settle()
    assert transport.statuses == [404, 400]
    assert transport.is_lost


async def test_thousands_of_hand_overs_in_one_segment_or_one_connection_leave_nothing_behind(
    side: FastPathSide,
) -> None:
    transport = side.connect()
    transport.feed((b"\r\n" + GOOD) * 3_000)
    await settle()
    assert transport.statuses == [200] * 3_000
    for _ in range(1_000):
        transport.written.clear()
        assert await is_answered_by(transport, CHUNKED, AiohttpConnection)
        assert await is_answered_by(transport, GOOD, FastPathConnection)
    gc.collect()
    assert not [thing for thing in gc.get_objects() if isinstance(thing, AiohttpGuest)]
    assert side.plane._server.connections == []
    assert side.connections._budget.held_bytes == 0


async def test_half_a_plain_request_has_the_deadline_of_a_request(side: FastPathSide) -> None:
    transport = side.connect()
    assert await is_answered_by(transport, CHUNKED, AiohttpConnection)
    transport.feed(GOOD[:-1])
    await settle()
    assert isinstance(transport.get_protocol(), FastPathConnection)
    for _ in range(62):
        side.connections.sweep()
    await settle()
    assert transport.statuses == [200, 408]
    assert transport.is_lost


async def test_a_connection_that_came_back_is_not_new_when_idle_ones_are_closed(side: FastPathSide) -> None:
    transport = side.connect()
    assert await is_answered_by(transport, GOOD, FastPathConnection)
    side.connections.sweep()
    assert await is_answered_by(transport, CHUNKED, AiohttpConnection)
    assert await is_answered_by(transport, GOOD, FastPathConnection)
    side.close_idle()
    assert transport.is_closing()


async def test_while_draining_the_connection_ends_with_its_answer(side: FastPathSide) -> None:
    transport = side.connect()
    assert await is_answered_by(transport, CHUNKED, AiohttpConnection)
    side.drain()
    transport.feed(GOOD)
    await settle()
    assert transport.statuses == [200, 200]
    assert transport.is_lost
