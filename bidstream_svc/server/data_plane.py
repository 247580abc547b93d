"""The data plane on aiohttp: the reference implementation of its HTTP, used for every request that is not plain."""

import asyncio
import time
from collections.abc import Generator, Iterable, Mapping
from contextlib import suppress
from functools import partial
from typing import TypeVar

from aiohttp import web

from bidstream_svc.clock import wall_clock_ms
from bidstream_svc.metrics import MetricCells
from bidstream_svc.metrics.cells import REQUEST_DURATION_NS
from bidstream_svc.server import answers
from bidstream_svc.server.aiohttp_connection import AiohttpConnection, FindSuccessor
from bidstream_svc.server.aiohttp_guest import (
    SERVER,
    AiohttpGuest,
    GuestServer,
    TooManyChunks,
    guest_of,
    send_continue,
)
from bidstream_svc.server.answers import Answer
from bidstream_svc.server.auth import BearerToken
from bidstream_svc.server.connections import Connections
from bidstream_svc.server.framing import parse_length
from bidstream_svc.server.gzip_body import inflate
from bidstream_svc.server.handlers import TokenDecryptor
from bidstream_svc.server.hosts import HostCheck
from bidstream_svc.server.media_type import JSON, is_json
from bidstream_svc.server.routes import OTHER_LABEL, Route
from bidstream_svc.server.turns import Turns
from bidstream_svc.tracing import Tracer

_Result = TypeVar("_Result")

_OK = 200
_GZIP = frozenset({"gzip", "x-gzip"})  # two names of the same (RFC 9110, 8.4.1.3)
_KNOWN_CODINGS = frozenset({*_GZIP, "identity"})
_HEADERS_OF_CODE: Mapping[int, Mapping[str, str]] = {
    401: {**SERVER, "WWW-Authenticate": "Bearer"},
    405: {**SERVER, "Allow": "POST"},
}


