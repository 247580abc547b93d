"""A connection of the fast path: it feeds a `RequestReader`, answers the requests and writes the responses.

While a long answer (a large batch) is in progress, the connection is busy: reading is paused, and requests received
already wait in a queue. Reading is also paused while more requests have been received than are answered at once, and
while the client does not read its answers; what has been received waits in the reader. When the reader finds a request
that is not plain, the requests before it are answered and the connection is handed over to the HTTP library, which
hands it back to a new one at the next plain request.
"""

import time
from collections import deque
from collections.abc import Callable, Iterable
from dataclasses import dataclass

from bidstream_svc.clock import wall_clock_ms
from bidstream_svc.logs import get_logger
from bidstream_svc.metrics import MetricCells
from bidstream_svc.metrics.cells import REQUEST_DURATION_NS
from bidstream_svc.server.answers import INTERNAL_ERROR, OVERLOADED, REQUEST_TIMEOUT, Answer
from bidstream_svc.server.base_connection import Connection, Phase
from bidstream_svc.server.connections import Connections
from bidstream_svc.server.fastpath.heads import PlainHeads
from bidstream_svc.server.fastpath.reader import FOREIGN, IDLE, MORE, Request, RequestReader
from bidstream_svc.server.handlers import LongAnswer, TokenDecryptor
from bidstream_svc.server.response_writer import ResponseWriter
from bidstream_svc.server.routes import OTHER_LABEL, Route
from bidstream_svc.server.turns import Turns

_log = get_logger(__name__)


# Of pipelined requests, so many are answered as soon as they are received, and in each turn of the connection.
_MAX_AT_ONCE = 2
_MAX_IN_TURN = 32


@dataclass(slots=True)
class Shared:
    """Objects shared by all connections of the fast path."""

    connections: Connections
    decryptor: TokenDecryptor
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
        """Answer the requests that are complete."""
        self.receive(data, None)

    def receive(self, data: bytes, found: Request | None) -> bool:
        """Answer the requests that are complete. Returns whether nothing is waiting or in progress then.

        Args:
            data: what has been received.
            found: the request that these bytes are, if that is known.
        """
        reader = self.reader
        if reader.state is not IDLE or self.is_busy:
            self._take(reader.feed(data, _MAX_AT_ONCE))
        elif found is not None:
            self._answer([found])
        elif (request := reader.match(data)) is not None:
            self.note_head()
            self._answer([request])
        else:
            self._take(reader.feed(data, _MAX_AT_ONCE))
        return reader.state is IDLE and not self.is_busy

    def note_head(self) -> None:
        """Called when the reader has recognised the head of a whole request."""

    def eof_received(self) -> bool:
        """Return True if the connection must stay open, because complete requests are not answered."""
        self._has_eof = True
        if self.transport is not None and not self.transport.can_write_eof():
            # With TLS, uvloop closes the connection in any case.
            while self._is_open and self._has_requests:
                if self.is_busy:
                    self._continue_long_answer()
                else:
                    self._take(self.reader.read_on(_MAX_IN_TURN))
        return self._has_requests

    def pause_writing(self) -> None:
        """Pause reading while the client does not read its answers."""
        super().pause_writing()
        self._go_on()

    def resume_writing(self) -> None:
        """Resume reading, unless requests that have been received are not answered."""
        super().resume_writing()
        self._go_on()

    # Called by Turns.

    def take_turn(self) -> None:
        """Go on with the long answer, or else answer the next requests."""
        self._awaits_turn = False
        if not self._is_open:
            return
        if self.is_busy:
            self._continue_long_answer()
        elif self.reader.state is MORE and not self.is_writing_paused:
            self._take(self.reader.read_on(_MAX_IN_TURN))

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
        self._send_counted(self.reader.route, OVERLOADED)
        if self.transport is not None:
            self.transport.close()

    # Answers.

    def _answer(self, requests: Iterable[Request]) -> None:
        """Answer requests, in order; those behind a long answer are queued."""
        began_ns, now_ms = time.perf_counter_ns(), wall_clock_ms()
        self.quiet_sweeps = 0
        responses: list[bytes] = []
        for request in requests:
            if responses and self._shared.writer.closes:
                break  # the first response ends the connection
            if self.is_busy:
                self._queue.append(request)
                self._busy_bytes += len(request[1])
                continue
            route, body = request
            try:
                answer = route.handle(self._shared.decryptor.bind(), body, now_ms)
            except Exception:  # noqa: BLE001 - a bug in one request must not affect others
                _log.exception("request failed")
                answer = INTERNAL_ERROR
            if isinstance(answer, tuple):
                self._shared.metrics.count_request(route.path, answer[0])
                responses.append(self._shared.writer.write(answer))
            else:
                self.is_busy = True
                self._busy_bytes = len(body)
                self._long_route, self._long_answer = route, answer
                self._began_ns = time.perf_counter_ns()
        if responses:
            self._send(responses)
            self._shared.metrics.observe(REQUEST_DURATION_NS, time.perf_counter_ns() - began_ns, len(responses))
        if self.is_busy:
            self._go_on()
            # No step at once: the last one may hand the connection over, with requests of this call open.
            self._await_turn()
            self.hold_input(self._busy_bytes + self.reader.unfinished_bytes)

    def _send(self, responses: list[bytes]) -> None:
        """Write responses, unless the connection is closed."""
        transport = self.transport
        if transport is None or transport.is_closing():
            return
        if self._shared.writer.closes:
            transport.write(responses[0])
            transport.close()
        else:
            # One by one, unsent responses would take several times their length in the transport's buffer.
            transport.write(b"".join(responses) if len(responses) > 1 else responses[0])

    def _take(self, requests: list[Request]) -> None:
        """Answer what the reader has returned, and prepare for what comes next."""
        if requests:
            self._answer(requests)
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
        """Whether requests are waiting or are being answered."""
        return self.is_busy or self.reader.state is MORE

    def _hand_over(self) -> None:
        """Hand over to the fallback once all requests before the one that is not plain are answered."""
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
        if queued and self._is_open:
            self._answer(queued)  # requests behind another long answer are queued again
        if self.reader.state is FOREIGN:
            self._hand_over()

    def _send_counted(self, route: Route | None, answer: Answer) -> None:
        self._shared.metrics.count_request(OTHER_LABEL if route is None else route.path, answer[0])
        self._send([self._shared.writer.write(answer)])

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
            transport.close()

    def _await_turn(self) -> None:
        if not self._awaits_turn:
            self._awaits_turn = True
            self._shared.turns.add(self.take_turn)
