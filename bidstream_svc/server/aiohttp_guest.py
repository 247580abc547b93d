"""aiohttp as the guest protocol of an `AiohttpConnection`, and every use of aiohttp's private members.

Private members may change in any minor version. So pyproject.toml caps aiohttp below the next one, and
tests/server/test_aiohttp_guest.py has a test for each member that is used:

    member                            meaning
    web.Server._loop, _kwargs         the arguments for a new RequestHandler
    RequestHandler._messages          requests that are parsed but not started
    RequestHandler._current_request   the request that is being answered
    RequestHandler._task_handler      the task that handles the requests one after another
    RequestHandler._waiter            what that task waits for
    RequestHandler._handle_request    calls the function that answers a request, and sends the response
    request.writer.output_size        0 until a response has begun; interim responses must not count
"""

from collections.abc import Awaitable, Callable, Coroutine
from contextlib import suppress
from typing import Any, TypeVar

from aiohttp import HttpVersion11, web
from aiohttp.http import StreamWriter
from aiohttp.http_parser import RawRequestMessage
from aiohttp.streams import StreamReader

from bidstream_svc.logs import get_logger
from bidstream_svc.server.aiohttp_connection import AiohttpConnection, FindSuccessor
from bidstream_svc.server.answers import INTERNAL_ERROR, MALFORMED_HTTP, Answer
from bidstream_svc.server.connections import Connections
from bidstream_svc.server.framing import MAX_HEAD_BYTES, MAX_HEADERS
from bidstream_svc.server.hosts import HostCheck

_log = get_logger(__name__)
_T = TypeVar("_T")

# Set in every response; aiohttp's default names its own version and Python's.
SERVER = {"Server": "bidstream-svc"}

_INTERNAL_ERROR_STATUS = 500
# Disables aiohttp's deadline for idle connections; `connections` enforces its own.
_NEVER_S = 1e6


class TooManyChunks(web.RequestPayloadError):
    """The chunks of a body are too many for its length."""


class GuestServer(web.Server):
    """A factory of connections whose requests a function answers.

    Args:
        answer: returns the response to a request.
        respond: returns the response for a request that could not be parsed or for which `answer` failed.
        lingering_s: for how long, in seconds, the rest of an unread body is discarded before the connection is closed.
        count_refusal: called with the path (None if unknown) and the answer for each request that is refused before all
            of it has been received.
    """

    def __init__(
        self,
        answer: Callable[[web.BaseRequest], Awaitable[web.StreamResponse]],
        respond: Callable[[Answer], web.Response],
        *,
        lingering_s: float,
        count_refusal: Callable[[str | None, Answer], None] = lambda _path, _answer: None,
    ) -> None:
        super().__init__(
            answer,
            keepalive_timeout=_NEVER_S,
            lingering_time=lingering_s,
            max_line_size=MAX_HEAD_BYTES,
            max_field_size=MAX_HEAD_BYTES,
            max_headers=2 * MAX_HEADERS,  # it adds those of a trailer to those of the head
            # A compressed body is refused: its size after decompression has no limit.
            auto_decompress=False,
            access_log=None,
        )
        self.respond = respond
        self.count_refusal = count_refusal

    def connect(
        self, connections: Connections, hosts: HostCheck, find_successor: FindSuccessor | None = None
    ) -> AiohttpConnection:
        """Return a protocol for a new connection; see `AiohttpConnection` for the arguments."""
        guest = AiohttpGuest(self, loop=self._loop, **self._kwargs)
        connection = guest.connection = AiohttpConnection(connections, guest, hosts, find_successor)
        return connection


