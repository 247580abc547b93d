"""The lane's protocol for one connection: bytes in, complete requests out to the turn.

A connection is always in one of four states: between requests; inside a head (`_beginning`); inside a body
(`_missing`); or inside a batch that takes several turns (`batch`), when it neither reads nor answers anything else.
"""

import asyncio
import time
from collections import deque
from collections.abc import Generator
from dataclasses import dataclass, field
from typing import cast

from bidstream_svc.logs import get_logger
from bidstream_svc.metrics import MetricCells, Route
from bidstream_svc.metrics.cells import REQUEST_DURATION_NS
from bidstream_svc.server.answers import INTERNAL_ERROR, REQUEST_TIMEOUT, Answer
from bidstream_svc.server.data_plane import DataPlane
from bidstream_svc.server.handler import DecryptHandler
from bidstream_svc.server.hosts import HostCheck
from bidstream_svc.server.lane.heads import HEAD_END, MAX_HEAD_BYTES, NO_HEAD, Head, HeadMemo, may_become_plain
from bidstream_svc.server.lane.turn import Turn
from bidstream_svc.server.wire import AnswerWriter

_log = get_logger(__name__)


@dataclass(slots=True)
class Shared:
    """What all connections of the lane share."""

    plane: DataPlane
    handler: DecryptHandler
    metrics: MetricCells
    writer: AnswerWriter
    turn: Turn
    connections: "set[LaneConnection]" = field(default_factory=set)


