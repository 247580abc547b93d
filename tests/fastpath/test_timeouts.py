"""Which connections a sweep closes. Tests call the sweep instead of waiting."""

import asyncio
import time
from collections.abc import AsyncIterator
from typing import cast

import pytest

from bidstream_svc.server.connections import ConnectionLimits
from tests.fastpath.corpus import CHUNKED, GOOD, LARGE_BATCH, make
from tests.fastpath.support import FakeTransport, FastPathSide, settle

# One sweep a second.
IDLE_SWEEPS, REQUEST_SWEEPS = 10, 4
BEGINNINGS = {"head": GOOD[:20], "body": GOOD[:-3], "later head": GOOD + GOOD[:9], "later body": GOOD + GOOD[:-1]}
BODY_OF_BATCH = make(b"{" * 100, target="/decrypt/batch")[:-1]


@pytest.fixture
async def side() -> AsyncIterator[FastPathSide]:
    side = FastPathSide(limits=ConnectionLimits(1000, IDLE_SWEEPS, REQUEST_SWEEPS, 2**26))
    yield side
    side.close()
    assert side.failures == []


async def sweep(side: FastPathSide, times: int = 1) -> None:
    for _ in range(times):
        side.connections.sweep()
    await settle()


@pytest.mark.parametrize("before", [b"", GOOD, GOOD * 2], ids=["new", "used", "pipelined"])
async def test_an_idle_connection_is_closed_without_a_word(side: FastPathSide, before: bytes) -> None:
    transport = side.connect()
    if before:
        transport.feed(before)
    await sweep(side, IDLE_SWEEPS)
    assert not transport.is_closing()
    written = len(transport.written)
    await sweep(side)
    assert transport.is_lost
    assert not transport.is_aborted
    assert len(transport.written) == written


async def test_a_busy_connection_is_not_idle(side: FastPathSide) -> None:
    transport = side.connect()
    for _ in range(5):
        await sweep(side, IDLE_SWEEPS)
        transport.feed(GOOD)
    await settle()
    assert transport.statuses == [200] * 5


@pytest.mark.parametrize("beginning", BEGINNINGS.values(), ids=BEGINNINGS)
@pytest.mark.parametrize("is_dribbling", [False, True])
async def test_a_request_that_does_not_arrive_is_answered_408(
    side: FastPathSide, beginning: bytes, *, is_dribbling: bool
) -> None:
    transport = side.connect()
    size = len(beginning) - REQUEST_SWEEPS if is_dribbling else len(beginning)
    transport.feed(beginning[:size])
    for offset in range(REQUEST_SWEEPS):
        await sweep(side)
        if is_dribbling:
            transport.feed(beginning[size + offset : size + offset + 1])
    before = transport.statuses
    assert not transport.is_closing()
    await sweep(side)
    assert transport.statuses == [*before, 408]
    assert b"\r\nConnection: close\r\n" in transport.written[-1]
    assert transport.is_lost
    assert not transport.is_aborted


async def test_the_408_of_a_batch_is_counted_as_such(side: FastPathSide) -> None:
    transport = side.connect()
    transport.feed(BODY_OF_BATCH)
    await sweep(side, REQUEST_SWEEPS + 1)
    assert transport.statuses == [408]
    assert side.metrics.row[side.metrics.http_requests["/decrypt/batch", 408]] == 1


async def test_every_request_has_its_own_time_to_arrive(side: FastPathSide) -> None:
    transport = side.connect()
    for _ in range(5):
        transport.feed(GOOD[:30])
        await sweep(side, REQUEST_SWEEPS - 1)
        transport.feed(GOOD[30:-3])
        await sweep(side)
        transport.feed(GOOD[-3:] + GOOD[:5])
        await sweep(side, REQUEST_SWEEPS)
        transport.feed(GOOD[5:])
        await sweep(side)
    assert transport.statuses == [200] * 10


async def test_behind_a_body_that_came_in_pieces_a_connection_is_idle(side: FastPathSide) -> None:
    transport, other = side.connect(), side.connect()
    for each in (transport, other):
        for piece in (GOOD[:-5], GOOD[-5:-2], GOOD[-2:]):
            each.feed(piece)
    await sweep(side, IDLE_SWEEPS)
    assert not transport.is_closing()
    other.feed(GOOD[:-5])
    other.feed(GOOD[-5:])
    await sweep(side)
    assert transport.is_lost
    assert transport.statuses == [200]
    assert not other.is_closing()
    side.close_idle()
    await settle()
    assert other.is_lost
    assert other.statuses == [200, 200]


async def test_a_batch_under_way_is_not_late(side: FastPathSide) -> None:
    transport = side.connect()
    transport.feed(LARGE_BATCH + GOOD[:5])
    await asyncio.sleep(0)
    for _ in range(IDLE_SWEEPS + REQUEST_SWEEPS):
        side.connections.sweep()
    await settle()
    assert transport.statuses == [200]
    transport.feed(GOOD[5:])
    await settle()
    assert transport.statuses == [200, 200]


