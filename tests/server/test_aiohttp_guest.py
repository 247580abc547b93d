"""What is used of aiohttp's private members, one test each: it says which of them no longer means what it did."""

import asyncio
import tomllib
from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path

import pytest
from aiohttp import web
from packaging.requirements import Requirement
from packaging.version import Version
from structlog.testing import capture_logs

from bidstream_svc.metrics import MetricCells
from bidstream_svc.server.aiohttp_guest import AiohttpGuest, GuestServer, guest_of, send_continue
from bidstream_svc.server.answers import Answer
from bidstream_svc.server.connections import ConnectionLimits, Connections
from tests.fastpath.corpus import BODY, GOOD, chunked, make
from tests.fastpath.support import HOSTS, FakeTransport, settle

REPOSITORY = Path(__file__).parents[2]
LIMITS = ConnectionLimits(max_connections=10, idle_timeout_s=60, request_timeout_s=60, max_buffered_bytes=2**26)


class Host:
    """A server that answers with the body of the request, once it may.

    Attributes:
        begun: the requests that `answer` was called with.
        has_more: for each answer, whether further requests were complete.
        may_answer: clear it to hold the answers.
        failures: what the loop was told.
    """

    def __init__(self) -> None:
        self.begun: list[web.BaseRequest] = []
        self.has_more: list[bool] = []
        self.may_answer = asyncio.Event()
        self.may_answer.set()
        self.failures: list[object] = []
        asyncio.get_running_loop().set_exception_handler(lambda _loop, context: self.failures.append(context))
        self.connections = Connections(LIMITS, MetricCells())
        self.server = GuestServer(self.answer, respond, lingering_s=60)

    async def answer(self, request: web.BaseRequest) -> web.StreamResponse:
        self.begun.append(request)
        await self.may_answer.wait()
        self.has_more.append(bool(guest_of(request).connection._rest))
        return web.Response(body=await request.read())

    def connect(self) -> tuple[AiohttpGuest, FakeTransport]:
        connection = self.server.connect(self.connections, HOSTS)
        assert self.connections.admit(connection)
        assert isinstance(connection.guest, AiohttpGuest)
        return connection.guest, FakeTransport(connection)


def respond(answer: Answer) -> web.Response:
    return web.Response(status=answer[0], body=answer[1])


@pytest.fixture
async def host() -> AsyncIterator[Host]:
    host = Host()
    yield host
    host.connections.close()
    await settle()
    assert host.failures == []


def test_aiohttp_is_capped_below_the_next_minor_version() -> None:
    project = tomllib.loads((REPOSITORY / "pyproject.toml").read_text())["project"]
    (wanted,) = [line for line in map(Requirement, project["dependencies"]) if line.name == "aiohttp"]
    locks = [path.read_text().splitlines() for path in (REPOSITORY / "requirements").glob("*.txt")]
    locked = {
        Version(line.split()[0].partition("==")[2]) for lines in locks for line in lines if line[:9] == "aiohttp=="
    }
    (version,) = locked
    assert version in wanted.specifier
    for newer in (f"{version.major}.{version.minor + 1}", f"{version.major}.{version.minor + 1}.0b1"):
        assert not wanted.specifier.contains(newer, prereleases=True), "private members are used: see aiohttp_guest"
    assert wanted.specifier.contains(f"{version.major}.{version.minor}.999"), "a patch must be able to come in"


async def test_loop_of_a_server(host: Host) -> None:
    guest, transport = host.connect()
    assert host.server._loop is asyncio.get_running_loop(), "web.Server._loop is not the loop that it was made in"
    assert guest._loop is host.server._loop, "RequestHandler does not run in the loop that it was made with"
    transport.feed(GOOD)
    await settle()
    assert transport.statuses == [200]


async def test_kwargs_of_a_server(host: Host) -> None:
    message = "web.Server._kwargs no longer holds what its RequestHandlers are made with: {} is ignored"
    for name, request in {
        "max_headers": chunked(*[f"X-{number}: x" for number in range(60)], end=b"0\r\n" + b"X: x\r\n" * 60 + b"\r\n"),
        "max_field_size": make(BODY, "X: " + "x" * 16_000),
        "max_line_size": make(BODY, target="/" + "x" * 16_000),
    }.items():
        _, transport = host.connect()
        transport.feed(request)
        await settle()
        assert transport.statuses == [200], message.format(name)
    _, transport = host.connect()
    transport.feed(make(b"not gzip", "Content-Encoding: gzip"))
    await settle()
    assert transport.sent.endswith(b"\r\n\r\nnot gzip"), message.format("auto_decompress")
    guest, _ = host.connect()
    assert guest.keepalive_timeout == 1e6, message.format("keepalive_timeout")


