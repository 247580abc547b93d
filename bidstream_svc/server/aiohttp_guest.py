"""aiohttp as the guest protocol of a connection, and every use of aiohttp's private members.

Private members may change in any minor version. So pyproject.toml caps aiohttp below the next one, and
tests/server/test_aiohttp_guest.py has a test for each member that is used:

    member                            meaning
    web.Server._loop, _kwargs         the arguments for a new RequestHandler
    RequestHandler._messages          requests that are parsed but not started
    RequestHandler._waiter            set while it waits for the next request
    RequestHandler._request_count     0 until the first request is started
    RequestHandler._current_request   the request that is being answered
    RequestHandler._task_handler      the task that handles the requests one after another
    request.writer.output_size        0 until a response has begun; interim responses must not count
"""

import asyncio
from collections.abc import Awaitable, Callable
from typing import Any

from aiohttp import web

from bidstream_svc.logs import get_logger
from bidstream_svc.server.answers import INTERNAL_ERROR, MALFORMED_HTTP, Answer
from bidstream_svc.server.connections import Connection, Connections, Phase
from bidstream_svc.server.hosts import HostCheck

_log = get_logger(__name__)

# Set in every response; aiohttp's default names its own version and Python's.
SERVER = {"Server": "bidstream-svc"}

_MAX_HEAD_LINE_BYTES = 8190
_MAX_HEADERS = 64
_INTERNAL_ERROR_STATUS = 500
_HEAD_END = b"\r\n\r\n"
# aiohttp takes about 1 µs for a chunk of any length. Each chunk has two line ends.
_MAX_LINE_ENDS = 1024
_BYTES_PER_FURTHER_LINE_END = 8
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
    """

    def __init__(
        self,
        answer: Callable[[web.BaseRequest], Awaitable[web.StreamResponse]],
        respond: Callable[[Answer], web.Response],
        *,
        lingering_s: float,
    ) -> None:
        super().__init__(
            self._answer_and_release,
            keepalive_timeout=_NEVER_S,
            lingering_time=lingering_s,
            max_line_size=_MAX_HEAD_LINE_BYTES,
            max_field_size=_MAX_HEAD_LINE_BYTES,
            max_headers=_MAX_HEADERS,
            # A compressed body is refused: its size after decompression has no limit.
            auto_decompress=False,
            access_log=None,
        )
        self._answer_request = answer
        self.respond = respond

    def connect(self, connections: Connections, hosts: HostCheck) -> "AiohttpConnection":
        """Return a protocol for a new connection; `hosts` checks its `Host` headers."""
        guest = AiohttpGuest(self, loop=self._loop, **self._kwargs)
        connection = guest.connection = AiohttpConnection(connections, guest, hosts)
        return connection

    async def _answer_and_release(self, request: web.BaseRequest) -> web.StreamResponse:
        try:
            return await self._answer_request(request)
        finally:
            guest_of(request).connection.request_is_read()  # also if its body was not read


class AiohttpGuest(web.RequestHandler):
    """aiohttp's protocol for one connection, with errors as JSON.

    Attributes:
        connection: the connection that hosts it.
    """

    __slots__ = ("_server", "connection")

    connection: "AiohttpConnection"

    def __init__(self, server: GuestServer, **kwargs: Any) -> None:
        super().__init__(server, **kwargs)
        self._server = server

    @property
    def has_more_requests(self) -> bool:
        """Whether further requests have been parsed already."""
        return bool(self._messages)

    @property
    def is_answering(self) -> bool:
        """Whether a request is being answered, or has been parsed and not started."""
        return bool(self._messages) or (self._waiter is None and self._request_count > 0)

    @property
    def is_discarding(self) -> bool:
        """Whether what arrives is thrown away, because it belongs to the body of a request that has been answered."""
        return self.is_answering and not self._messages and self._current_request is None

    def refuse_chunks(self) -> bool:
        """Let the reader of the newest request's body fail with TooManyChunks, and receive nothing more.

        Returns whether there is a request to answer.
        """
        content = self._messages[-1][1] if self._messages else None
        if content is None and self._current_request is not None:
            content = self._current_request.content
        if content is not None and not content.is_eof():
            content.set_exception(TooManyChunks())
            content.feed_eof()  # so that aiohttp does not wait for the rest
        self.close()
        return content is not None

    def connection_lost(self, exc: BaseException | None) -> None:
        """Close the connection and drop the requests that have not been started."""
        task = self._task_handler if self._current_request is None else None
        super().connection_lost(exc)
        # The task would otherwise start the next request and fail, because the transport is gone.
        if task is not None:
            task.cancel()

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

    Args:
        guest: aiohttp's protocol; it writes to the transport itself.
        hosts: checks the `Host` header of its requests.
    """

    __slots__ = ("_has_begun", "_input_ends", "_line_ends", "_received_bytes", "guest", "hosts")

    def __init__(self, connections: Connections, guest: AiohttpGuest, hosts: HostCheck) -> None:
        super().__init__(connections)
        self.guest = guest
        self.hosts = hosts
        self._has_begun = False  # part of a head has been received
        self._received_bytes = self._line_ends = 0  # since the last request was complete
        self._input_ends = asyncio.Event()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Connect aiohttp to the transport."""
        super().connection_made(transport)
        self.guest.connection_made(transport)
        # With a limit of 0, any unsent byte pauses writing, so that the deadline of UNREAD applies. Not with TLS: there
        # uvloop never resumes writing if the limit is 0.
        if self.transport is not None and transport.get_extra_info("sslcontext") is None:
            self.transport.set_write_buffer_limits(high=0)

    def connection_lost(self, exc: Exception | None) -> None:
        """Pass the event to aiohttp, and remove the connection from the open ones."""
        self._input_ends.set()
        if self.transport is not None:
            self.guest.connection_lost(exc)
        super().connection_lost(exc)

    def data_received(self, data: bytes) -> None:
        """Pass the bytes to aiohttp. Unless it discards them, they count as held until `request_is_read` is called."""
        if self._has_too_many_line_ends(data):
            self._refuse_chunks(data)
            return
        if not self.guest.is_discarding:
            self.connections.hold(self, self.held_bytes + len(data))
        self.guest.data_received(data)
        self._has_begun = not self.guest.is_answering

    def eof_received(self) -> None:
        """Pass the event to aiohttp; the transport then closes itself."""
        self._input_ends.set()
        self.guest.eof_received()

    def pause_writing(self) -> None:
        """Record that the write buffer is full, and pass the event to aiohttp."""
        super().pause_writing()
        self.guest.pause_writing()

    def resume_writing(self) -> None:
        """Record that the write buffer has been emptied, and pass the event to aiohttp."""
        super().resume_writing()
        self.guest.resume_writing()

    def _has_too_many_line_ends(self, data: bytes) -> bool:
        """Return whether what was received is cut into so small chunks that parsing them takes too long.

        Line ends in heads and in JSON count as well. They are rarer: the shortest request has one in nine bytes.
        """
        self._received_bytes += len(data)
        self._line_ends += data.count(b"\n")
        return self._line_ends > _MAX_LINE_ENDS + self._received_bytes // _BYTES_PER_FURTHER_LINE_END

    def _refuse_chunks(self, data: bytes) -> None:
        if not self.guest.is_answering:  # perhaps the head is in these bytes
            self.guest.data_received(data[: data.find(_HEAD_END) + len(_HEAD_END)])
        if not self.guest.refuse_chunks() and self.transport is not None:
            self.transport.close()

    async def wait_input_ends(self) -> None:
        """Wait until the client sends nothing more."""
        await self._input_ends.wait()

    def request_is_read(self) -> None:
        """Record that a request has been received completely."""
        self._received_bytes = self._line_ends = 0
        self.connections.hold(self, 0)
        self.quiet_sweeps = 0

    def request_phase(self) -> Phase:
        """See Connection. The deadline of a body is enforced by the code that reads it."""
        if self.guest.is_answering:
            return Phase.RESPONSE
        return Phase.REQUEST if self._has_begun else Phase.IDLE


def guest_of(request: web.BaseRequest) -> AiohttpGuest:
    """Return the protocol that received a request."""
    guest = request.protocol
    assert isinstance(guest, AiohttpGuest)
    return guest


async def send_continue(request: web.BaseRequest) -> None:
    """Send the interim response 100 if the client sent `Expect: 100-continue`."""
    if "Expect" in request.headers:
        await request.writer.write(b"HTTP/1.1 100 Continue\r\n\r\n")
        # aiohttp counts it as the start of the response.
        request.writer.output_size = 0
