"""A connection of the fast path: it feeds a `RequestReader`, passes requests to `Iteration` and writes the responses.

While a long answer (a large batch) is in progress, the connection is busy: reading is paused, and requests received
already wait in a queue. Reading is also paused while more requests have been received than one loop iteration answers,
and while the client does not read its answers; what has been received waits in the reader. When the reader finds a
request that is not plain, the requests before it are answered and the connection is handed over to the HTTP library,
which hands it back to a new one at the next plain request.
"""

import time
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass

from bidstream_svc.logs import get_logger
from bidstream_svc.metrics import MetricCells
from bidstream_svc.metrics.cells import REQUEST_DURATION_NS
from bidstream_svc.server.answers import INTERNAL_ERROR, OVERLOADED, REQUEST_TIMEOUT, Answer
from bidstream_svc.server.base_connection import Connection, Phase
from bidstream_svc.server.connections import Connections
from bidstream_svc.server.fastpath.heads import PlainHeads
from bidstream_svc.server.fastpath.iteration import Iteration
from bidstream_svc.server.fastpath.reader import FOREIGN, IDLE, MORE, Request, RequestReader
from bidstream_svc.server.handlers import LongAnswer
from bidstream_svc.server.response_writer import ResponseWriter
from bidstream_svc.server.routes import OTHER_LABEL, Route
from bidstream_svc.server.turns import Turns

_log = get_logger(__name__)


@dataclass(slots=True)
class Shared:
    """Objects shared by all connections of the fast path."""

    connections: Connections
    iteration: Iteration
    turns: Turns
    metrics: MetricCells
    writer: ResponseWriter


