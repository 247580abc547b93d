"""aiohttp as the guest protocol of a connection, and every use of aiohttp's private members.

aiohttp gets one request at a time. So every request is answered before the next one is parsed, whatever follows it.

Private members may change in any minor version. So pyproject.toml caps aiohttp below the next one, and
tests/server/test_aiohttp_guest.py has a test for each member that is used:

    member                            meaning
    web.Server._loop, _kwargs         the arguments for a new RequestHandler
    RequestHandler._messages          requests that are parsed but not started
    RequestHandler._current_request   the request that is being answered
    RequestHandler._task_handler      the task that handles the requests one after another
    request.writer.output_size        0 until a response has begun; interim responses must not count
"""

import asyncio
from collections.abc import Awaitable, Callable
from typing import Any

from aiohttp import HttpVersion11, web
from aiohttp.http_parser import RawRequestMessage
from aiohttp.streams import StreamReader

from bidstream_svc.logs import get_logger
from bidstream_svc.server.answers import (
    HEAD_TOO_LARGE,
    INTERNAL_ERROR,
    MALFORMED_HTTP,
    OVERLOADED,
    REQUEST_TIMEOUT,
    Answer,
)
from bidstream_svc.server.connections import Connection, Connections, Phase
from bidstream_svc.server.framing import (
    BETWEEN,
    HEAD,
    MAX_HEAD_BYTES,
    MAX_HEADERS,
    UNKNOWN,
    HeadTooLargeError,
    RequestFramer,
    TooManyChunksError,
)
from bidstream_svc.server.hosts import HostCheck
from bidstream_svc.server.response_writer import closing_response

_log = get_logger(__name__)

# Set in every response; aiohttp's default names its own version and Python's.
SERVER = {"Server": "bidstream-svc"}

_INTERNAL_ERROR_STATUS = 500
_BEFORE_BODY = frozenset({BETWEEN, HEAD, UNKNOWN})
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

    def connect(self, connections: Connections, hosts: HostCheck) -> "AiohttpConnection":
        """Return a protocol for a new connection; `hosts` checks its `Host` headers."""
        guest = AiohttpGuest(self, loop=self._loop, **self._kwargs)
        connection = guest.connection = AiohttpConnection(connections, guest, hosts)
        return connection


class AiohttpGuest(web.RequestHandler):
    """aiohttp's protocol for one connection, with errors as JSON.

    Attributes:
        connection: the connection that hosts it.
    """

    __slots__ = ("_body", "_head", "_server", "connection")

    connection: "AiohttpConnection"

    def __init__(self, server: GuestServer, **kwargs: Any) -> None:
        super().__init__(server, **kwargs)
        self._server = server
        self._head: RawRequestMessage | None = None  # of the request that is not answered
        self._body: StreamReader | None = None  # of the last request

    @property
    def has_parsed(self) -> bool:
        """Whether a request or an error has been parsed, and is not started."""
        return bool(self._messages)

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

    def connection_lost(self, exc: BaseException | None) -> None:
        """Close the connection and drop the requests that have not been started."""
        task = self._task_handler if self._current_request is None else None
        super().connection_lost(exc)
        # The task would otherwise start the next request and fail, because the transport is gone.
        if task is not None:
            task.cancel()

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


