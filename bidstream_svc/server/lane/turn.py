"""What one turn of the event loop brings: requests of many connections, decrypted in a bunch.

A bunch keeps code and keys in the processor's caches, and the clocks are read and the counters written once for all.
"""

import asyncio
import time
from collections.abc import Generator
from typing import Protocol

from bidstream_svc.logs import get_logger
from bidstream_svc.metrics import MetricCells, Route
from bidstream_svc.metrics.cells import HTTP_REQUESTS, REQUEST_DURATION_NS
from bidstream_svc.server.answers import INTERNAL_ERROR, Answer
from bidstream_svc.server.handler import DecryptHandler
from bidstream_svc.server.wire import AnswerWriter

_log = get_logger(__name__)

_OK = 200
_OK_CELL = HTTP_REQUESTS[Route.DECRYPT, _OK]


class Answerable(Protocol):
    """A connection, as a turn sees it.

    Attributes:
        batch: the one under way, behind which requests must wait, or None.
    """

    batch: Generator[None, None, Answer] | None

    def start_batch(self, body: bytes) -> None:
        """Answer a batch, in this turn or over several."""

    def send(self, answer: bytes) -> None:
        """Write an answer, if the client is still there."""

    def put_off(self, route: Route, body: bytes) -> None:
        """Keep a request until the batch is done."""


class Turn:
    """Collects the complete requests of a turn and answers them at its end, in the order in which they came."""

    def __init__(self, handler: DecryptHandler, metrics: MetricCells, writer: AnswerWriter) -> None:
        self._handler = handler
        self._metrics = metrics
        self._writer = writer
        self._loop = asyncio.get_running_loop()
        self._requests: list[tuple[Answerable, Route, bytes]] = []
        self._began_ns = 0

    def add(self, connection: Answerable, route: Route, body: bytes) -> None:
        """Take a complete request."""
        if not self._requests:
            # Every request of the turn is timed from the first: never too short.
            self._began_ns = time.perf_counter_ns()
            self._loop.call_soon(self.answer)
        self._requests.append((connection, route, body))

    def answer(self) -> None:
        """Answer all that have been taken."""
        requests, self._requests = self._requests, []
        if not requests:
            return
        now_ms = self._handler.now_ms()
        decrypt, write, batch_route = self._handler.bind(), self._writer.write, Route.BATCH
        good = other = 0
        # A write leaves the processor's caches to the kernel: all are decrypted before the first is written.
        unsent: list[tuple[Answerable, bytes]] = []
        for connection, route, body in requests:
            if route is batch_route or connection.batch is not None:
                self._send(unsent)  # what came before a batch is answered before it
                if connection.batch is None:
                    connection.start_batch(body)
                else:
                    connection.put_off(route, body)
                continue
            try:
                answer = decrypt(body, now_ms)
            except Exception:  # noqa: BLE001 - a bug met by one request must not take those of others along
                _log.exception("request failed")
                answer = INTERNAL_ERROR
            if answer[0] == _OK:
                good += 1
            else:
                other += 1
                self._metrics.count_request(route, answer[0])
            unsent.append((connection, write(answer)))
        self._send(unsent)
        self._metrics.add(_OK_CELL, good)
        self._metrics.observe(REQUEST_DURATION_NS, time.perf_counter_ns() - self._began_ns, good + other)

    @staticmethod
    def _send(unsent: list[tuple[Answerable, bytes]]) -> None:
        for connection, answer in unsent:
            connection.send(answer)
        unsent.clear()
