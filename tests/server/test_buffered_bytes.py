"""The limit of buffered bytes over all connections, on the fast path and on aiohttp."""

import pytest

from bidstream_svc.metrics.cells import CONNECTIONS_REFUSED, RefusalReason
from bidstream_svc.server.connections import ConnectionLimits
from tests.fastpath.corpus import GOOD, LARGE_BATCH, make
from tests.fastpath.support import FastPathSide, Side, cut, settle, split_answers
from tests.server.test_connections import connection_of

MAX_BUFFERED_BYTES = 1_000
NOWHERE = make(target="/nowhere")
BAD = make(b"{" + b" " * 699)
HEAD_BYTES = BAD.index(b"{")
HALF, OTHER_HALF = BAD[:-100], BAD[-100:]  # one fits the budget, two do not
LONG = f"Content-Length: {100 * MAX_BUFFERED_BYTES}"


@pytest.fixture
def limits() -> ConnectionLimits:
    return ConnectionLimits(1_000, 60, 60, MAX_BUFFERED_BYTES)


def refusals(side: Side) -> int:
    return side.metrics.row[CONNECTIONS_REFUSED[RefusalReason.MEMORY]]


async def test_above_the_budget_the_newest_is_refused_and_the_older_are_answered(fast_path: FastPathSide) -> None:
    old, idle, new = (fast_path.connect() for _ in range(3))
    old.feed(HALF)
    new.feed(HALF)
    await settle()
    (answer,) = split_answers(new.sent)
    assert answer.status == 503
    assert b"Connection: close" in answer.headers
    assert new.is_lost
    assert not new.is_aborted
    assert refusals(fast_path) == 1
    assert fast_path.metrics.row[fast_path.metrics.http_requests["/decrypt", 503]] == 1
    old.feed(OTHER_HALF)
    idle.feed(GOOD)
    await settle()
    assert (old.statuses, idle.statuses) == ([400], [200])
    assert refusals(fast_path) == 1


async def test_the_budget_may_be_used_up(fast_path: FastPathSide) -> None:
    first, second = fast_path.connect(), fast_path.connect()
    first.feed(BAD[: HEAD_BYTES + 600])
    second.feed(BAD[: HEAD_BYTES + 400])
    assert refusals(fast_path) == 0
    second.feed(BAD[HEAD_BYTES + 400 : HEAD_BYTES + 401])
    assert (first.statuses, second.statuses) == ([], [503])


async def test_the_newest_is_refused_whichever_goes_above_the_budget(fast_path: FastPathSide) -> None:
    old, new = fast_path.connect(), fast_path.connect()
    new.feed(HALF)
    old.feed(HALF)
    await settle()
    assert (old.statuses, new.statuses) == ([], [503])
    old.feed(OTHER_HALF)
    await settle()
    assert old.statuses == [400]


async def test_as_many_are_refused_as_it_takes(fast_path: FastPathSide) -> None:
    transports = [fast_path.connect() for _ in range(9)]
    for transport in transports:
        transport.feed(BAD[: HEAD_BYTES + 150])
    await settle()
    assert [transport.statuses for transport in transports] == [[]] * 6 + [[503]] * 3
    transports[0].feed(BAD[HEAD_BYTES + 150 : HEAD_BYTES + 450])
    # At once, and not when the first of them is gone.
    assert [transport.statuses for transport in transports] == [[]] * 4 + [[503]] * 5
    assert refusals(fast_path) == 5


async def test_one_that_holds_more_than_the_budget_by_itself_is_refused(side: Side) -> None:
    transport = side.connect()
    await settle()
    request = make(b"{" + b" " * 2 * MAX_BUFFERED_BYTES)
    for piece in cut(request, range(0, len(request), 600)):
        transport.feed(piece)
        await settle()
    assert transport.is_lost
    assert transport.statuses == [503]
    assert refusals(side) == 1
    assert side.counted_with(400) == 0


async def test_what_is_complete_is_answered_before_a_refusal(fast_path: FastPathSide) -> None:
    old, new, large = (fast_path.connect() for _ in range(3))
    new.feed(GOOD + HALF)
    old.feed(HALF)
    large.feed(GOOD + GOOD + make(b"{" + b" " * MAX_BUFFERED_BYTES)[:-1])
    await settle()
    assert (old.statuses, new.statuses, large.statuses) == ([], [200, 503], [200, 200, 503])


