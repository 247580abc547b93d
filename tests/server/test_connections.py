"""Limits of connections: phases and deadlines by sweeps, and the budget of bytes; on the fast path and on aiohttp."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import ExitStack
from typing import cast

import pytest

from bidstream_svc.devoperator import DevOperator
from bidstream_svc.metrics.cells import ADMIN_CONNECTIONS, CONNECTIONS, CONNECTIONS_REFUSED, RefusalReason
from bidstream_svc.server.connections import Connection, ConnectionLimits, Phase
from tests.fastpath.corpus import CHUNKED, GOOD, LARGE_BATCH, make
from tests.fastpath.support import HOSTS, FakeTransport, FastPathSide, Side, cut, settle, split_answers
from tests.support.metrics_page import scrape
from tests.support.raw_http import Connection as Client
from tests.support.raw_http import make_request
from tests.support.sidecar import RunningService, operator_settings, service_in_thread, wait_until

# One sweep a second.
IDLE_SWEEPS, REQUEST_SWEEPS = 10, 4
MAX_BUFFERED_BYTES = 1_000
LIMITS = ConnectionLimits(1_000, IDLE_SWEEPS, REQUEST_SWEEPS, MAX_BUFFERED_BYTES)
NOWHERE = make(target="/nowhere")
BAD = make(b"{" + b" " * 699)
HEAD_BYTES = BAD.index(b"{")
HALF, OTHER_HALF = BAD[:-100], BAD[-100:]  # one fits the budget, two do not


@pytest.fixture(params=[FastPathSide, Side], ids=["fast path", "aiohttp"])
async def side(request: pytest.FixtureRequest) -> AsyncIterator[Side]:
    side = request.param(limits=LIMITS)
    yield side
    side.close()
    await settle()
    assert side.failures == []
    assert side.metrics.row[CONNECTIONS] == 0


@pytest.fixture
async def aiohttp() -> AsyncIterator[Side]:
    side = Side(limits=LIMITS)
    yield side
    side.close()
    assert side.failures == []


@pytest.fixture
async def fast_path() -> AsyncIterator[FastPathSide]:
    side = FastPathSide(limits=LIMITS)
    yield side
    side.close()
    assert side.failures == []


async def sweep(side: Side, times: int = 1) -> None:
    for _ in range(times):
        side.connections.sweep()
        await settle()


def connection_of(transport: FakeTransport) -> Connection:
    return cast("Connection", transport.get_protocol())


def refusals(side: Side, reason: RefusalReason) -> int:
    return side.metrics.row[CONNECTIONS_REFUSED[reason]]


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
async def test_a_head_that_does_not_end_is_closed_without_an_answer_by_aiohttp(aiohttp: Side, before: bytes) -> None:
    transport = aiohttp.connect()
    if before:
        transport.feed(before)
        await settle()
    written = list(transport.written)
    transport.feed(GOOD[:10])
    for offset in range(10, 10 + REQUEST_SWEEPS):
        await sweep(aiohttp)
        transport.feed(GOOD[offset : offset + 1])
    assert not transport.is_closing()
    await sweep(aiohttp)
    assert transport.is_lost
    assert not transport.is_aborted
    assert transport.written == written


async def test_a_head_behind_one_that_was_handed_over_has_the_same_deadline(fast_path: FastPathSide) -> None:
    transport = fast_path.connect()
    transport.feed(CHUNKED)
    await settle()
    transport.feed(CHUNKED[:10])
    await sweep(fast_path, REQUEST_SWEEPS)
    assert not transport.is_closing()
    await sweep(fast_path)
    assert transport.is_lost
    assert transport.statuses == [200]


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


# Drain.

UNDER_WAY = {"head": (b"", 20), "body": (b"", -3), "later head": (GOOD, 20), "later body": (GOOD, -3)}


@pytest.mark.parametrize("before", [b"", GOOD, CHUNKED, NOWHERE], ids=["new", "plain", "chunked", "nowhere"])
async def test_a_drain_closes_a_connection_between_two_requests(side: Side, before: bytes) -> None:
    transport = side.connect()
    await settle()
    if before:
        transport.feed(before)
        await settle()
    side.drain()
    side.close_idle()
    await settle()
    assert transport.is_lost


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


# The budget of bytes.


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
    assert refusals(fast_path, RefusalReason.MEMORY) == 1
    assert fast_path.metrics.row[fast_path.metrics.http_requests["/decrypt", 503]] == 1
    old.feed(OTHER_HALF)
    idle.feed(GOOD)
    await settle()
    assert (old.statuses, idle.statuses) == ([400], [200])
    assert refusals(fast_path, RefusalReason.MEMORY) == 1


async def test_the_budget_may_be_used_up(fast_path: FastPathSide) -> None:
    first, second = fast_path.connect(), fast_path.connect()
    first.feed(BAD[: HEAD_BYTES + 600])
    second.feed(BAD[: HEAD_BYTES + 400])
    assert refusals(fast_path, RefusalReason.MEMORY) == 0
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
    assert refusals(fast_path, RefusalReason.MEMORY) == 5


async def test_one_that_holds_more_than_the_budget_by_itself_is_refused(side: Side) -> None:
    transport = side.connect()
    await settle()
    request = make(b"{" + b" " * 2 * MAX_BUFFERED_BYTES)
    for piece in cut(request, range(0, len(request), 600)):
        transport.feed(piece)
        await settle()
    assert transport.is_lost
    assert transport.statuses == ([503] if isinstance(side, FastPathSide) else [])
    assert refusals(side, RefusalReason.MEMORY) == 1
    assert side.counted_with(400) == 0


async def test_what_is_complete_is_answered_before_a_refusal(fast_path: FastPathSide) -> None:
    old, new, large = (fast_path.connect() for _ in range(3))
    new.feed(GOOD + HALF)
    old.feed(HALF)
    large.feed(GOOD + GOOD + make(b"{" + b" " * MAX_BUFFERED_BYTES)[:-1])
    await settle()
    assert (old.statuses, new.statuses, large.statuses) == ([], [200, 503], [200, 200, 503])


async def test_what_comes_whole_but_is_too_much_is_not_begun_by_aiohttp(aiohttp: Side) -> None:
    transport = aiohttp.connect()
    await settle()
    transport.feed(make({"token": "abcd", "more": " " * MAX_BUFFERED_BYTES}))
    await settle()
    assert transport.is_lost
    assert transport.statuses == []
    assert refusals(aiohttp, RefusalReason.MEMORY) == 1
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
    assert refusals(side, RefusalReason.MEMORY) == 0


async def test_bytes_are_released_with_a_connection(side: Side) -> None:
    for _ in range(5):
        transport = side.connect()
        await settle()
        transport.feed(HALF)
        await settle()
        transport.lose()
        await settle()
    assert refusals(side, RefusalReason.MEMORY) == 0


async def test_bytes_are_counted_once_across_a_hand_over(fast_path: FastPathSide) -> None:
    odd = make(b"{" + b" " * 699, "Expect: 100-continue")
    for _ in range(20):
        transport = fast_path.connect()
        for piece in (odd[:50], odd[50:-100], odd[-100:]):
            transport.feed(piece)
            await settle()
        assert transport.statuses == [100, 400]
    assert refusals(fast_path, RefusalReason.MEMORY) == 0


@pytest.mark.parametrize(
    "refused", [NOWHERE, make(b"", method="GET", length=None), make(b"{}", "Content-Type: text/plain")]
)
async def test_bytes_of_a_request_whose_body_is_not_read_are_released(aiohttp: Side, refused: bytes) -> None:
    transport = aiohttp.connect()
    for _ in range(50):
        transport.feed(refused)
        await settle()
    assert len(transport.statuses) == 50
    assert refusals(aiohttp, RefusalReason.MEMORY) == 0


# The admin plane, on sockets.


def admin_connections(service: RunningService) -> int:
    return service.service._metrics.row[ADMIN_CONNECTIONS]


@pytest.fixture
def has_fast_path() -> bool:
    return True


def test_an_idle_connection_of_the_admin_plane_is_closed(operator: DevOperator) -> None:
    with (
        service_in_thread(idle_timeout=0.1, **operator_settings(operator)) as service,
        Client(service.admin) as new,
        Client(service.admin) as used,
    ):
        assert used.ask("/livez", method="GET").status == 200
        for client in (new, used):
            assert client.is_closed_by_peer()
        wait_until(lambda: admin_connections(service) == 0, "the end of both")


@pytest.mark.parametrize("beginning", [b"GET /li", b"GET /livez HTTP/1.1\r\nHost: localhost\r\nX: "])
def test_a_head_that_does_not_end_is_closed_by_the_admin_plane(operator: DevOperator, beginning: bytes) -> None:
    with (
        service_in_thread(request_timeout=0.1, **operator_settings(operator)) as service,
        Client(service.admin) as client,
    ):
        client.send(beginning)
        assert client.is_closed_by_peer()


def test_a_body_that_does_not_end_is_closed_by_the_admin_plane(operator: DevOperator) -> None:
    with (
        service_in_thread(request_timeout=0.1, **operator_settings(operator)) as service,
        Client(service.admin) as client,
    ):
        client.send(make_request("/livez", method="GET", headers={"Content-Length": "9"}) + b"half")
        assert client.receive().status == 200
        assert client.is_closed_by_peer()


def test_a_client_of_the_admin_plane_that_does_not_read_is_aborted(operator: DevOperator) -> None:
    with service_in_thread(idle_timeout=0.1, **operator_settings(operator)) as service, Client(service.admin) as client:
        with pytest.raises(ConnectionError):
            send_for_ever(client)
        wait_until(lambda: admin_connections(service) == 0, "the connection to be aborted")


def send_for_ever(client: Client) -> None:
    while True:
        client.send(make_request("/openapi.yaml", method="GET"))


def test_the_admin_plane_has_room_for_256_connections(operator: DevOperator) -> None:
    with service_in_thread(**operator_settings(operator)) as service:
        with ExitStack() as stack:
            clients = [stack.enter_context(Client(service.admin)) for _ in range(256)]
            wait_until(lambda: admin_connections(service) == 256, "the connections")
            with Client(service.admin) as refused:
                assert refused.ask("/livez", method="GET").status == 503
                assert refused.is_closed_by_peer()
            assert clients[0].ask("/livez", method="GET").status == 200
            # It has nothing to do with the data plane.
            assert service.decrypt("abcd")["status"] == "VERSION_NOT_SUPPORTED"
        wait_until(lambda: admin_connections(service) == 0, "the end of all")
        page = scrape(service.admin)
        assert page.value("bidstream_connections_refused_total", reason="max_connections") == 1
        assert page.value("bidstream_connections") == 0
