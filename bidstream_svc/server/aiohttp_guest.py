"""aiohttp as the guest of a connection, and all that is used of its private members.

What is private may change with any minor version, so pyproject.toml caps it below the next one, and
tests/server/test_aiohttp_guest.py has a test for each member, which says what no longer holds.

    member                            what it tells or does
    web.Server._loop, _kwargs         what a RequestHandler is made with
    RequestHandler._messages          requests that are complete and not begun
    RequestHandler._waiter            set while it waits for the next request
    RequestHandler._request_count     0 until the first request is begun
    RequestHandler._current_request   the request that is being answered
    RequestHandler._task_handler      the task that begins one request after the other
    request.writer.output_size        0 until an answer has begun; an interim answer must not count
"""

from collections.abc import Awaitable, Callable
from typing import Any

from aiohttp import web

from bidstream_svc.logs import get_logger
from bidstream_svc.server.answers import INTERNAL_ERROR, MALFORMED_HTTP, Answer
from bidstream_svc.server.connections import Connections, HostedConnection, Phase
from bidstream_svc.server.hosts import HostCheck

_log = get_logger(__name__)

# Named in every response, because aiohttp would name its own version and Python's.
SERVER = {"Server": "bidstream-svc"}

_MAX_HEAD_LINE_BYTES = 8190
_MAX_HEADERS = 64
_INTERNAL_ERROR_STATUS = 500
# aiohttp's own deadline for idle connections; those of `connections` come first.
_NEVER_S = 1e6


class GuestServer(web.Server):
    """Makes guests, which answer requests by a function.

    Args:
        answer: a request -> its response.
        respond: makes the response to a request that could not be parsed, or that failed in `answer`.
        lingering_s: how long the rest of a body that was not read may still arrive.
    """

    def __init__(
        self,
        answer: Callable[[web.BaseRequest], Awaitable[web.StreamResponse]],
        respond: Callable[[Answer], web.Response],
        *,
        lingering_s: float,
    ) -> None:
        super().__init__(
            answer,
            keepalive_timeout=_NEVER_S,
            lingering_time=lingering_s,
            max_line_size=_MAX_HEAD_LINE_BYTES,
            max_field_size=_MAX_HEAD_LINE_BYTES,
            max_headers=_MAX_HEADERS,
            # Bodies come as they are: a compressed one is refused, not unpacked to who knows what size.
            auto_decompress=False,
            access_log=None,
        )
        self.respond = respond

    def connect(self, connections: Connections, hosts: HostCheck) -> "AiohttpConnection":
        """A connection of a listener whose `Host` headers may say what `hosts` admits."""
        guest = AiohttpGuest(self, loop=self._loop, **self._kwargs)
        connection = guest.connection = AiohttpConnection(connections, guest, hosts)
        return connection


class AiohttpGuest(web.RequestHandler):
    """aiohttp's protocol for one connection, with errors as JSON.

    Attributes:
        connection: where it is the guest.
    """

    __slots__ = ("_server", "connection")

    connection: "AiohttpConnection"

    def __init__(self, server: GuestServer, **kwargs: Any) -> None:
        super().__init__(server, **kwargs)
        self._server = server

    @property
    def has_more_requests(self) -> bool:
        """Whether requests behind the current one are complete already."""
        return bool(self._messages)

    @property
    def is_answering(self) -> bool:
        """Whether a request is under way, or complete and not begun."""
        return bool(self._messages) or (self._waiter is None and self._request_count > 0)

    def connection_lost(self, exc: BaseException | None) -> None:
        """End; a request that is not begun yet has nobody to be answered to."""
        task = self._task_handler if self._current_request is None else None
        super().connection_lost(exc)
        # By itself it would begin, and fail for want of a connection.
        if task is not None:
            task.cancel()

    def close_if_idle(self) -> None:
        """Close between two requests."""
        # aiohttp's own `close` would drop what still comes of the body of a request under way.
        if self._current_request is None:
            self.close()

    def handle_error(
        self,
        request: web.BaseRequest,
        status: int = _INTERNAL_ERROR_STATUS,
        exc: BaseException | None = None,
        message: str | None = None,  # noqa: ARG002 - aiohttp's; it quotes what the client sent
    ) -> web.StreamResponse:
        """Answer what aiohttp could not parse, or what failed in us."""
        if isinstance(exc, ConnectionError):
            raise exc  # the client went away: there is nothing to answer, and no failure of ours
        if status == _INTERNAL_ERROR_STATUS:
            _log.error("request failed", exc_info=exc)
        if request.writer.output_size > 0:
            raise ConnectionError("the answer had begun")
        response = self._server.respond(INTERNAL_ERROR if status == _INTERNAL_ERROR_STATUS else MALFORMED_HTTP)
        response.force_close()
        return response


class AiohttpConnection(HostedConnection):
    """A connection answered by aiohttp.

    Args:
        hosts: what the `Host` of its requests may say.
    """

    __slots__ = ("_has_begun", "hosts")

    guest: AiohttpGuest

    def __init__(self, connections: Connections, guest: AiohttpGuest, hosts: HostCheck) -> None:
        super().__init__(connections, guest)
        self.hosts = hosts
        self._has_begun = False  # a head has, and has not ended

    def data_received(self, data: bytes) -> None:
        """Let aiohttp read."""
        super().data_received(data)
        self._has_begun = not self.guest.is_answering

    def request_phase(self) -> Phase:
        """What the connection is waiting for; a body has a deadline of its own, where it is read."""
        if self.guest.is_answering:
            return Phase.RESPONSE
        if self._has_begun:
            return Phase.REQUEST
        self.connections.hold(self, 0)
        return Phase.IDLE

    def close_if_idle(self) -> None:
        """Close between two requests; one under way is answered first."""
        self.guest.close_if_idle()


def guest_of(request: web.BaseRequest) -> AiohttpGuest:
    """The guest that a request came to."""
    guest = request.protocol
    assert isinstance(guest, AiohttpGuest)
    return guest


async def send_continue(request: web.BaseRequest) -> None:
    """Tell a client that asked with `Expect: 100-continue` to send its body."""
    if "Expect" in request.headers:
        await request.writer.write(b"HTTP/1.1 100 Continue\r\n\r\n")
        # aiohttp has taken it for the start of the answer.
        request.writer.output_size = 0
