"""The complete requests of one iteration of the event loop, from all connections, answered together.

Together, code and keys stay in the processor's caches, and clocks are read and counters written once for all.
"""

import asyncio
import time
from typing import Protocol

from bidstream_svc.clock import wall_clock_ms
from bidstream_svc.logs import get_logger
from bidstream_svc.metrics import MetricCells
from bidstream_svc.metrics.cells import REQUEST_DURATION_NS
from bidstream_svc.server.answers import INTERNAL_ERROR
from bidstream_svc.server.fastpath.reader import Request
from bidstream_svc.server.handlers import LongAnswer, TokenJudge
from bidstream_svc.server.response_writer import ResponseWriter
from bidstream_svc.server.routes import Route

_log = get_logger(__name__)

_OK = 200


class Asker(Protocol):
    """A connection, as an iteration sees it.

    Attributes:
        is_busy: whether a long answer is being made, behind which further requests must wait.
    """

    is_busy: bool

    def send(self, response: bytes) -> None:
        """Write a response, if the client is still there."""

    def start_long_answer(self, route: Route, steps: LongAnswer) -> None:
        """Make an answer over several iterations."""

    def queue(self, request: Request) -> None:
        """Keep a request until the long answer is sent."""


class Iteration:
    """Collects requests, and answers them at the end of the loop's iteration in the order in which they came."""

    def __init__(self, judge: TokenJudge, metrics: MetricCells, writer: ResponseWriter) -> None:
        self._judge = judge
        self._metrics = metrics
        self._writer = writer
        self._loop = asyncio.get_running_loop()
        self._requests: list[tuple[Asker, Request]] = []
        self._began_ns = 0

    def add(self, asker: Asker, request: Request) -> None:
        """Take a complete request."""
        if not self._requests:
            # Every request of the iteration is timed from the first: never too short.
            self._began_ns = time.perf_counter_ns()
            self._loop.call_soon(self.answer)
        self._requests.append((asker, request))

    def answer(self) -> None:
        """Answer all requests that have been taken."""
        requests, self._requests = self._requests, []
        if not requests:
            return
        now_ms, judge = wall_clock_ms(), self._judge.bind()
        write = self._writer.write
        usual_route, usual = requests[0][1][0], 0  # counted once for all, where the status is 200
        # A write leaves the processor's caches to the kernel: all answers are made before the first is written.
        unsent: list[tuple[Asker, bytes]] = []
        answered = 0
        for asker, request in requests:
            if asker.is_busy:
                asker.queue(request)
                continue
            route, body = request
            try:
                answer = route.handle(judge, body, now_ms)
            except Exception:  # noqa: BLE001 - a bug met by one request must not take those of others along
                _log.exception("request failed")
                answer = INTERNAL_ERROR
            if not isinstance(answer, tuple):
                self._send(unsent)  # what came before it is answered before it
                asker.start_long_answer(route, answer)
                continue
            answered += 1
            if route is usual_route and answer[0] == _OK:
                usual += 1
            else:
                self._metrics.count_request(route.path, answer[0])
            unsent.append((asker, write(answer)))
        self._send(unsent)
        self._metrics.add(self._metrics.http_requests[usual_route.path, _OK], usual)
        self._metrics.observe(REQUEST_DURATION_NS, time.perf_counter_ns() - self._began_ns, answered)

    @staticmethod
    def _send(unsent: list[tuple[Asker, bytes]]) -> None:
        for asker, response in unsent:
            asker.send(response)
        unsent.clear()
