"""Answers the requests of one event loop iteration together, those of all connections.

This keeps code and keys in the processor's caches, and the clocks are read and the counters updated only once.
"""

import asyncio
import time
from itertools import groupby
from operator import itemgetter
from typing import Protocol

from bidstream_svc.clock import wall_clock_ms
from bidstream_svc.logs import get_logger
from bidstream_svc.metrics import MetricCells
from bidstream_svc.metrics.cells import REQUEST_DURATION_NS, HttpCode
from bidstream_svc.server.answers import INTERNAL_ERROR
from bidstream_svc.server.fastpath.reader import Request
from bidstream_svc.server.handlers import LongAnswer, TokenDecryptor
from bidstream_svc.server.response_writer import ResponseWriter
from bidstream_svc.server.routes import Route

_log = get_logger(__name__)

_OK: HttpCode = 200
# Of pipelined requests, so many are answered in one iteration: of a connection, and as long as all together are fewer.
_MAX_OF_CONNECTION = 32
_MAX_PIPELINED = 256


class RequestingConnection(Protocol):
    """The part of a connection that `Iteration` uses.

    Attributes:
        is_busy: whether a long answer is in progress; further requests must wait for it.
    """

    is_busy: bool

    def send(self, response: bytes) -> None:
        """Write a response, unless the connection is closed."""

    def start_long_answer(self, route: Route, steps: LongAnswer, body_bytes: int) -> None:
        """Run the steps of an answer, one per loop iteration, and send it."""

    def queue(self, request: Request) -> None:
        """Queue a request until the long answer is sent."""


class Iteration:
    """Collects complete requests and answers them in order at the end of the loop iteration."""

    def __init__(self, decryptor: TokenDecryptor, metrics: MetricCells, writer: ResponseWriter) -> None:
        self._decryptor = decryptor
        self._metrics = metrics
        self._writer = writer
        self._loop = asyncio.get_running_loop()
        self._requests: list[tuple[RequestingConnection, Request]] = []
        self._is_pipelined = False
        self._began_ns = 0

    def add(self, connection: RequestingConnection, request: Request) -> None:
        """Add a complete request."""
        if not self._requests:
            # The first request starts the timer for all; the others are measured as too long, never as too short.
            self._began_ns = time.perf_counter_ns()
            self._loop.call_soon(self.answer)
        self._requests.append((connection, request))

    def add_pipelined(self, connection: RequestingConnection, requests: list[Request]) -> None:
        """Add complete requests of one connection, of which it may have several."""
        for request in requests:
            self.add(connection, request)
        self._is_pipelined = self._is_pipelined or len(requests) > 1

    @property
    def limit(self) -> int:
        """How many requests of one connection to add now; at least 1."""
        return max(1, min(_MAX_OF_CONNECTION, _MAX_PIPELINED - len(self._requests)))

    def answer(self) -> None:
        """Answer all requests that have been added."""
        requests, self._requests = self._requests, []
        is_pipelined, self._is_pipelined = self._is_pipelined, False
        if not requests:
            return
        now_ms, keys = wall_clock_ms(), self._decryptor.bind()
        write = self._writer.write
        usual_route, usual = requests[0][1][0], 0  # answers of this route with status 200 are counted together
        # A write runs kernel code, which evicts ours from the caches. So all answers are made before the first write.
        unsent: list[tuple[RequestingConnection, bytes]] = []
        answered = 0
        for connection, request in requests:
            if connection.is_busy:
                connection.queue(request)
                continue
            route, body = request
            try:
                answer = route.handle(keys, body, now_ms)
            except Exception:  # noqa: BLE001 - a bug in one request must not affect others
                _log.exception("request failed")
                answer = INTERNAL_ERROR
            if not isinstance(answer, tuple):
                connection.start_long_answer(route, answer, len(body))
                continue
            answered += 1
            if route is usual_route and answer[0] == _OK:
                usual += 1
            else:
                self._metrics.count_request(route.path, answer[0])
            unsent.append((connection, write(answer)))
        if is_pipelined and not self._writer.closes:
            # One by one, unsent responses would take several times their length in the transport's buffer.
            unsent = [
                (connection, b"".join([response for _, response in group]))
                for connection, group in groupby(unsent, key=itemgetter(0))
            ]
        for connection, response in unsent:
            connection.send(response)
        self._metrics.add(self._metrics.http_requests[usual_route.path, _OK], usual)
        self._metrics.observe(REQUEST_DURATION_NS, time.perf_counter_ns() - self._began_ns, answered)
