"""The lane's protocol for a connection, and what all its connections share.

A request goes: bytes -> known head? -> queued -> together with all that came in the same turn of the event loop,
decrypted and written, one write a connection. Decrypting in a bunch keeps code and keys in the processor's caches.

A connection is always in one of four states: between requests; inside a head (`_beginning`); inside a body
(`_missing`); or inside a batch (`_batch`), when it neither reads nor answers anything else.
"""

import asyncio
import time
from collections import deque
from collections.abc import Generator
from typing import cast

from bidstream_svc.logs import get_logger
from bidstream_svc.metrics import MetricCells, Route
from bidstream_svc.metrics.cells import REQUEST_DURATION_NS
from bidstream_svc.server.answers import INTERNAL_ERROR, REQUEST_TIMEOUT, Answer
from bidstream_svc.server.data_plane import DataPlane
from bidstream_svc.server.handler import DecryptHandler
from bidstream_svc.server.lane.heads import HEAD_END, MAX_HEAD_BYTES, NO_HEAD, HeadMemo, may_become_plain
from bidstream_svc.server.lane.wire import AnswerWriter

__all__ = ["Lane"]

_log = get_logger(__name__)

_MAX_SWEEP_PERIOD_S = 1.0


class Lane:
    """Makes the protocols of the data plane's connections; call it to get one.

    Args:
        plane: the aiohttp side: counts connections and takes what the lane does not.
    """

    def __init__(self, plane: DataPlane, handler: DecryptHandler, metrics: MetricCells) -> None:
        self.plane = plane
        self.handler = handler
        self.metrics = metrics
        self.memo = HeadMemo(plane.bearer)
        self.writer = AnswerWriter()
        self.connections: set[_LaneConnection] = set()
        self._staged: list[_LaneConnection] = []
        self._loop = asyncio.get_running_loop()
        limits = plane.limits
        self._sweep_period_s = min(_MAX_SWEEP_PERIOD_S, limits.idle_timeout_s / 2, limits.request_timeout_s / 2)
        self._idle_sweeps = round(limits.idle_timeout_s / self._sweep_period_s)
        self._request_sweeps = round(limits.request_timeout_s / self._sweep_period_s)
        self._sweeper = self._loop.call_later(self._sweep_period_s, self._sweep)

    def __call__(self) -> asyncio.Protocol:
        """A protocol for one connection."""
        return _LaneConnection(self)

    def stage(self, connection: "_LaneConnection") -> None:
        """Let a connection answer what it has queued, at the end of this turn of the loop."""
        if not self._staged:
            self._loop.call_soon(self._answer_staged)
        self._staged.append(connection)

    def forget_heads(self) -> None:
        """Read every head anew, because the bearer token changed."""
        self.memo.forget()
        for connection in self.connections:
            connection.forget_head()

    def drain(self) -> None:
        """Let the next answer of each connection be its last."""
        self.writer.closes = True
        self.writer.renew()

    def close_idle(self) -> None:
        """Close the connections between two requests."""
        for connection in tuple(self.connections):
            connection.close_if_idle()

    def close(self) -> None:
        """Close all connections at once."""
        self._sweeper.cancel()
        for connection in tuple(self.connections):
            connection.abort()

    def _answer_staged(self) -> None:
        staged, self._staged = self._staged, []
        for connection in staged:
            connection.answer_queued()

    def _sweep(self) -> None:
        """Close what has been idle, or in the middle of a request, for too long; one timer for all."""
        self._sweeper = self._loop.call_later(self._sweep_period_s, self._sweep)
        self.writer.renew()
        for connection in tuple(self.connections):
            connection.grow_older(self._idle_sweeps, self._request_sweeps)


