"""Phases and deadlines of connections, on the fast path and on aiohttp; time passes here by sweeps."""

import asyncio
from typing import cast

import pytest

from bidstream_svc.server.base_connection import Connection, Phase
from bidstream_svc.server.connections import ConnectionLimits
from tests.fastpath.corpus import CHUNKED, GOOD, LARGE_BATCH, make
from tests.fastpath.support import HOSTS, FakeTransport, FastPathSide, Side, settle, split_answers

# One sweep a second.
IDLE_SWEEPS, REQUEST_SWEEPS = 10, 4
NOWHERE = make(target="/nowhere")


@pytest.fixture
def limits() -> ConnectionLimits:
    return ConnectionLimits(1_000, IDLE_SWEEPS, REQUEST_SWEEPS, 2**26)


async def sweep(side: Side, times: int = 1) -> None:
    for _ in range(times):
        side.connections.sweep()
        await settle()


def connection_of(transport: FakeTransport) -> Connection:
    return cast("Connection", transport.get_protocol())


# Phases.


@pytest.mark.parametrize(
    ("received", "phase"),
    [
        (b"", Phase.IDLE),
        (GOOD[:20], Phase.REQUEST),
        (GOOD, Phase.IDLE),
        (GOOD * 3, Phase.IDLE),
        (CHUNKED, Phase.IDLE),
        (NOWHERE, Phase.IDLE),
        (b"garbage\r\n\r\n", Phase.CLOSING),
    ],
)
async def test_phases_are_the_same_by_both_ways(side: Side, received: bytes, phase: Phase) -> None:
    transport = side.connect()
    transport.is_stuck = True
    await settle()
    if received:
        transport.feed(received)
    await settle()
    assert connection_of(transport).phase is phase


async def test_phase_of_a_request_whose_body_is_under_way(aiohttp: Side, fast_path: FastPathSide) -> None:
    """aiohttp's handler has begun then, and has a deadline of its own for the body."""
    for side, phase in ((aiohttp, Phase.RESPONSE), (fast_path, Phase.REQUEST)):
        transport = side.connect()
        transport.feed(GOOD[:-3])
        await settle()
        assert connection_of(transport).phase is phase
        transport.feed(GOOD[-3:])
        await settle()
        assert connection_of(transport).phase is Phase.IDLE


async def test_phases_of_a_client_that_does_not_read_and_of_one_that_is_not_there(side: Side) -> None:
    transport = side.connect()
    connection = connection_of(transport)
    transport.feed(GOOD[:20])
    phases = [connection.phase]
    connection.pause_writing()
    phases.append(connection.phase)
    connection.resume_writing()
    await settle()
    phases.append(connection.phase)
    transport.lose()
    phases.append(connection.phase)
    assert phases == [Phase.REQUEST, Phase.UNREAD, Phase.REQUEST, Phase.HANDSHAKE]


@pytest.mark.parametrize("kind", [FastPathSide, Side])
async def test_phase_while_a_long_answer_is_being_made(kind: type[Side]) -> None:
    side = kind()
    transport = side.connect()
    await settle()
    transport.feed(LARGE_BATCH)
    await asyncio.sleep(0)
    await asyncio.sleep(0)
    assert connection_of(transport).phase is Phase.RESPONSE
    await settle()
    assert transport.statuses == [200]
    side.close()


# Deadlines.


@pytest.mark.parametrize("before", [b"", GOOD, CHUNKED, NOWHERE], ids=["new", "plain", "chunked", "nowhere"])
async def test_an_idle_connection_is_closed(side: Side, before: bytes) -> None:
    transport = side.connect()
    if before:
        transport.feed(before)
        await settle()
    written = list(transport.written)
    await sweep(side, IDLE_SWEEPS)
    assert not transport.is_closing()
    await sweep(side)
    assert transport.is_lost
    assert not transport.is_aborted
    assert transport.written == written


async def test_a_handshake_has_no_deadline_here(side: Side) -> None:
    """The acceptor ends it."""
    connection = side.connect_to(HOSTS)
    assert side.connections.admit(connection)
    await sweep(side, IDLE_SWEEPS + REQUEST_SWEEPS + 2)
    transport = FakeTransport(connection)
    transport.feed(GOOD)
    await settle()
    assert transport.statuses == [200]


@pytest.mark.parametrize("before", [b"", CHUNKED], ids=["new", "used"])
async def test_a_head_that_does_not_end_is_answered_by_aiohttp(aiohttp: Side, before: bytes) -> None:
    transport = aiohttp.connect()
    if before:
        transport.feed(before)
        await settle()
    written = transport.statuses
    transport.feed(GOOD[:10])
    for offset in range(10, 10 + REQUEST_SWEEPS):
        await sweep(aiohttp)
        transport.feed(GOOD[offset : offset + 1])
    assert not transport.is_closing()
    await sweep(aiohttp)
    assert transport.is_lost
    assert not transport.is_aborted
    assert transport.statuses[len(written) :] == [408]
    assert aiohttp.counted_with(408) == 1


