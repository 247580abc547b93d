"""One connection of the fast path on a fake transport: waiting, handing over, closing."""

import asyncio
import json
from pathlib import Path

import pytest
from structlog.testing import capture_logs

from bidstream_svc.metrics.cells import CONNECTIONS, CONNECTIONS_REFUSED, DECRYPTIONS, RefusalReason
from bidstream_svc.server.auth import BearerToken
from bidstream_svc.server.connections import ConnectionLimits
from bidstream_svc.server.fastpath.connection import FastPathConnection
from bidstream_svc.server.handlers import TOKENS_PER_ITERATION
from tests.fastpath.corpus import BATCH, CHUNKED, GOOD, LARGE_BATCH, STATE, batch, make
from tests.fastpath.support import FakeTransport, FastPathSide, settle, split_answers

BAD_TOKEN = STATE.mint_token(master_key=STATE.make_unlisted_key())
BEGINNINGS = {
    "nothing": b"",
    "head": GOOD[:30],
    "body": GOOD[:-5],
    "batch": LARGE_BATCH,
    "batch and more": LARGE_BATCH + GOOD[:30],
    "chunks": CHUNKED[:-10],
}


def decrypted(side: FastPathSide) -> int:
    return sum(side.metrics.row[cell] for cell in DECRYPTIONS.values())


def is_handed_over(transport: FakeTransport) -> bool:
    return not isinstance(transport.get_protocol(), FastPathConnection)


# Answers.


async def test_answers_come_in_order(side: FastPathSide) -> None:
    first, second = side.connect(), side.connect()
    first.feed(GOOD + make(b"{"))
    second.feed(make(b"["))
    first.feed(GOOD)
    assert (first.statuses, second.statuses) == ([200, 400, 200], [400])


async def test_what_has_come_is_answered_before_the_client_hangs_up(side: FastPathSide) -> None:
    transport = side.connect()
    transport.feed(GOOD)
    protocol = transport.get_protocol()
    assert isinstance(protocol, asyncio.Protocol)
    assert not protocol.eof_received()
    assert transport.statuses == [200]


async def test_a_failure_is_the_answer_to_its_own_request_only(side: FastPathSide) -> None:
    def fail() -> None:
        raise RuntimeError(BAD_TOKEN)

    side.on_unknown_key = fail
    bad, bad_batch = make({"token": BAD_TOKEN}), make({"requests": [{"token": BAD_TOKEN}]}, target="/decrypt/batch")
    large_bad_batch = make({"requests": [{"token": ""}] * 100 + [{"token": BAD_TOKEN}]}, target="/decrypt/batch")
    first, second = side.connect(), side.connect()
    with capture_logs() as log:
        first.feed(GOOD + bad + GOOD + bad_batch + BATCH + large_bad_batch + bad + GOOD)
        second.feed(GOOD + make(b"{") + bad)
        await settle()
    assert first.statuses == [200, 500, 200, 500, 200, 500, 500, 200]
    assert second.statuses == [200, 400, 500]
    assert not is_handed_over(first)
    assert [line["event"] for line in log] == ["request failed"] * 5
    assert side.metrics.row[side.metrics.http_requests["/decrypt", 500]] == 3
    assert side.metrics.row[side.metrics.http_requests["/decrypt/batch", 500]] == 2


# Batches over several turns.


async def test_a_large_batch_takes_turns_and_lets_others_through(side: FastPathSide) -> None:
    large, other = side.connect(), side.connect()
    large.feed(LARGE_BATCH)
    await asyncio.sleep(0)
    assert large.is_reading_paused
    other.feed(GOOD)
    await asyncio.sleep(0)
    assert (large.statuses, other.statuses) == ([], [200])
    await settle()
    assert large.statuses == [200]
    assert not large.is_reading_paused


@pytest.mark.parametrize("large", [LARGE_BATCH, batch(150, "TE: trailers")], ids=["fast path", "aiohttp"])
async def test_of_many_large_batches_one_takes_a_step_in_each_turn(side: FastPathSide, large: bytes) -> None:
    greedy, other = [side.connect() for _ in range(20)], side.connect()
    for transport in greedy:
        transport.feed(large)
    for _ in range(3):
        await asyncio.sleep(0)
    for turn in range(1, 6):
        before = decrypted(side)
        other.feed(GOOD)
        await asyncio.sleep(0)
        await asyncio.sleep(0)
        assert len(other.statuses) == turn
        assert decrypted(side) - before <= 1 + 2 * TOKENS_PER_ITERATION
    await settle()
    assert [transport.statuses for transport in greedy] == [[200]] * 20