class AiohttpGuest(web.RequestHandler):
    """aiohttp's protocol for one connection, with errors as JSON.

    Attributes:
        connection: the connection that hosts it.
        is_urgent: whether the request has to be answered without waiting for anything.
    """

    __slots__ = ("_body", "_head", "_server", "connection", "is_urgent")

    connection: AiohttpConnection

    def __init__(self, server: GuestServer, **kwargs: Any) -> None:
        super().__init__(server, **kwargs)
        self._server = server
        self._head: RawRequestMessage | None = None  # of the request that is not answered
        self._body: StreamReader | None = None  # of the last request
        self.is_urgent = False

    @property
    def has_parsed(self) -> bool:
        """Whether a request or an error has been parsed, and is not started."""
        return bool(self._messages)

    @property
    def is_between(self) -> bool:
        """Whether all that was passed on has been parsed, as whole requests."""
        return not self._messages and (self._body is None or self._body.is_eof())

    def begin_body(self) -> RawRequestMessage | None:
        """Return the head that has just been parsed; None if it is incomplete or malformed."""
        if self._messages:
            head, self._body = self._messages[-1]
            self._head = head if isinstance(head, RawRequestMessage) else None
        return self._head

    def data_received(self, data: bytes) -> None:
        """Parse bytes. An error in a body ends the body; aiohttp itself would let its reader wait."""
        parsed = len(self._messages)
        super().data_received(data)
        if len(self._messages) > parsed:
            self.end_body(None if self._head is None else web.RequestPayloadError())

    def resume_reading(self, resume_parser: bool = True) -> None:  # noqa: FBT001, FBT002 - aiohttp's parameter
        """Do what aiohttp does whenever it has read a part of a body, but do not let further requests pile up."""
        super().resume_reading(resume_parser)
        self.connection.pause_behind_request()

    def answer_now(self) -> bool:
        """Answer the request that has been parsed and is not started, without waiting for anything.

        Returns whether it was answered and the connection may have further requests. From now on, none is answered in
        the usual way.
        """
        if not self._messages or self._task_handler is None:
            return False
        head, body = self._messages.popleft()
        self._task_handler.cancel()
        self._waiter = None
        self.is_urgent = True
        if not isinstance(head, RawRequestMessage):
            self.connection.answer_malformed()
            return False
        writer = StreamWriter(self, self._loop)
        request = web.BaseRequest(head, body, self, writer, self._task_handler, self._loop)
        finished = _run_to_end(self._handle_request(request, None, self._server.request_handler))
        return finished is not None and bool(finished[0].keep_alive)

    async def finish_response(
        self, request: web.BaseRequest, resp: web.StreamResponse, start_time: float | None
    ) -> tuple[web.StreamResponse, bool]:
        """Send the response to a request, and tell the connection that it is answered."""
        finished = await super().finish_response(request, resp, start_time)
        self._head = None
        if resp.keep_alive:
            self.connection.request_is_answered()
        return finished

    def end_body(self, error: web.RequestPayloadError | None) -> None:
        """Await no more of the last request's body. Its reader fails with `error`; None for a discarded body."""
        if self._body is not None and not self._body.is_eof():
            if error is not None:
                self._body.set_exception(error)
            self._body.feed_eof()

    def refuse_chunks(self) -> None:
        """End the body, because its chunks are too many for its length; its reader fails with `TooManyChunks`."""
        self.end_body(TooManyChunks())

    def connection_lost(self, exc: BaseException | None) -> None:
        """Close the connection, drop the requests that have not been started and what is left of a body."""
        task = self._task_handler if self._current_request is None else None
        self.drop_body()
        super().connection_lost(exc)
        # The task would otherwise start the next request and fail, because the transport is gone.
        if task is not None:
            task.cancel()

    def leave(self) -> None:
        """End as if the connection were lost, but leave the transport open. All requests must be answered."""
        self.transport = None  # aiohttp would close it
        self.connection_lost(None)

    def drop_body(self) -> None:
        """Free what is received of the last body and not read. It would be kept until the next garbage collection."""
        if self._body is not None and self._body.exception() is None:
            with suppress(RuntimeError):  # its reader waits, so there is nothing to free
                self._body.read_nowait()

    def count_refusal(self, answer: Answer) -> None:
        """Count the request that is being received as refused."""
        head = self._head
        self._server.count_refusal(None if head is None else head.url.path, answer)

    def handle_error(
        self,
        request: web.BaseRequest,
        status: int = _INTERNAL_ERROR_STATUS,
        exc: BaseException | None = None,
        message: str | None = None,  # noqa: ARG002 - aiohttp's parameter; it quotes what the client sent
    ) -> web.StreamResponse:
        """Answer a request that aiohttp could not parse, or whose handler raised an exception."""
        if isinstance(exc, ConnectionError):
            raise exc  # the client closed the connection: not an error of the service
        if status == _INTERNAL_ERROR_STATUS:
            _log.error("request failed", exc_info=exc)
        if request.writer.output_size > 0:
            raise ConnectionError("the response had begun")
        response = self._server.respond(INTERNAL_ERROR if status == _INTERNAL_ERROR_STATUS else MALFORMED_HTTP)
        response.force_close()
        return response


def _run_to_end(coroutine: Coroutine[Any, None, _T]) -> _T | None:
    """Run a coroutine that only lets other tasks run in between; None if it waits for something."""
    try:
        while coroutine.send(None) is None:
            pass
    except StopIteration as end:
        result: _T = end.value
        return result
    coroutine.close()
    return None


def guest_of(request: web.BaseRequest) -> AiohttpGuest:
    """Return the protocol that received a request."""
    guest = request.protocol
    assert isinstance(guest, AiohttpGuest)
    return guest


async def send_continue(request: web.BaseRequest) -> None:
    """Send the interim response 100 if the client sent `Expect: 100-continue`."""
    if "Expect" in request.headers and request.version >= HttpVersion11:
        await request.writer.write(b"HTTP/1.1 100 Continue\r\n\r\n")
        # aiohttp counts it as the start of the response.
        request.writer.output_size = 0