class FastPathConnection(Connection):
    """One connection.

    Args:
        shared: objects shared by all connections.
        heads: recognises plain heads; shared by the connections of a listener.
        make_fallback: returns the connection that answers requests that are not plain, up to the next plain one.

    Attributes:
        reader: reads the requests.
        is_busy: whether a long answer is in progress.
    """

    __slots__ = (
        "_awaits_turn",
        "_began_ns",
        "_busy_bytes",
        "_has_eof",
        "_is_reading_paused",
        "_iteration",
        "_long_answer",
        "_long_route",
        "_make_fallback",
        "_queue",
        "_shared",
        "is_busy",
        "reader",
    )

    def __init__(self, shared: Shared, heads: PlainHeads, make_fallback: Callable[[], Connection]) -> None:
        super().__init__(shared.connections)
        self._shared = shared
        self._iteration = shared.iteration
        self._make_fallback = make_fallback
        self.reader = RequestReader(heads)
        self.is_busy = False
        self._long_answer: LongAnswer
        self._long_route: Route
        self._began_ns = 0
        self._busy_bytes = 0  # of the bodies of the request with the long answer and of those in the queue
        self._queue: deque[Request] = deque()
        self._has_eof = False
        self._awaits_turn = False
        self._is_reading_paused = False

    # Called by the transport.

    def data_received(self, data: bytes) -> None:
        """Pass the requests that are complete to the iteration."""
        request = self.reader.match(data)
        if request is None:
            self._read(data)
        else:
            self._iteration.add(self, request)
            self.quiet_sweeps = 0

    def eof_received(self) -> bool:
        """Answer the complete requests. Return True if the connection must stay open for that."""
        self._iteration.answer()
        self._has_eof = True
        if self.transport is not None and not self.transport.can_write_eof():
            # With TLS, uvloop closes the connection in any case.
            while self._is_open and self._has_requests:
                if self.is_busy:
                    self._continue_long_answer()
                else:
                    self._take(self.reader.read_on(self._iteration.limit))
                    self._iteration.answer()
        return self._has_requests

    def pause_writing(self) -> None:
        """Pause reading while the client does not read its answers."""
        super().pause_writing()
        self._go_on()

    def resume_writing(self) -> None:
        """Resume reading, unless requests that have been received are not answered."""
        super().resume_writing()
        self._go_on()

    # Called by Iteration.

    def send(self, response: bytes) -> None:
        """Write a response, unless the connection is closed."""
        transport = self.transport
        if transport is not None and not transport.is_closing():
            transport.write(response)
            if self._shared.writer.closes:
                transport.close()

    def queue(self, request: Request) -> None:
        """Queue a request until the long answer is sent."""
        self._queue.append(request)
        self._busy_bytes += len(request[1])
        self.hold_input(self._busy_bytes + self.reader.unfinished_bytes)

    def start_long_answer(self, route: Route, steps: LongAnswer, body_bytes: int) -> None:
        """Run the steps of an answer, each in a turn of its own, and send it."""
        self.is_busy = True
        self._busy_bytes = body_bytes
        self._long_route, self._long_answer = route, steps
        self._began_ns = time.perf_counter_ns()
        self._go_on()
        # No step at once: the last one may hand the connection over, with requests of this iteration open.
        self._await_turn()
        self.hold_input(body_bytes + self.reader.unfinished_bytes)

    # Called by Turns.

    def take_turn(self) -> None:
        """Go on with the long answer, or else pass the next requests to the iteration."""
        self._awaits_turn = False
        if not self._is_open:
            return
        if self.is_busy:
            self._continue_long_answer()
        elif self.reader.state is MORE and not self.is_writing_paused:
            self._take(self.reader.read_on(self._iteration.limit))

    # Called by Connections.

    def request_phase(self) -> Phase:
        """See Connection."""
        if self._has_requests:
            return Phase.RESPONSE
        return Phase.IDLE if self.reader.state is IDLE else Phase.REQUEST

    def time_out(self, phase: Phase) -> None:
        """Close the connection; an incomplete request is answered with 408 first."""
        if phase is Phase.REQUEST:
            self._send_counted(self.reader.route, REQUEST_TIMEOUT)
        super().time_out(phase)

    def refuse(self) -> None:
        """Answer 503 and close the connection, because the buffered bytes exceed their limit."""
        if self.is_busy or self.is_writing_paused:
            self.abort()  # there is an answer to send before
            return
        self._iteration.answer()  # the complete requests before it are answered first
        self._send_counted(self.reader.route, OVERLOADED)
        if self.transport is not None:
            self.transport.close()

    # Requests that are incomplete, pipelined or not plain.

    def _read(self, data: bytes) -> None:
        self._take(self.reader.feed(data, self._iteration.limit))

    def _take(self, requests: list[Request]) -> None:
        if requests:
            self._iteration.add_pipelined(self, requests)
            self.quiet_sweeps = 0
        state = self.reader.state
        if state is FOREIGN:
            self._hand_over()
            return
        if state is not IDLE or self.input_bytes:
            self.hold_input(self._busy_bytes + self.reader.unfinished_bytes)
        if state is MORE or self._is_reading_paused:
            self._go_on()

    @property
    def _is_open(self) -> bool:
        return self.transport is not None and not self.transport.is_closing()

    @property
    def _has_requests(self) -> bool:
        """Whether requests are waiting or are being answered, besides those that the iteration has."""
        return self.is_busy or self.reader.state is MORE

    def _hand_over(self) -> None:
        """Hand over to the fallback once all requests before the one that is not plain are answered."""
        self._iteration.answer()
        transport = self.transport
        if self.is_busy or transport is None or transport.is_closing():
            return
        if self._is_reading_paused:
            transport.resume_reading()
        successor = self._make_fallback()
        self.pass_to(successor, self.reader.take_foreign())
        if self._has_eof:
            successor.eof_received()

    # Long answers.

    def _continue_long_answer(self) -> None:
        """Run one step; after the last one, send the answer and then answer the queued requests."""
        try:
            next(self._long_answer)
        except StopIteration as end:
            answer: Answer = end.value
        except Exception:  # noqa: BLE001 - a bug in one request must not affect others
            _log.exception("request failed")
            answer = INTERNAL_ERROR
        else:
            self._await_turn()
            return
        self.is_busy = False
        self._busy_bytes = 0
        self.hold_input(self.reader.unfinished_bytes)
        self._send_counted(self._long_route, answer)
        self._shared.metrics.observe(REQUEST_DURATION_NS, time.perf_counter_ns() - self._began_ns)
        self._answer_queued()
        self._go_on()

    def _answer_queued(self) -> None:
        queued, self._queue = self._queue, deque()
        for request in queued:
            self._iteration.add(self, request)
        self._iteration.answer()  # requests after another long answer are queued again
        if self.reader.state is FOREIGN:
            self._hand_over()

    def _send_counted(self, route: Route | None, answer: Answer) -> None:
        self._shared.metrics.count_request(OTHER_LABEL if route is None else route.path, answer[0])
        self.send(self._shared.writer.write(answer))

    # What is next.

    def _go_on(self) -> None:
        """Begin or end what the connection waits for: further bytes, its turn to read on, or the end of the input."""
        transport = self.transport
        if transport is None or transport.is_closing():
            return
        must_pause = self._has_requests or self.is_writing_paused
        if must_pause != self._is_reading_paused:
            self._is_reading_paused = must_pause
            if must_pause:
                transport.pause_reading()
            else:
                transport.resume_reading()
        if self.is_busy or self.is_writing_paused:
            return
        if self.reader.state is MORE:
            self._await_turn()
        elif self._has_eof:
            self._iteration.answer()
            if not self.is_busy:
                transport.close()

    def _await_turn(self) -> None:
        if not self._awaits_turn:
            self._awaits_turn = True
            self._shared.turns.add(self.take_turn)