class LaneConnection(asyncio.Protocol):
    """One connection.

    Args:
        shared: what it has in common with all others.
        memo: the heads of its listener.
        hosts: what that listener's `Host` headers may say.

    Attributes:
        batch: the one under way, if any.
    """

    __slots__ = (
        "_batch_began_ns",
        "_beginning",
        "_body_parts",
        "_head",
        "_hosts",
        "_idle_sweeps",
        "_is_midway",
        "_is_reading_paused",
        "_is_writing_paused",
        "_memo",
        "_missing",
        "_put_off",
        "_request_sweeps",
        "_shared",
        "_transport",
        "_turn",
        "_unread",
        "batch",
    )

    def __init__(self, shared: Shared, memo: HeadMemo, hosts: HostCheck) -> None:
        self._shared = shared
        self._memo = memo
        self._hosts = hosts
        self._turn = shared.turn
        self._transport: asyncio.Transport | None = None
        self._head = NO_HEAD  # the last one seen
        self._is_midway = False  # inside a head, a body or a batch
        self._beginning = b""  # of a head that is not complete
        self._body_parts: list[bytes] = []
        self._missing = 0  # bytes of the body
        self.batch: Generator[None, None, Answer] | None = None
        self._batch_began_ns = 0
        self._unread = b""  # bytes that came during a batch
        self._put_off: deque[tuple[Route, bytes]] = deque()  # requests that came before it ended
        self._idle_sweeps = 0
        self._request_sweeps = 0
        self._is_reading_paused = False
        self._is_writing_paused = False

    # What the transport calls.

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Serve, unless there are too many."""
        # uvloop's transport is one, but not by inheritance.
        transport = cast("asyncio.Transport", transport)
        if self._shared.plane.admit(transport):
            self._transport = transport
            self._shared.connections.add(self)

    def connection_lost(self, _exc: Exception | None) -> None:
        """Forget the client."""
        if self._transport is not None:
            self._transport = None
            self._shared.connections.discard(self)
            self._shared.plane.release()

    def data_received(self, data: bytes) -> None:
        """Take what came; the first branch is the plain case: one whole request with the same head as the last."""
        head = self._head
        self._idle_sweeps = 0
        if not self._is_midway and len(data) == head.request_length and data.startswith(head.raw):
            self._turn.add(self, head.route, data[head.length :])
        elif self._is_midway:
            self._continue(data)
        else:
            self._take(data)

    def eof_received(self) -> None:
        """Answer what is complete: the transport closes itself after this."""
        self._turn.answer()

    def pause_writing(self) -> None:
        """Read no more from a client that does not read its answers."""
        self._is_writing_paused = True
        self._pause_or_resume_reading()

    def resume_writing(self) -> None:
        """Go on reading."""
        self._is_writing_paused = False
        self._pause_or_resume_reading()

    # What the turn calls.

    def send(self, answer: bytes) -> None:
        """Write an answer, if the client is still there."""
        transport = self._transport
        if transport is not None and not transport.is_closing():
            transport.write(answer)
            if self._shared.writer.closes:
                transport.close()

    def put_off(self, route: Route, body: bytes) -> None:
        """Keep a request until the batch is done."""
        self._put_off.append((route, body))

    def start_batch(self, body: bytes) -> None:
        """Answer a batch: a small one at once, a large one over several turns."""
        handler = self._shared.handler
        self.batch = handler.decrypt_batch(body, handler.now_ms())
        self._batch_began_ns = time.perf_counter_ns()
        self._is_midway = True
        self._continue_batch()

    # What the lane calls.

    def close_if_idle(self) -> None:
        """Close between two requests; a request under way gets its answer first."""
        if self._transport is not None and not self._is_midway:
            self._transport.close()

    def abort(self) -> None:
        """Close at once."""
        if self._transport is not None:
            self._transport.abort()

    def forget_head(self) -> None:
        """Look the next head up again; of one whose body is still coming, the route stays."""
        self._head = Head(NO_HEAD.raw, self._head.route, NO_HEAD.body_length)

    def grow_older(self, idle_sweeps: int, request_sweeps: int) -> None:
        """Called at every sweep: close when nothing came for so many, or when a request takes so many to arrive."""
        transport = self._transport
        if transport is None or self.batch is not None:
            return
        # While writing is paused, nothing is read either: a request that does not arrive then is not late.
        if self._is_midway and not self._is_writing_paused:
            self._request_sweeps += 1
            if self._request_sweeps <= request_sweeps:
                return
            if not transport.is_closing():
                self._send_counted(self._head.route, REQUEST_TIMEOUT)
        else:
            self._request_sweeps = 0
            self._idle_sweeps += 1
            if self._idle_sweeps <= idle_sweeps:
                return
        # A client that does not read would keep a gentle close waiting for ever.
        must_abort = self._is_writing_paused or transport.is_closing()
        transport.abort() if must_abort else transport.close()

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
            head = self._memo.find(data[start:body_start])
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
            self._turn.add(self, head.route, data[body_start:body_end])
            self._request_sweeps = 0
            start = body_end

    def _continue(self, data: bytes) -> None:
        """Go on inside a head, a body or a batch."""
        if self.batch is not None:
            self._unread += data
            return
        if not self._missing:
            self._is_midway = False
            data, self._beginning = self._beginning + data, b""
            self._take(data)
            return
        self._body_parts.append(data[: self._missing])
        rest = data[self._missing :]
        self._missing = max(0, self._missing - len(data))
        if not self._missing:
            self._is_midway = False
            body, self._body_parts = b"".join(self._body_parts), []
            self._turn.add(self, self._head.route, body)
            self._request_sweeps = 0
            self._take(rest)

    def _wait_for_head(self, beginning: bytes) -> None:
        if may_become_plain(beginning):
            self._beginning = beginning
            self._is_midway = True
        else:
            self._hand_over(beginning)

    def _hand_over(self, data: bytes) -> None:
        """Let aiohttp go on with this connection, from the beginning of a request; there is no way back."""
        self._turn.answer()
        transport = self._transport
        if self.batch is not None:
            self._unread = data
            return
        if transport is None or transport.is_closing():
            return
        self._transport = None
        self._shared.connections.discard(self)
        protocol = self._shared.plane.adopt(transport, self._hosts)
        if self._is_writing_paused:
            protocol.pause_writing()
        if self._is_reading_paused:
            transport.resume_reading()
        protocol.data_received(data)

    # Batches.

    def _continue_batch(self) -> None:
        batch = self.batch
        assert batch is not None
        try:
            next(batch)
        except StopIteration as end:
            answer: Answer = end.value
        except Exception:  # noqa: BLE001 - a bug met by one request must not take those of others along
            _log.exception("request failed")
            answer = INTERNAL_ERROR
        else:
            self._pause_or_resume_reading()
            asyncio.get_running_loop().call_soon(self._go_on)
            return
        self.batch = None
        self._is_midway = bool(self._missing or self._beginning)
        self._send_counted(Route.BATCH, answer)
        self._shared.metrics.observe(REQUEST_DURATION_NS, time.perf_counter_ns() - self._batch_began_ns)
        self._pause_or_resume_reading()

    def _go_on(self) -> None:
        """Go on with a batch; behind its end, with the requests that were put off, then with the bytes unread."""
        if self._transport is None:
            return
        self._continue_batch()
        if self.batch is None and self._put_off:
            put_off, self._put_off = self._put_off, deque()
            for route, body in put_off:
                self._turn.add(self, route, body)
            # Those behind the next large batch are put off again.
            self._turn.answer()
        if self.batch is None and self._unread:
            data, self._unread = self._unread, b""
            self._continue(data) if self._is_midway else self._take(data)

    def _send_counted(self, route: Route, answer: Answer) -> None:
        self._shared.metrics.count_request(route, answer[0])
        self.send(self._shared.writer.write(answer))

    def _pause_or_resume_reading(self) -> None:
        """Read nothing while a batch is under way or while the client does not read its answers."""
        must_pause = self.batch is not None or self._is_writing_paused
        transport = self._transport
        if transport is None or must_pause == self._is_reading_paused:
            return
        self._is_reading_paused = must_pause
        if must_pause:
            transport.pause_reading()
        else:
            transport.resume_reading()