async def test_all_that_comes_during_a_batch_waits_in_order(side: FastPathSide) -> None:
    transport = side.connect()
    transport.feed(GOOD + LARGE_BATCH + GOOD + BATCH + make(b"{") + LARGE_BATCH + make(b"") + GOOD[:40])
    await asyncio.sleep(0)
    # Bytes that the transport had read before it was told to pause.
    deliver(transport, GOOD[40:-5])
    deliver(transport, GOOD[-5:] + CHUNKED + GOOD[:7])
    await settle()
    transport.feed(GOOD[7:])
    await settle()
    assert transport.statuses == [200, 200, 200, 200, 400, 200, 400, 200, 200, 200]
    sizes = [len(json.loads(answer.body).get("results", ())) for answer in split_answers(transport.sent)]
    assert sizes == [0, 150, 0, 3, 0, 150, 0, 0, 0, 0]
    assert is_handed_over(transport)


async def test_thousands_of_batches_behind_a_large_one(side: FastPathSide) -> None:
    transport = side.connect()
    transport.feed(LARGE_BATCH + BATCH * 3_000 + GOOD)
    await settle()
    assert transport.statuses == [200] * 3_002


async def test_a_batch_whose_client_is_gone_is_given_up(side: FastPathSide) -> None:
    transport, other = side.connect(), side.connect()
    transport.feed(LARGE_BATCH + GOOD + LARGE_BATCH)
    await asyncio.sleep(0)
    before = side.counted
    transport.lose()
    other.feed(GOOD)
    await settle()
    assert other.statuses == [200]
    assert transport.written == []
    assert side.metrics.row[side.metrics.http_requests["/decrypt/batch", 200]] == 0
    assert side.counted[0] == before[0] + 1


# More requests than one turn answers.

PIPELINED = 1_000


async def test_pipelined_requests_take_turns_and_let_others_through(side: FastPathSide) -> None:
    greedy, other = [side.connect() for _ in range(20)], side.connect()
    for transport in greedy:
        transport.feed(GOOD * PIPELINED)
    await asyncio.sleep(0)
    for turn in range(1, 11):
        before = side.counted[0]
        other.feed(GOOD)
        await asyncio.sleep(0)
        await asyncio.sleep(0)
        assert len(other.statuses) == turn
        assert side.counted[0] - before < 100
    assert all(transport.is_reading_paused for transport in greedy)
    answered = [len(transport.statuses) for transport in greedy]
    assert max(answered) < PIPELINED // 2
    await settle()
    assert [transport.statuses for transport in greedy] == [[200] * PIPELINED] * 20
    assert not any(transport.is_reading_paused for transport in greedy)


async def test_the_first_turn_is_bounded_over_all_connections(side: FastPathSide) -> None:
    for _ in range(200):
        side.connect().feed(GOOD * 50)
    await asyncio.sleep(0)
    assert side.counted[0] < 500
    await settle()
    assert side.counted[0] == 200 * 50


async def test_pipelined_requests_are_answered_in_order_with_what_comes_meanwhile(side: FastPathSide) -> None:
    transport = side.connect()
    many = [GOOD, make(b"{"), BATCH] * 50
    transport.feed(b"".join([*many, LARGE_BATCH, *many, make(b"")]) + GOOD[:9])
    # Bytes that the transport had read before it was told to pause.
    deliver(transport, GOOD[9:])
    deliver(transport, GOOD + CHUNKED + GOOD[:9])
    await settle()
    transport.feed(GOOD[9:])
    await settle()
    assert transport.statuses == [200, 400, 200] * 50 + [200] + [200, 400, 200] * 50 + [400, 200, 200, 200, 200]
    assert is_handed_over(transport)