class _LaneConnection(asyncio.Protocol):
    __slots__ = (
        "_batch",
        "_beginning",
        "_body_parts",
        "_head",
        "_idle_sweeps",
        "_is_midway",
        "_is_reading_paused",
        "_is_writing_paused",
        "_lane",
        "_missing",
        "_queue",
        "_received_ns",
        "_request_sweeps",
        "_transport",
        "_unread",
    )

    def __init__(self, lane: Lane) -> None:
        self._lane = lane
        self._transport: asyncio.Transport | None = None
        self._head = NO_HEAD  # the last one seen
        self._is_midway = False  # inside a head, a body or a batch
        self._beginning = b""  # of a head that is not complete
        self._body_parts: list[bytes] = []
        self._missing = 0  # bytes of the body
        self._batch: Generator[None, None, Answer] | None = None
        self._unread = b""  # what came during a batch
        self._queue: deque[tuple[Route, bytes]] = deque()  # complete requests
        self._received_ns = 0  # when the last of them was complete
        self._idle_sweeps = 0
        self._request_sweeps = 0
        self._is_reading_paused = False
        self._is_writing_paused = False

    # What the transport calls.

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        if self._lane.plane.admit():
            self._transport = cast("asyncio.Transport", transport)  # uvloop's is one, but not by inheritance
            self._lane.connections.add(self)
        else:
            cast("asyncio.Transport", transport).abort()

    def connection_lost(self, _exc: Exception | None) -> None:
        if self._transport is not None:
            self._transport = None
            self._queue.clear()
            self._lane.connections.discard(self)
            self._lane.plane.release()

    def data_received(self, data: bytes) -> None:
        self._received_ns = time.perf_counter_ns()
        self._idle_sweeps = 0
        head = self._head
        if self._is_midway:
            self._continue(data)
        elif data.startswith(head.raw) and len(data) == head.request_length:
            self._enqueue(head.route, data[len(head.raw) :])
        else:
            self._take(data)

    def eof_received(self) -> None:
        # The transport closes itself after this: what is complete gets its answer before.
        self.answer_queued()

    def pause_writing(self) -> None:
        self._is_writing_paused = True
        self._pause_or_resume_reading()

    def resume_writing(self) -> None:
        self._is_writing_paused = False
        self._pause_or_resume_reading()

    # What the lane calls.

    def answer_queued(self) -> None:
        """Answer all complete requests in one write, up to a batch that takes more than one turn."""
        transport = self._transport
        if transport is None:
            return
        answers: list[bytes] = []
        while self._queue:
            route, body = self._queue.popleft()
            answer = self._answer(route, body)
            if answer is None:
                break
            answers.append(self._finish(route, answer))
        if answers:
            transport.write(b"".join(answers) if len(answers) > 1 else answers[0])
            self._lane.metrics.observe(REQUEST_DURATION_NS, time.perf_counter_ns() - self._received_ns)

    def close_if_idle(self) -> None:
        """Close between two requests; a request under way gets its answer first."""
        if self._transport is not None and not self._is_midway and not self._queue:
            self._transport.close()

    def abort(self) -> None:
        """Close at once."""
        if self._transport is not None:
            self._transport.abort()

    def forget_head(self) -> None:
        """Look the next head up again; one whose body is still coming stands."""
        if not self._missing:
            self._head = NO_HEAD

    def grow_older(self, idle_sweeps: int, request_sweeps: int) -> None:
        """Called at every sweep: close when nothing came for so many, or when a request takes so many to arrive."""
        if self._transport is None or self._batch is not None:
            return
        if self._is_midway:
            self._request_sweeps += 1
            if self._request_sweeps > request_sweeps:
                self._transport.write(self._finish(self._head.route, REQUEST_TIMEOUT))
                self._transport.close()
        else:
            self._idle_sweeps += 1
            if self._idle_sweeps > idle_sweeps:
                # A client that does not read would keep a gentle close waiting for ever.
                self._transport.abort() if self._is_writing_paused else self._transport.close()

    # Requests out of bytes.

    def _take(self, data: bytes) -> None:
        """Take requests out of bytes that begin with a head."""
        start = 0
        while start < len(data):
            end = data.find(HEAD_END, start, start + MAX_HEAD_BYTES)
            if end < 0:
                self._wait_for_head(data[start:])
                return
            body_start = end + len(HEAD_END)
            head = self._lane.memo.find(data[start:body_start])
            if head is None:
                self._hand_over(data[start:])
                return
            self._head = head
            body_end = body_start + head.body_length
            if body_end > len(data):
                self._body_parts = [data[body_start:]]
                self._missing = body_end - len(data)
                self._is_midway = True
                return
            self._enqueue(head.route, data[body_start:body_end])
            start = body_end

    def _continue(self, data: bytes) -> None:
        """Go on inside a head, a body or a batch."""
        if self._batch is not None:
            self._unread += data
        elif self._missing:
            self._body_parts.append(data[: self._missing])
            rest = data[self._missing :]
            self._missing = max(0, self._missing - len(data))
            if not self._missing:
                self._is_midway = False
                body, self._body_parts = b"".join(self._body_parts), []
                self._enqueue(self._head.route, body)
                self._take(rest)
        else:
            self._is_midway = False
            beginning, self._beginning = self._beginning + data, b""
            self._take(beginning)

    def _enqueue(self, route: Route, body: bytes) -> None:
        self._request_sweeps = 0
        if not self._queue:
            self._lane.stage(self)
        self._queue.append((route, body))

    def _wait_for_head(self, beginning: bytes) -> None:
        if may_become_plain(beginning):
            self._beginning = beginning
            self._is_midway = True
        else:
            self._hand_over(beginning)

    def _hand_over(self, data: bytes) -> None:
        """Let aiohttp go on with this connection, from the beginning of a request; there is no way back."""
        self.answer_queued()
        transport = self._transport
        if self._batch is not None:
            self._unread = data
            return
        if transport is None or transport.is_closing():
            return
        self._transport = None
        self._lane.connections.discard(self)
        protocol = self._lane.plane.adopt(transport)
        if self._is_writing_paused:
            protocol.pause_writing()
        if self._is_reading_paused:
            transport.resume_reading()
        protocol.data_received(data)

    # Answers out of requests.

    def _answer(self, route: Route, body: bytes) -> Answer | None:
        """The answer; None if it is a batch's that takes more than this turn."""
        try:
            if route is Route.DECRYPT:
                return self._lane.handler.decrypt(body)
            batch = self._lane.handler.decrypt_batch(body)
            try:
                next(batch)
            except StopIteration as end:
                answer: Answer = end.value
                return answer
        except Exception:  # noqa: BLE001 - a bug met by one request must not take the other connections along
            _log.exception("request failed")
            return INTERNAL_ERROR
        self._batch = batch
        self._is_midway = True
        self._pause_or_resume_reading()
        asyncio.get_running_loop().call_soon(self._continue_batch)
        return None

    def _continue_batch(self) -> None:
        batch, transport = self._batch, self._transport
        if batch is None or transport is None:
            return
        try:
            next(batch)
        except StopIteration as end:
            answer: Answer = end.value
        except Exception:  # noqa: BLE001 - as above
            _log.exception("request failed")
            answer = INTERNAL_ERROR
        else:
            asyncio.get_running_loop().call_soon(self._continue_batch)
            return
        self._batch = None
        transport.write(self._finish(Route.BATCH, answer))
        self._lane.metrics.observe(REQUEST_DURATION_NS, time.perf_counter_ns() - self._received_ns)
        self._leave_batch()

    def _leave_batch(self) -> None:
        """Go on where the batch interrupted: answer what is queued, then take what came meanwhile."""
        self._is_midway = bool(self._missing or self._beginning)
        self._pause_or_resume_reading()
        self.answer_queued()
        if self._batch is None and self._unread:
            data, self._unread = self._unread, b""
            self._continue(data) if self._is_midway else self._take(data)

    def _finish(self, route: Route, answer: Answer) -> bytes:
        """Count an answer and make bytes of it; the last one takes the rest of the queue with it."""
        self._lane.metrics.count_request(route, answer[0])
        if self._lane.writer.closes and self._transport is not None:
            self._queue.clear()
            # After this turn, when what is returned here has been written.
            asyncio.get_running_loop().call_soon(self._transport.close)
        return self._lane.writer.write(answer)

    def _pause_or_resume_reading(self) -> None:
        """Read nothing while a batch is under way or while the client does not read its answers."""
        must_pause = self._batch is not None or self._is_writing_paused
        transport = self._transport
        if transport is None or must_pause == self._is_reading_paused:
            return
        self._is_reading_paused = must_pause
        if must_pause:
            transport.pause_reading()
        else:
            transport.resume_reading()