async def test_a_refusal_counts_once_though_more_requests_wait_behind(fast_path: FastPathSide) -> None:
    transport = fast_path.connect()
    transport.feed(LARGE_BATCH + GOOD * 3)
    await settle()
    assert transport.is_aborted
    assert refusals(fast_path) == 1


async def test_what_comes_whole_but_is_too_much_is_not_begun_by_aiohttp(aiohttp: Side) -> None:
    transport = aiohttp.connect()
    await settle()
    transport.feed(make({"token": "abcd", "more": " " * MAX_BUFFERED_BYTES}))
    await settle()
    assert transport.is_lost
    assert transport.statuses == [503]
    assert refusals(aiohttp) == 1
    assert aiohttp.counted_with(200) == 0


async def test_bytes_are_released_with_the_end_of_a_request(side: Side) -> None:
    for _ in range(3):
        transport = side.connect()
        await settle()
        for _ in range(3):
            transport.feed(HALF)
            await settle()
            transport.feed(OTHER_HALF)
            await settle()
        assert transport.statuses == [400] * 3
    assert refusals(side) == 0


async def test_bytes_are_released_with_a_connection(side: Side) -> None:
    for _ in range(5):
        transport = side.connect()
        await settle()
        transport.feed(HALF)
        await settle()
        transport.lose()
        await settle()
    assert refusals(side) == 0


async def test_bytes_are_counted_once_across_a_hand_over(fast_path: FastPathSide) -> None:
    odd = make(b"{" + b" " * 699, "Expect: 100-continue")
    for _ in range(20):
        transport = fast_path.connect()
        for piece in (odd[:50], odd[50:-100], odd[-100:]):
            transport.feed(piece)
            await settle()
        assert transport.statuses == [100, 400]
    assert refusals(fast_path) == 0


@pytest.mark.parametrize(
    "refused", [NOWHERE, make(b"", method="GET", length=None), make(b"{}", "Content-Type: text/plain")]
)
async def test_bytes_of_a_request_whose_body_is_not_read_are_released(aiohttp: Side, refused: bytes) -> None:
    transport = aiohttp.connect()
    for _ in range(50):
        transport.feed(refused)
        await settle()
    assert len(transport.statuses) == 50
    assert refusals(aiohttp) == 0


@pytest.mark.parametrize(
    "head", [make(b"", target="/nowhere", length=LONG), make(b"", "Content-Type: text/plain", length=LONG)]
)
async def test_bytes_of_a_body_that_is_discarded_do_not_count(side: Side, head: bytes) -> None:
    answered, newer = side.connect(), side.connect()
    answered.feed(head)
    newer.feed(HALF)
    await settle()
    assert len(answered.statuses) == 1
    for _ in range(10):
        answered.feed(b"x" * (MAX_BUFFERED_BYTES // 2))
        await settle()
    newer.feed(OTHER_HALF)
    await settle()
    assert newer.statuses == [400]
    assert refusals(side) == 0


async def test_what_follows_a_request_that_is_being_answered_counts(side: Side) -> None:
    transport = side.connect()
    transport.feed(make(b"x", "Upgrade: websocket") + b"".join([GOOD] * 20))
    await settle()
    assert refusals(side) == 1
    assert transport.statuses[-1] == 503
    assert transport.is_lost


async def test_answers_that_are_not_read_count(side: Side) -> None:
    transport, other = side.connect(), side.connect()
    await settle()
    transport.unread_bytes = MAX_BUFFERED_BYTES - 100
    connection_of(transport).pause_writing()
    await settle()
    assert refusals(side) == 0
    other.feed(HALF)
    await settle()
    assert other.statuses == [503]
    transport.unread_bytes = 0
    connection_of(transport).resume_writing()
    other = side.connect()
    other.feed(HALF)
    await settle()
    assert (other.statuses, refusals(side)) == ([], 1)


async def test_answers_that_are_not_read_are_noticed_at_a_sweep(side: Side) -> None:
    transport = side.connect()
    await settle()
    transport.unread_bytes = MAX_BUFFERED_BYTES + 1
    side.connections.sweep()
    await settle()
    assert refusals(side) == 1
    assert transport.is_lost


async def test_a_hand_over_does_not_make_a_connection_newer(fast_path: FastPathSide) -> None:
    old, new = fast_path.connect(), fast_path.connect()
    new.feed(HALF)
    old.feed(make(b"{" + b" " * 699, "Expect: 100-continue")[:-100])
    await settle()
    assert (old.statuses, new.statuses) == ([100], [503])