async def test_pipelined_requests_wait_for_a_client_that_does_not_read(side: FastPathSide) -> None:
    transport = side.connect()
    transport.feed(GOOD * PIPELINED)
    await asyncio.sleep(0)
    pausable(transport).pause_writing()
    await settle()
    assert len(transport.statuses) < 100
    assert side.counted[0] < 100
    pausable(transport).resume_writing()
    await settle()
    assert transport.statuses == [200] * PIPELINED


@pytest.mark.parametrize("has_half_close", [True, False], ids=["TCP", "TLS"])
async def test_pipelined_requests_are_answered_after_the_end_of_the_input(
    side: FastPathSide, monkeypatch: pytest.MonkeyPatch, *, has_half_close: bool
) -> None:
    monkeypatch.setattr(FakeTransport, "can_write_eof", lambda _: has_half_close)
    transport = side.connect()
    transport.feed((GOOD + LARGE_BATCH) * 70)
    protocol = transport.get_protocol()
    assert isinstance(protocol, asyncio.Protocol)
    assert bool(protocol.eof_received()) == has_half_close
    assert has_half_close or len(transport.statuses) == 140
    await settle()
    assert transport.statuses == [200] * 140
    assert not has_half_close or transport.is_lost


async def test_pipelined_requests_end_with_the_first_answer_of_a_drain(side: FastPathSide) -> None:
    transport = side.connect()
    transport.feed(GOOD * PIPELINED)
    await asyncio.sleep(0)
    side.drain()
    side.close_idle()
    await settle()
    assert transport.is_lost
    answers = split_answers(transport.sent)
    assert len(answers) < 100
    assert [b"Connection: close" in answer.headers for answer in answers].index(True) == len(answers) - 1


async def test_pipelined_requests_of_a_client_that_is_gone_are_dropped(side: FastPathSide) -> None:
    transport, other = side.connect(), side.connect()
    transport.feed(GOOD * PIPELINED)
    other.feed(GOOD * PIPELINED)
    await asyncio.sleep(0)
    transport.lose()
    await settle()
    assert side.counted[0] < PIPELINED + 100
    assert other.statuses == [200] * PIPELINED


async def test_pipelined_requests_count_as_buffered_until_they_are_read() -> None:
    side = FastPathSide(limits=ConnectionLimits(1_000, 60, 60, len(GOOD) * PIPELINED))
    old, new = side.connect(), side.connect()
    old.feed(GOOD * 900)
    new.feed(GOOD * 200)
    await settle()
    assert old.statuses == [200] * 900
    assert new.statuses[-1] == 503
    assert new.is_lost
    old.feed(GOOD * 900)  # nothing is counted any more
    await settle()
    assert old.statuses == [200] * 1_800
    side.close()


# Handing over.


@pytest.mark.parametrize("odd", [CHUNKED, make(target="/x"), b"GET / HTTP/1.1\r\nHost: localhost\r\n\r\n", b"x"])
@pytest.mark.parametrize("before", [b"", GOOD, GOOD * 3, LARGE_BATCH, BATCH + LARGE_BATCH + GOOD])
async def test_what_is_odd_is_handed_over_behind_what_is_not(side: FastPathSide, before: bytes, odd: bytes) -> None:
    transport = side.connect()
    transport.feed(before + odd)
    await settle()
    assert is_handed_over(transport)
    transport.feed(GOOD if odd != b"x" else b"x" * 100 + b"\r\n\r\n")
    await settle()
    alone = side.connect()
    alone.feed(before)
    await settle()
    assert transport.statuses[: len(alone.statuses)] == alone.statuses
    assert len(transport.statuses) == len(alone.statuses) + (1 if odd == b"x" else 2)
    for connection in (transport, alone):
        assert side.metrics.row[CONNECTIONS] > 0
        connection.lose()
        await settle()
    assert side.metrics.row[CONNECTIONS] == 0


async def test_a_client_that_does_not_read_is_handed_over_as_such(side: FastPathSide) -> None:
    transport = side.connect()
    pausable(transport).pause_writing()
    assert transport.is_reading_paused
    # What had been read before.
    deliver(transport, GOOD + CHUNKED)
    await settle()
    assert is_handed_over(transport)
    pausable(transport).resume_writing()
    await settle()
    assert transport.statuses == [200, 200]
    assert not transport.is_reading_paused