class DataPlane:
    """Checks requests and answers them with the handlers of their routes.

    Args:
        connections: the connections of the data plane.
        routes: the route table.
        decryptor: decrypts the tokens of requests.
        metrics: counts requests and measures their duration.
        bearer: the bearer token that requests must carry; None for none.
        tracer: records spans of sampled requests; None to record none.

    Attributes:
        is_draining: once True, every response closes its connection.
        turns: orders the steps of long answers.
    """

    def __init__(
        self,
        connections: Connections,
        routes: Iterable[Route],
        decryptor: TokenDecryptor,
        metrics: MetricCells,
        *,
        bearer: BearerToken | None,
        tracer: Tracer | None = None,
    ) -> None:
        self.is_draining = False
        self.turns = Turns()
        self._connections = connections
        self._routes = {route.path: route for route in routes}
        self._not_found = answers.not_found(self._routes)
        self._decryptor = decryptor
        self._metrics = metrics
        self._bearer = bearer
        self._body_timeout_s = connections.limits.request_timeout_s
        self._server = GuestServer(
            self._answer if tracer is None else partial(self._answer_traced, tracer),
            lambda answer: self._respond(OTHER_LABEL, answer),
            lingering_s=self._body_timeout_s,
            count_refusal=lambda path, answer: self._metrics.count_request(self._label(path), answer[0]),
        )

    def connect(self, hosts: HostCheck, find_successor: FindSuccessor | None = None) -> AiohttpConnection:
        """Return a protocol for a connection; see `AiohttpConnection` for the arguments."""
        return self._server.connect(self._connections, hosts, find_successor)

    async def close(self) -> None:
        """Cancel the requests in flight."""
        await self._server.shutdown(0)

    def _label(self, path: str | None) -> str:
        return path if path in self._routes else OTHER_LABEL

    def _respond(self, label: str, answer: Answer, *, is_last: bool = False) -> web.Response:
        """Return the response for an answer and count it; `is_last` closes the connection after it."""
        code, body, *statuses = answer
        self._metrics.count_request(label, code)
        response = web.Response(status=code, body=body, content_type=JSON, headers=_HEADERS_OF_CODE.get(code, SERVER))
        if statuses:
            response.headers[answers.STATUSES] = statuses[0]
        if is_last or self.is_draining:
            response.force_close()
        return response

    async def _answer_traced(self, tracer: Tracer, request: web.BaseRequest) -> web.Response:
        route, parent = self._routes.get(request.path), tracer.parent_of(request.headers)
        if route is None or parent is None or request.method != "POST":
            return await self._answer(request)
        started_ns = time.perf_counter_ns()
        status, statuses = None, []
        try:
            response = await self._answer(request)
            status = response.status
            if status == _OK:
                assert isinstance(response.body, bytes)
                told = response.headers.get(answers.STATUSES)
                statuses = route.statuses_in(response.body) if told is None else told.split(",")
        finally:
            tracer.record_request(parent, route.path, time.perf_counter_ns() - started_ns, status, statuses)
        return response

    async def _answer(self, request: web.BaseRequest) -> web.Response:
        route = self._routes.get(request.path)
        label = self._label(request.path)
        refusal = self._refuse_suspicious(request)
        if refusal is not None:
            return self._respond(label, refusal, is_last=True)
        if route is None:
            return self._respond(label, self._not_found)
        refusal = self._refuse_head(route, request)
        if refusal is not None:
            return self._respond(label, refusal)
        await send_continue(request)
        body = await self._read_body(route, request)
        if isinstance(body, tuple):
            response = self._respond(label, body, is_last=True)
            if body is answers.TOO_MANY_CHUNKS:
                await self._send_and_linger(request, response)
            return response  # aiohttp discards the rest of the body
        started_ns = time.perf_counter_ns()
        answer = await self._handle(route, request, body)
        del body  # it need not be kept while the answer is sent
        response = self._respond(label, answer, is_last=answer is answers.OVERLOADED)
        await response.prepare(request)
        await response.write_eof()
        self._metrics.observe(REQUEST_DURATION_NS, time.perf_counter_ns() - started_ns)
        return response

    async def _handle(self, route: Route, request: web.BaseRequest, body: bytes) -> Answer:
        """Return the answer to a body, which is inflated before if need be."""
        guest = guest_of(request)
        if _coding_of(request) in _GZIP:
            received_bytes = guest.connection.input_bytes
            inflated = await self._run(inflate(body, route.max_body_bytes), guest)
            if isinstance(inflated, tuple):
                return inflated
            body = inflated
            guest.connection.hold_input(received_bytes + len(body))
        answer = route.handle(self._decryptor.bind(), body, wall_clock_ms())
        del body  # after an error, this frame may be kept until the next garbage collection
        return answer if isinstance(answer, tuple) else await self._run(answer, guest)

    async def _run(self, steps: Generator[int | None, None, _Result], guest: AiohttpGuest) -> _Result | Answer:
        """Run a generator, each step in a turn of its own unless it is urgent, and return its result.

        What it yields is the number of bytes that it holds beyond those received. If the connection is refused
        meanwhile, the answer is OVERLOADED, and they are free.
        """
        connection = guest.connection
        received_bytes = connection.input_bytes
        while True:
            if not guest.is_urgent:
                await self.turns.wait()
            if connection.is_refused:
                return answers.OVERLOADED
            if connection.transport is None:
                steps.close()
                raise ConnectionResetError("the client has closed the connection")
            try:
                held_bytes = next(steps)
            except StopIteration as end:
                result: _Result = end.value
                return result
            if held_bytes is not None:
                connection.hold_input(received_bytes + held_bytes)

    @staticmethod
    def _refuse_suspicious(request: web.BaseRequest) -> Answer | None:
        """Return the answer to suspected DNS rebinding or request smuggling, or None."""
        if not guest_of(request).connection.hosts.allows(request.headers.get("Host")):
            return answers.UNKNOWN_HOST
        if len(request.headers.getall("Authorization", ())) > 1:
            return answers.MALFORMED_HTTP
        # aiohttp accepts further transfer codings and does not decode them, so the body would be read wrongly.
        if request.headers.get("Transfer-Encoding", "chunked").strip().lower() != "chunked":
            return answers.MALFORMED_HTTP
        return None

    def _refuse_head(self, route: Route, request: web.BaseRequest) -> Answer | None:
        """Return the answer to a head that is refused before its body is read, or None."""
        if request.method != "POST":
            return answers.METHOD_NOT_ALLOWED
        if self._bearer is not None and not self._bearer.matches(request.headers.get("Authorization")):
            return answers.UNAUTHORIZED
        if not is_json(request.headers.get("Content-Type")) or not _is_readable(route, request):
            return answers.UNSUPPORTED_MEDIA_TYPE
        if parse_length(request.headers.get("Content-Length", "0")) > route.max_body_bytes:
            return answers.too_large(route.max_body_bytes)
        if any(value.lower() != "100-continue" for value in request.headers.getall("Expect", ())):
            return answers.EXPECTATION_FAILED
        return None

    async def _send_and_linger(self, request: web.BaseRequest, response: web.Response) -> None:
        """Send a response and discard what still arrives; closing at once could cost the client its answer."""
        await response.prepare(request)
        await response.write_eof()
        with suppress(TimeoutError):
            async with asyncio.timeout(self._body_timeout_s):
                await guest_of(request).connection.wait_input_ends()

    async def _read_body(self, route: Route, request: web.BaseRequest) -> bytes | Answer:
        """Return the body, or the answer if it is too large, malformed, or not received in time."""
        body = bytearray()
        try:
            if request.content.is_eof():  # nothing to wait for
                body += request.content.read_nowait()
                return bytes(body) if len(body) <= route.max_body_bytes else answers.too_large(route.max_body_bytes)
            async with asyncio.timeout(self._body_timeout_s):
                async for chunk in request.content.iter_any():
                    body += chunk
                    if len(body) > route.max_body_bytes:
                        return answers.too_large(route.max_body_bytes)
            # Its iterator ends without raising if the error came with the last bytes.
            return bytes(body) if request.content.exception() is None else answers.MALFORMED_HTTP
        except TimeoutError:
            return answers.REQUEST_TIMEOUT
        except TooManyChunks:
            return answers.TOO_MANY_CHUNKS
        except web.RequestPayloadError:
            return answers.MALFORMED_HTTP
        finally:
            # After an error, this frame is part of a cycle of references and is kept until the next garbage collection.
            body.clear()


def _coding_of(request: web.BaseRequest) -> str | None:
    """Return the coding of the body as its head names it, in lower case; None if it names none."""
    codings = request.headers.getall("Content-Encoding", ())
    return ",".join(codings).strip().lower() if codings else None


def _is_readable(route: Route, request: web.BaseRequest) -> bool:
    """Return whether the coding of the body is one that the route takes."""
    coding = _coding_of(request)
    return coding is None or (route.takes_gzip and coding in _KNOWN_CODINGS)
