"""The data plane on aiohttp: what HTTP means here, for every request that no faster lane takes."""

import asyncio
import time
from collections.abc import Mapping
from dataclasses import dataclass
from functools import partial
from typing import Any, cast

from aiohttp import web

from bidstream_svc.logs import get_logger
from bidstream_svc.metrics import MetricCells, Route
from bidstream_svc.metrics.cells import CONNECTIONS, CONNECTIONS_REFUSED, REQUEST_DURATION_NS, RefusalReason
from bidstream_svc.server import answers
from bidstream_svc.server.answers import Answer
from bidstream_svc.server.auth import BearerToken
from bidstream_svc.server.handler import BODY_LIMITS, DecryptHandler
from bidstream_svc.server.hosts import HostCheck
from bidstream_svc.server.media_type import JSON, is_json
from bidstream_svc.server.refusal import Refusals
from bidstream_svc.tracing import Tracer

_log = get_logger(__name__)

_ROUTES = {str(route): route for route in BODY_LIMITS}
# Named, because aiohttp would name its own version and Python's.
_SERVER = {"Server": "bidstream-svc"}
_HEADERS_OF_CODE: Mapping[int, Mapping[str, str]] = {
    401: {**_SERVER, "WWW-Authenticate": "Bearer"},
    405: {**_SERVER, "Allow": "POST"},
}
_MAX_HEAD_LINE_BYTES = 8190
_MAX_HEADERS = 64


@dataclass(frozen=True, slots=True)
class ConnectionLimits:
    """What a connection may take; seconds as in the settings of the same names."""

    max_connections: int
    idle_timeout_s: float
    request_timeout_s: float