async def test_who_is_gone_is_not_handed_over(side: FastPathSide) -> None:
    transport = side.connect()
    protocol = transport.get_protocol()
    transport.close()
    deliver(transport, CHUNKED)
    await settle()
    assert transport.get_protocol() is protocol
    deliver(transport, CHUNKED)
    await settle()
    assert transport.written == []


# Clients that do not read.


async def test_nothing_is_read_from_a_client_that_does_not_read(side: FastPathSide) -> None:
    transport = side.connect()
    protocol = pausable(transport)
    protocol.pause_writing()
    transport.feed(GOOD)
    await settle()
    assert transport.statuses == []
    protocol.resume_writing()
    await settle()
    assert transport.statuses == [200]


async def test_the_end_of_a_batch_does_not_resume_reading_from_a_client_that_does_not_read(side: FastPathSide) -> None:
    transport = side.connect()
    transport.feed(LARGE_BATCH)
    await asyncio.sleep(0)
    pausable(transport).pause_writing()
    await settle()
    assert transport.statuses == [200]
    assert transport.is_reading_paused
    pausable(transport).resume_writing()
    assert not transport.is_reading_paused


# Connections that come and go.


async def test_connections_above_the_cap_are_refused() -> None:
    side = FastPathSide(
        limits=ConnectionLimits(max_connections=2, idle_timeout_s=60, request_timeout_s=60, max_buffered_bytes=2**26)
    )
    first, second, third = side.connect(), side.connect(), side.connect()
    await settle()
    third.feed(GOOD)
    first.feed(GOOD)
    await settle()
    assert (first.statuses, third.statuses) == ([200], [503])
    assert (first.is_closing(), third.is_lost) == (False, True)
    assert side.metrics.row[CONNECTIONS] == 2
    assert side.metrics.row[CONNECTIONS_REFUSED[RefusalReason.MAX_CONNECTIONS]] == 1
    second.lose()
    fourth = side.connect()
    fourth.feed(GOOD)
    await settle()
    assert fourth.statuses == [200]
    side.close()
    await settle()
    assert first.is_aborted
    assert side.metrics.row[CONNECTIONS] == 0


@pytest.mark.parametrize("beginning", BEGINNINGS.values(), ids=BEGINNINGS)
@pytest.mark.parametrize("turns", range(4))
async def test_a_client_may_go_away_at_any_moment(side: FastPathSide, beginning: bytes, turns: int) -> None:
    transport, other = side.connect(), side.connect()
    transport.feed(GOOD + beginning)
    for _ in range(turns):
        await asyncio.sleep(0)
    transport.lose()
    other.feed(GOOD)
    await settle()
    assert transport.statuses in ([], [200], [200, 200])
    assert other.statuses == [200]
    assert side.counted_with(500) == 0
    other.lose()
    assert side.metrics.row[CONNECTIONS] == 0
    side.connections.sweep()


# Bearer tokens.


@pytest.mark.parametrize("seen", [0, 1, 30, -1, -5], ids=["nothing", "first byte", "head", "last byte", "body"])
async def test_a_token_that_was_replaced_opens_no_request_that_begins_later(tmp_path: Path, seen: int) -> None:
    path = tmp_path / "bearer"
    path.write_text("first")
    bearer = BearerToken(path)
    side = FastPathSide(bearer)
    old, new = (make(b'{"token":"abcd"}', f"Authorization: Bearer {name}") for name in ("first", "second"))
    transport = side.connect()
    transport.feed(old)
    transport.feed(old[:seen])
    await settle()
    path.write_text("second")
    assert bearer.reload()
    side.fast_path.forget_heads()
    transport.feed(old[seen:])
    for request in (old, new, old):
        transport.feed(request)
        await settle()
    # One whose head has been read may still send its body.
    assert transport.statuses == [200, 200 if seen < 0 else 401, 401, 200, 401]
    side.close()


def deliver(transport: FakeTransport, data: bytes) -> None:
    """As a transport may that had read this before it was told to pause, or to close."""
    protocol = transport.get_protocol()
    assert isinstance(protocol, asyncio.Protocol)
    protocol.data_received(data)


def pausable(transport: FakeTransport) -> asyncio.BaseProtocol:
    return transport.get_protocol()