@pytest.mark.parametrize("beginning", [b"", GOOD[:5]], ids=["between requests", "inside one"])
async def test_who_reads_nothing_is_aborted_when_idle_for_too_long(side: FastPathSide, beginning: bytes) -> None:
    transport = side.connect()
    transport.is_stuck = True
    transport.feed(GOOD + beginning)
    await settle()
    protocol_of(transport).pause_writing()
    await sweep(side, IDLE_SWEEPS)
    # Nothing is read from it, so it cannot be late with a request.
    assert (transport.statuses, transport.is_closing()) == ([200], False)
    await sweep(side)
    assert transport.is_aborted
    assert transport.statuses == [200]


@pytest.mark.parametrize("beginning", [b"", GOOD[:5]], ids=["between requests", "inside one"])
async def test_a_gentle_close_does_not_wait_for_ever(side: FastPathSide, beginning: bytes) -> None:
    transport = side.connect()
    transport.is_stuck = True
    transport.feed(GOOD + beginning)
    await sweep(side, IDLE_SWEEPS + 1 if not beginning else REQUEST_SWEEPS + 1)
    assert transport.is_closing()
    assert not transport.is_aborted
    statuses = transport.statuses
    await sweep(side)
    assert transport.is_aborted
    assert transport.statuses == statuses
    assert side.metrics.row[side.metrics.http_requests["other", 408]] == bool(beginning)


async def test_what_was_handed_over_is_swept_no_more(side: FastPathSide) -> None:
    transport = side.connect()
    transport.feed(CHUNKED)
    await sweep(side, 10 * IDLE_SWEEPS)
    transport.feed(CHUNKED)
    await settle()
    assert transport.statuses == [200, 200]


async def test_the_fast_path_sweeps_by_itself() -> None:
    side = FastPathSide(limits=ConnectionLimits(1000, 0.02, 0.02, 2**26))
    quiet, late = side.connect(), side.connect()
    late.feed(GOOD[:5])
    async with asyncio.timeout(20):
        await quiet.lost.wait()
        await late.lost.wait()
    assert (quiet.statuses, late.statuses) == ([], [408])
    side.close()


async def test_answers_carry_the_time_of_the_last_renewal(side: FastPathSide, monkeypatch: pytest.MonkeyPatch) -> None:
    transport = side.connect()
    for now_s, date in [(1_700_000_000, b"Tue, 14 Nov 2023 22:13:20 GMT"), (0, b"Thu, 01 Jan 1970 00:00:00 GMT")]:
        with monkeypatch.context() as patch:
            patch.setattr(time, "time", lambda now_s=now_s: now_s)
            side.fast_path.renew()
        transport.feed(GOOD)
        await settle()
        assert b"\r\nDate: %b\r\n" % date in transport.written[-1]


# Draining.


async def test_a_drain_closes_each_connection_behind_its_next_answer(side: FastPathSide) -> None:
    names = {"idle": b"", "head": GOOD[:9], "body": GOOD[:-2], "batch": LARGE_BATCH + GOOD}
    transports = {name: side.connect() for name in names}
    await sweep(side)
    for name, data in names.items():
        if data:
            transports[name].feed(data)
    side.drain()
    await asyncio.sleep(0)
    assert not transports["idle"].is_closing()
    side.close_idle()
    await settle()
    assert {name for name, transport in transports.items() if transport.is_closing()} == {"idle", "batch"}
    transports["head"].feed(GOOD[9:])
    transports["body"].feed(GOOD[-2:] + GOOD)
    await settle()
    for name, transport in transports.items():
        assert transport.is_lost
        assert transport.statuses == ([] if name == "idle" else [200]), name
        assert b"".join(transport.written).count(b"Connection: close\r\n") == len(transport.statuses)


async def test_what_drains_but_does_not_arrive_is_closed_like_any_other(side: FastPathSide) -> None:
    transport = side.connect()
    transport.feed(GOOD[:9])
    side.drain()
    side.close_idle()
    await sweep(side, REQUEST_SWEEPS + 1)
    assert transport.statuses == [408]
    assert transport.is_lost


async def test_at_the_end_all_are_aborted(side: FastPathSide) -> None:
    transports = [side.connect() for _ in range(4)]
    for transport, data in zip(transports, [GOOD, GOOD[:9], LARGE_BATCH, GOOD[:-1]], strict=True):
        transport.feed(data)
    side.close()
    await settle()
    assert all(transport.is_aborted for transport in transports)


def protocol_of(transport: FakeTransport) -> asyncio.Protocol:
    return cast("asyncio.Protocol", transport.get_protocol())