class DataPlane(web.Server):
    """Answers requests with a handler.

    Attributes:
        is_draining: once True, every answer ends its connection.
        limits, bearer: as given.
        is_traced: whether there is a tracer, which makes spans of the requests that are sampled.
        open_connections: those that this process has admitted, whoever answers them.
    """

    def __init__(
        self,
        handler: DecryptHandler,
        metrics: MetricCells,
        limits: ConnectionLimits,
        bearer: BearerToken | None,
        *,
        tracer: Tracer | None = None,
    ) -> None:
        super().__init__(
            self._answer if tracer is None else partial(self._answer_traced, tracer),
            keepalive_timeout=limits.idle_timeout_s,
            lingering_time=limits.request_timeout_s,
            max_line_size=_MAX_HEAD_LINE_BYTES,
            max_field_size=_MAX_HEAD_LINE_BYTES,
            max_headers=_MAX_HEADERS,
            # Bodies come as they are: a compressed one is refused, not unpacked to who knows what size.
            auto_decompress=False,
            access_log=None,
        )
        self.is_draining = False
        self.is_traced = tracer is not None
        self.open_connections = 0
        self._handler = handler
        self._metrics = metrics
        self._refusals = Refusals(metrics)
        self.limits = limits
        self.bearer = bearer

    def connect(self, hosts: HostCheck) -> web.RequestHandler:
        """A protocol for a connection of a listener."""
        return _Connection(self, hosts=hosts, loop=self._loop, **self._kwargs)

    def adopt(self, transport: asyncio.Transport, hosts: HostCheck) -> web.RequestHandler:
        """A protocol that goes on with a connection which has been admitted and begun elsewhere."""
        connection = _Connection(self, hosts=hosts, loop=self._loop, **self._kwargs)
        connection.is_admitted = True
        transport.set_protocol(connection)
        connection.connection_made(transport)
        return connection

    def admit(self, transport: asyncio.Transport) -> bool:
        """Count a connection in; False when there are too many: then it is counted as refused, and ended here."""
        if self._metrics.over_workers(CONNECTIONS) >= self.limits.max_connections:
            self._metrics.add(CONNECTIONS_REFUSED[RefusalReason.MAX_CONNECTIONS])
            self._refusals.refuse(transport)
            return False
        self._metrics.add(CONNECTIONS)
        self.open_connections += 1
        return True

    def release(self) -> None:
        """Count a connection out."""
        self._metrics.add(CONNECTIONS, -1)
        self.open_connections -= 1

    def close_refused(self) -> None:
        """Close at once the connections that were not admitted."""
        self._refusals.close()

    def close_idle(self) -> None:
        """Close the connections between two requests."""
        for connection in self.connections:
            cast("_Connection", connection).close_if_idle()

    def respond(self, route: Route, answer: Answer) -> web.Response:
        """Make a response of an answer, and count it."""
        code, body = answer
        self._metrics.count_request(route, code)
        response = web.Response(status=code, body=body, content_type=JSON, headers=_HEADERS_OF_CODE.get(code, _SERVER))
        if self.is_draining:
            response.force_close()
        return response

    async def _answer_traced(self, tracer: Tracer, request: web.BaseRequest) -> web.Response:
        route = _ROUTES.get(request.path)
        parent = tracer.parent_of(request.headers)
        if route is None or parent is None or request.method != "POST":
            return await self._answer(request)
        started_ns = time.perf_counter_ns()
        answer: Answer | None = None
        try:
            # Only a new connection gets back to the lane, and a client rarely has all of its requests sampled.
            response = await self._answer(request, is_last=not request.protocol._messages)  # noqa: SLF001 - nobody else tells
            assert isinstance(response.body, bytes)
            answer = response.status, response.body
        finally:
            tracer.record_request(parent, route, time.perf_counter_ns() - started_ns, answer)
        return response

    async def _answer(self, request: web.BaseRequest, *, is_last: bool = False) -> web.Response:
        """Answer; `is_last` ends the connection with a good answer, too."""
        route = _ROUTES.get(request.path, Route.OTHER)
        suspicion = self._suspect(request)
        if suspicion is not None:
            response = self.respond(route, suspicion)
            response.force_close()
            return response
        refusal = self._refuse_head(route, request)
        if refusal is not None:
            return self.respond(route, refusal)
        await self._continue(request)
        body = await self._read_body(route, request)
        if isinstance(body, tuple):
            response = self.respond(route, body)
            response.force_close()  # the rest of the body is not worth waiting for
            return response
        started_ns = time.perf_counter_ns()
        if route is Route.DECRYPT:
            answer = self._handler.decrypt(body, self._handler.now_ms())
        else:
            answer = await self._run_batch(body)
        response = self.respond(route, answer)
        if is_last:
            response.force_close()
        await response.prepare(request)
        await response.write_eof()
        self._metrics.observe(REQUEST_DURATION_NS, time.perf_counter_ns() - started_ns)
        return response

    @staticmethod
    def _suspect(request: web.BaseRequest) -> Answer | None:
        """What smells of rebinding or of smuggling ends the connection; None for all others."""
        assert isinstance(request.protocol, _Connection)
        if not request.protocol.hosts.admits(request.headers.get("Host")):
            return answers.UNKNOWN_HOST
        # aiohttp takes codings below the chunks, but leaves them on: the body would not be what it says.
        if request.headers.get("Transfer-Encoding", "chunked").strip().lower() != "chunked":
            return answers.MALFORMED_HTTP
        return None

    def _refuse_head(self, route: Route, request: web.BaseRequest) -> Answer | None:
        """What the request's head alone is refused for; None if nothing."""
        if route is Route.OTHER:
            return answers.NOT_FOUND
        if request.method != "POST":
            return answers.METHOD_NOT_ALLOWED
        if self.bearer is not None and not self.bearer.admits(request.headers.get("Authorization")):
            return answers.UNAUTHORIZED
        if not is_json(request.headers.get("Content-Type")) or "Content-Encoding" in request.headers:
            return answers.UNSUPPORTED_MEDIA_TYPE
        if (request.content_length or 0) > BODY_LIMITS[route]:
            return answers.too_large(BODY_LIMITS[route])
        if request.headers.get("Expect", "100-continue").lower() != "100-continue":
            return answers.EXPECTATION_FAILED
        return None

    @staticmethod
    async def _continue(request: web.BaseRequest) -> None:
        if "Expect" in request.headers:
            await request.writer.write(b"HTTP/1.1 100 Continue\r\n\r\n")
            # What aiohttp takes for the start of an answer was none.
            request.writer.output_size = 0

    async def _read_body(self, route: Route, request: web.BaseRequest) -> bytes | Answer:
        """The body, or the answer to a body that does not come or is too large."""
        limit = BODY_LIMITS[route]
        body = bytearray()
        try:
            async with asyncio.timeout(self.limits.request_timeout_s):
                async for chunk in request.content.iter_any():
                    body += chunk
                    if len(body) > limit:
                        return answers.too_large(limit)
        except TimeoutError:
            return answers.REQUEST_TIMEOUT
        except web.RequestPayloadError:
            return answers.MALFORMED_HTTP
        return bytes(body)

    async def _run_batch(self, body: bytes) -> Answer:
        turns = self._handler.decrypt_batch(body, self._handler.now_ms())
        while True:
            try:
                next(turns)
            except StopIteration as stop:
                answer: Answer = stop.value
                return answer
            await asyncio.sleep(0)