async def test_messages_of_a_handler(host: Host) -> None:
    _, transport = host.connect()
    host.may_answer.clear()
    transport.feed(GOOD * 3)
    await settle()
    assert len(host.begun) == 1
    host.may_answer.set()
    await settle()
    assert transport.statuses == [200] * 3
    assert host.has_more == [True, True, False], "RequestHandler._messages is not the queue of complete requests"


async def test_messages_of_a_handler_before_the_first_is_begun(host: Host) -> None:
    guest, transport = host.connect()
    await settle()
    transport.feed(GOOD)
    assert guest.has_parsed, "RequestHandler._messages does not hold a request that is complete and not begun"


async def test_current_request_of_a_handler(host: Host) -> None:
    guest, transport = host.connect()
    host.may_answer.clear()
    transport.feed(GOOD)
    await settle()
    assert guest._current_request is host.begun[0], "RequestHandler._current_request is not the one being answered"
    transport.lose()
    host.may_answer.set()
    await settle()
    assert host.has_more == [False], "RequestHandler._current_request is None while a request is being answered"


async def test_task_of_a_handler(host: Host) -> None:
    guest, transport = host.connect()
    await settle()
    task = guest._task_handler
    assert isinstance(task, asyncio.Task), "RequestHandler._task_handler is not the task that begins requests"
    transport.feed(GOOD)
    transport.lose()
    await settle()
    assert host.begun == [], "RequestHandler._task_handler does not begin the requests: one was begun after its end"
    assert task.cancelled()


@pytest.mark.parametrize("turns", range(4))
async def test_requests_that_are_answered_without_waiting(host: Host, turns: int) -> None:
    """At the end of TLS, which cannot be half-closed: as FakeTransport."""
    guest, transport = host.connect()
    for _ in range(turns):
        await asyncio.sleep(0)
    transport.feed(GOOD + make(BODY, "Connection: Upgrade", "Upgrade: h2c") + GOOD)
    assert guest.connection.eof_received() is False
    assert transport.statuses == [200] * 3, "RequestHandler._handle_request does not answer a request"
    transport.close()
    await settle()
    assert len(host.begun) == 3
    assert guest._waiter is None, "RequestHandler._waiter is not what a cancelled task waited for"


async def test_a_malformed_request_that_is_answered_without_waiting(host: Host) -> None:
    guest, transport = host.connect()
    transport.feed(GOOD + b"garbage\r\n\r\n" + GOOD)
    assert guest.connection.eof_received() is False
    assert transport.statuses == [200, 400]


async def test_a_request_that_waits_is_given_up_at_the_end_of_tls(host: Host) -> None:
    guest, transport = host.connect()
    host.may_answer.clear()
    transport.feed(GOOD)
    assert guest.connection.eof_received() is False
    transport.close()
    await settle()
    assert transport.statuses == []


async def test_size_of_an_answer_that_has_not_begun() -> None:
    """After an interim answer there is room for an error."""

    async def fail(request: web.BaseRequest) -> web.StreamResponse:
        await send_continue(request)
        raise RuntimeError

    transport = connect(fail)
    with capture_logs():
        transport.feed(make(BODY, "Expect: 100-continue"))
        await settle()
    assert transport.statuses == [100, 500], "request.writer.output_size counts an interim answer as a begun one"


async def test_size_of_an_answer_that_has_begun() -> None:
    """Behind a part of an answer there is none for another."""

    async def fail(request: web.BaseRequest) -> web.StreamResponse:
        response = web.StreamResponse(headers={"Content-Length": "100"})
        await response.prepare(request)
        await response.write(b"a part")
        raise RuntimeError

    transport = connect(fail)
    with capture_logs():
        transport.feed(GOOD)
        await settle()
    assert transport.sent.count(b"HTTP/1.1 ") == 1, "request.writer.output_size is 0 although an answer has begun"
    assert transport.sent.endswith(b"a part")
    assert transport.is_lost


def connect(answer: Callable[[web.BaseRequest], Awaitable[web.StreamResponse]]) -> FakeTransport:
    """A connection of a server that answers so."""
    connections = Connections(LIMITS, MetricCells())
    connection = GuestServer(answer, respond, lingering_s=60).connect(connections, HOSTS)
    assert connections.admit(connection)
    return FakeTransport(connection)