async def test_a_head_behind_one_that_was_handed_over_has_the_same_deadline(fast_path: FastPathSide) -> None:
    transport = fast_path.connect()
    transport.feed(CHUNKED)
    await settle()
    transport.feed(CHUNKED[:10])
    await sweep(fast_path, REQUEST_SWEEPS)
    assert not transport.is_closing()
    await sweep(fast_path)
    assert transport.is_lost
    assert transport.statuses == [200, 408]


async def test_every_head_has_its_own_time_to_arrive(side: Side) -> None:
    transport = side.connect()
    for _ in range(3):
        transport.feed(GOOD[:20])
        await sweep(side, REQUEST_SWEEPS)
        transport.feed(GOOD[20:])
        await sweep(side)
    assert transport.statuses == [200] * 3


async def test_an_answer_that_is_being_made_has_no_deadline(aiohttp: Side) -> None:
    transport = aiohttp.connect()
    transport.feed(GOOD[:-3])
    await sweep(aiohttp, IDLE_SWEEPS + REQUEST_SWEEPS + 2)
    transport.feed(GOOD[-3:])
    await settle()
    assert transport.statuses == [200]


@pytest.mark.parametrize("beginning", [b"", GOOD[:20]], ids=["between requests", "inside one"])
async def test_a_client_that_does_not_read_is_aborted(side: Side, beginning: bytes) -> None:
    transport = side.connect()
    transport.is_stuck = True
    await settle()
    transport.feed(GOOD)
    await settle()
    if beginning:
        transport.feed(beginning)
    connection_of(transport).pause_writing()
    await sweep(side, IDLE_SWEEPS)
    assert not transport.is_closing()
    await sweep(side)
    assert transport.is_aborted
    assert transport.statuses == [200]


async def test_a_close_that_does_not_end_is_aborted(side: Side) -> None:
    transport = side.connect()
    transport.is_stuck = True
    transport.feed(make(b"{}", "Connection: close"))
    await settle()
    assert transport.is_closing()
    await sweep(side, IDLE_SWEEPS)
    assert not transport.is_aborted
    await sweep(side)
    assert transport.is_aborted


async def test_a_close_by_a_deadline_that_does_not_end_is_aborted_by_the_next_sweep(side: Side) -> None:
    transport = side.connect()
    transport.is_stuck = True
    await sweep(side, IDLE_SWEEPS + 1)
    assert transport.is_closing()
    assert not transport.is_aborted
    await sweep(side)
    assert transport.is_aborted


@pytest.mark.parametrize("request_", [GOOD, CHUNKED], ids=["plain", "chunked"])
async def test_what_is_pipelined_waits_in_the_kernel(side: Side, request_: bytes) -> None:
    """Otherwise each answer lets a further read in, and the whole rest is copied at each."""
    piece, pieces = request_ * 4, 50
    transport = side.connect()
    for _ in range(pieces):
        transport.feed(piece)
    held = [0]
    while transport.sent.count(b"HTTP/1.1 200") < 4 * pieces:
        await asyncio.sleep(0)
        held += [connection.input_bytes for connection in side.connections]
    assert max(held) <= 2 * len(piece)


# Drain.

UNDER_WAY = {"head": (b"", 20), "body": (b"", -3), "later head": (GOOD, 20), "later body": (GOOD, -3)}


@pytest.mark.parametrize("before", [b"", GOOD, CHUNKED, NOWHERE], ids=["new", "plain", "chunked", "nowhere"])
async def test_a_drain_closes_a_connection_between_two_requests(side: Side, before: bytes) -> None:
    transport = side.connect()
    await settle()
    if before:
        transport.feed(before)
        await settle()
    await sweep(side)
    side.drain()
    side.close_idle()
    await settle()
    assert transport.is_lost


async def test_a_drain_leaves_a_new_connection_time_for_its_first_request(side: Side) -> None:
    transport, silent = side.connect(), side.connect()
    await settle()
    side.drain()
    side.close_idle()
    await sweep(side)
    assert not transport.is_closing()
    transport.feed(GOOD)
    await settle()
    assert transport.statuses == [200]
    assert transport.is_lost
    await sweep(side)
    assert silent.is_lost


@pytest.mark.parametrize(("before", "size"), UNDER_WAY.values(), ids=UNDER_WAY)
async def test_a_drain_lets_a_request_under_way_end(side: Side, before: bytes, size: int) -> None:
    transport = side.connect()
    await settle()
    for piece in filter(None, (before, GOOD[:size])):
        transport.feed(piece)
        await settle()
    side.drain()
    side.close_idle()
    await settle()
    assert not transport.is_closing()
    transport.feed(GOOD[size:])
    await settle()
    assert transport.statuses == ([200, 200] if before else [200])
    assert b"Connection: close" in split_answers(transport.sent)[-1].headers
    assert transport.is_lost


async def test_a_drain_also_closes_a_connection_whose_handshake_ends_later(side: Side) -> None:
    connection = side.connect_to(HOSTS)
    assert side.connections.admit(connection)
    side.drain()
    side.close_idle()
    transport = FakeTransport(connection)
    await sweep(side)
    assert not transport.is_closing()  # its request may be on the way
    await sweep(side)
    assert transport.is_lost