class _Connection(web.RequestHandler):
    """aiohttp's protocol, with the connection cap and with errors in our JSON."""

    __slots__ = ("_head_timer", "_write_timer", "hosts", "is_admitted")

    def __init__(self, plane: DataPlane, *, hosts: HostCheck, **kwargs: Any) -> None:
        super().__init__(plane, **kwargs)
        self.hosts = hosts
        self.is_admitted = False
        self._head_timer: asyncio.TimerHandle | None = None
        self._write_timer: asyncio.TimerHandle | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        # uvloop's transport is one, but not by inheritance.
        transport = cast("asyncio.Transport", transport)
        self.is_admitted = self.is_admitted or self._plane.admit(transport)
        if self.is_admitted:
            super().connection_made(transport)
            # Whatever the client's side does not take pauses, so that none of it is waited for without a limit. Not in
            # TLS: with a limit of 0, uvloop never resumes.
            if transport.get_extra_info("sslcontext") is None:
                transport.set_write_buffer_limits(high=0)

    def connection_lost(self, exc: BaseException | None) -> None:
        if self.is_admitted:
            self._plane.release()
            self._stop_head_timer()
            self._stop_write_timer()
            super().connection_lost(exc)

    def pause_writing(self) -> None:
        """As aiohttp's, which would wait for ever for a client that does not read, also to close."""
        super().pause_writing()
        if self.transport is not None:
            self._write_timer = self._loop.call_later(self._plane.limits.idle_timeout_s, self.transport.abort)

    def resume_writing(self) -> None:
        super().resume_writing()
        self._stop_write_timer()

    def data_received(self, data: bytes) -> None:
        """As aiohttp's, with an end to heads that never come to theirs: it would wait for ever."""
        super().data_received(data)
        if self._messages or not self._waits_for_request:
            self._stop_head_timer()
        elif self._head_timer is None and not self._force_close:
            self._head_timer = self._loop.call_later(self._plane.limits.request_timeout_s, self.force_close)

    @property
    def _waits_for_request(self) -> bool:
        """Whether no request is under way: aiohttp waits for the next, or has not yet begun to."""
        return self._waiter is not None or self._request_count == 0

    def _stop_head_timer(self) -> None:
        if self._head_timer is not None:
            self._head_timer.cancel()
            self._head_timer = None

    def _stop_write_timer(self) -> None:
        if self._write_timer is not None:
            self._write_timer.cancel()
            self._write_timer = None

    def close_if_idle(self) -> None:
        """Close between two requests; one under way is answered first."""
        # aiohttp's own `close` would drop what still comes of that one's body.
        if self._current_request is None:
            self.close()

    def handle_error(
        self,
        request: web.BaseRequest,
        status: int = 500,
        exc: BaseException | None = None,
        message: str | None = None,  # noqa: ARG002 - aiohttp's; it quotes what the client sent
    ) -> web.StreamResponse:
        """Answer what aiohttp could not parse, or what failed in us."""
        if isinstance(exc, ConnectionError):
            raise exc  # the client went away: nobody to answer, and no failure of ours
        if status == 500:  # noqa: PLR2004
            _log.error("request failed", exc_info=exc)
        if request.writer.output_size > 0:
            raise ConnectionError("the answer had begun")
        answer = answers.INTERNAL_ERROR if status == 500 else answers.MALFORMED_HTTP  # noqa: PLR2004
        response = self._plane.respond(Route.OTHER, answer)
        response.force_close()
        return response

    @property
    def _plane(self) -> DataPlane:
        assert isinstance(self._manager, DataPlane)
        return self._manager