class AiohttpConnection(Connection):
    """A connection whose requests aiohttp answers.

    A request that follows one that is not answered yet is held back, and reading is paused. So the end of the input,
    if the client half-closes the connection, is noticed only when all its requests are answered.

    Args:
        guest: aiohttp's protocol; it writes to the transport itself.
        hosts: checks the `Host` header of its requests.
    """

    __slots__ = (
        "_framer",
        "_has_eof",
        "_input_ends",
        "_is_answering",
        "_is_discarding",
        "_last_answer",
        "_rest",
        "_start",
        "guest",
        "hosts",
    )

    def __init__(self, connections: Connections, guest: AiohttpGuest, hosts: HostCheck) -> None:
        super().__init__(connections)
        self.guest = guest
        self.hosts = hosts
        self._framer = RequestFramer()
        self._is_answering = False  # a head has been passed on, and its request is not answered
        self._is_discarding = False  # what is received is not passed on any more
        self._input_ends = asyncio.Event()
        self._rest = b""  # what has been received and, from `_start` on, not passed on
        self._start = 0
        self._has_eof = False
        self._last_answer: Answer | None = None  # to be sent instead of reading further requests

    # Called by the transport.

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Connect aiohttp to the transport."""
        super().connection_made(transport)
        self.guest.connection_made(transport)
        # With a limit of 0, any unsent byte pauses writing, so that the deadline of UNREAD applies. Not with TLS: there
        # uvloop never resumes writing if the limit is 0.
        if self.transport is not None and not self.is_tls:
            self.transport.set_write_buffer_limits(high=0)

    def connection_lost(self, exc: Exception | None) -> None:
        """Pass the event to aiohttp, and remove the connection from the open ones."""
        self._input_ends.set()
        if self.transport is not None:
            self.guest.connection_lost(exc)
        self._rest = b""
        super().connection_lost(exc)

    def data_received(self, data: bytes) -> None:
        """Pass bytes to aiohttp up to the end of a request. They count as held until the request is answered."""
        if self._is_discarding:
            return
        self._rest, self._start = self._rest[self._start :] + data, 0
        if self._is_answering or self._framer.state in _BEFORE_BODY:  # otherwise aiohttp discards the body
            self.hold_input(self.input_bytes + len(data))
        self._pass_on()

    def eof_received(self) -> bool:
        """Return True, which keeps the connection open for answering, if a complete request is not answered yet."""
        self._has_eof = True
        self._input_ends.set()
        is_pending = self._is_answering and self._framer.state in {BETWEEN, UNKNOWN}
        # uvloop closes a connection with TLS in any case.
        return is_pending and self.transport is not None and self.transport.can_write_eof()

    def pause_writing(self) -> None:
        """Record that the write buffer is full, and pass the event to aiohttp."""
        super().pause_writing()
        self.guest.pause_writing()

    def resume_writing(self) -> None:
        """Record that the write buffer has been emptied, and pass the event to aiohttp."""
        super().resume_writing()
        self.guest.resume_writing()

    # Called by the guest and by the code that answers.

    @property
    def has_more_requests(self) -> bool:
        """Whether bytes of further requests have been received."""
        return self._start < len(self._rest)

    def request_is_answered(self) -> None:
        """Go on with the next request, after the rest of this loop iteration."""
        asyncio.get_running_loop().call_soon(self._continue)

    async def wait_input_ends(self) -> None:
        """Wait until the client sends nothing more."""
        await self._input_ends.wait()

    # Called by Connections.

    def request_phase(self) -> Phase:
        """See Connection. The deadline of a body is enforced by the code that reads or discards it."""
        state = self._framer.state
        if not self._is_answering and state in {HEAD, UNKNOWN}:
            return Phase.REQUEST
        return Phase.IDLE if not self._is_answering and state is BETWEEN else Phase.RESPONSE

    def time_out(self, phase: Phase) -> None:
        """Close the connection; an incomplete request is answered with 408 first."""
        if phase is Phase.REQUEST:
            self._answer_last(REQUEST_TIMEOUT)
        super().time_out(phase)

    def refuse(self) -> None:
        """Answer 503 and close the connection, because the buffered bytes exceed their limit."""
        if self.is_writing_paused:
            self.abort()
        elif self._is_answering and self._framer.state is BETWEEN:
            self._rest, self._start, self._last_answer = b"", 0, OVERLOADED  # after the answer that is in progress
        else:
            self._answer_last(OVERLOADED)

    def _pass_on(self) -> None:
        """Pass on what has been received, up to the end of a request that is not answered yet."""
        transport, framer, data = self.transport, self._framer, self._rest
        while self._start < len(data) and not (self._is_answering and framer.state is BETWEEN):
            if transport is None or transport.is_closing():
                return
            start = self._start
            try:
                self._start = framer.cut(data, start)
            except HeadTooLargeError:
                self._answer_last(HEAD_TOO_LARGE)
                return
            except TooManyChunksError:
                self._is_discarding, self._rest, self._start = True, b"", 0
                self.guest.end_body(TooManyChunks())
                return
            self.guest.data_received(data[start : self._start])
            if framer.state is HEAD:
                self._look_at_head()
        if self._start == len(data):
            self._rest, self._start = b"", 0
        if transport is not None and self._is_answering and framer.state is BETWEEN:
            # Again after each read, because aiohttp resumes reading while it reads a body.
            transport.pause_reading()

    def _look_at_head(self) -> None:
        """Begin the body if the head is complete."""
        head = self.guest.begin_body()
        if head is not None and self._framer.has_head:
            self._is_answering = True
            self._framer.begin_body(None if head.chunked else int(head.headers.get("Content-Length", "0")))
        elif self.guest.has_parsed or self._framer.has_head:
            self._is_answering = self.guest.has_parsed  # a 400
            self._framer.give_up()

    def _continue(self) -> None:
        self._is_answering = False
        self.quiet_sweeps = 0
        transport = self.transport
        if transport is None or transport.is_closing():
            return
        self.hold_input(len(self._rest) - self._start)
        if self._last_answer is not None:
            self._answer_last(self._last_answer)
            return
        self._pass_on()
        if self._is_answering and self._framer.state in {BETWEEN, UNKNOWN}:
            return
        if self._has_eof:
            transport.close()
        else:
            transport.resume_reading()

    def _answer_last(self, answer: Answer) -> None:
        """Answer the request that is being received, or the next one, and close the connection."""
        transport = self.transport
        if transport is None or transport.is_closing():
            return
        if self._is_answering or self._framer.state in _BEFORE_BODY:  # otherwise it has its answer already
            self.guest.count_refusal(answer)
            transport.write(closing_response(answer))
        transport.close()


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
