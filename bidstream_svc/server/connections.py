"""Accepted connections and their limits: number, deadlines, and buffered bytes.

The data plane and the admin plane each have one `Connections` object. It counts a connection from the moment it is
accepted and enforces a deadline in each phase (see `base_connection`):

    phase      deadline
    HANDSHAKE  request_timeout_s, enforced by `acceptor`
    IDLE       idle_timeout_s
    REQUEST    request_timeout_s
    RESPONSE   none
    UNREAD     unread_timeout_s, then the connection is aborted
    CLOSING    unread_timeout_s, then the connection is aborted
"""

import asyncio
import sys
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from math import inf

from bidstream_svc.logs import get_logger
from bidstream_svc.metrics import MetricCells
from bidstream_svc.metrics.cells import CONNECTIONS, CONNECTIONS_REFUSED, RefusalReason
from bidstream_svc.server.base_connection import Connection, Phase
from bidstream_svc.server.byte_budget import ByteBudget
from bidstream_svc.server.heap import trim

_log = get_logger(__name__)

_MAX_SWEEP_PERIOD_S = 1.0
# What uvloop and OpenSSL keep at most, for each connection with TLS, of what it has sent; see `acceptor`.
_MAX_TLS_BUFFER_BYTES = 64 * 1024
# How long a client with TLS has to receive a refusal.
_TLS_REFUSAL_S = 0.1
# What a connection may leave in the heap, mostly by a TLS handshake.
_CONNECTION_BYTES = 32 * 1024
# Having used so many bytes is worth a trim of the heap.
_TRIM_BYTES = 8 * 1024 * 1024
# A lack of file descriptors is logged once in this time, not for each connection.
_LOG_PERIOD_S = 60.0


@dataclass(frozen=True, slots=True)
class ConnectionLimits:
    """The limits for the connections of one plane.

    Attributes:
        max_connections: the maximum over all workers.
        idle_timeout_s: for a connection between two requests.
        request_timeout_s: for the TLS handshake, and from the first byte of a request to its last.
        max_buffered_bytes: the maximum in memory of requests that are incomplete or not answered and of answers that
            clients do not read, over all connections of this process.
        max_in_process: the maximum in this process, for which it has file descriptors.
        unread_timeout_s: for a connection that does not read its answers; None for `idle_timeout_s`.
    """

    max_connections: int
    idle_timeout_s: float
    request_timeout_s: float
    max_buffered_bytes: int
    max_in_process: int = sys.maxsize
    unread_timeout_s: float | None = None


class Connections:
    """The open connections of one plane in this process.

    Args:
        limits: the limits to enforce.
        metrics: the counters, shared by all workers.
        gauge: the cell of `metrics` that holds the number of open connections.
        refused: the cells of `metrics` that count refused connections.
    """

    def __init__(
        self,
        limits: ConnectionLimits,
        metrics: MetricCells,
        *,
        gauge: int = CONNECTIONS,
        refused: Mapping[RefusalReason, int] = CONNECTIONS_REFUSED,
    ) -> None:
        self.limits = limits
        self._metrics = metrics
        self._gauge = gauge
        self._refused = refused
        self._open: dict[int, Connection] = {}  # by number
        self._is_empty = asyncio.Event()
        self._is_empty.set()
        self._admitted = 0
        self._budget = ByteBudget(limits.max_buffered_bytes)
        self._peak_connections = 0  # since the last trim
        # One timer for all connections: each counts the sweeps since its last progress.
        self._period_s = min(_MAX_SWEEP_PERIOD_S, limits.idle_timeout_s / 2, limits.request_timeout_s / 2)
        idle_sweeps = round(limits.idle_timeout_s / self._period_s)
        unread_sweeps = round((limits.unread_timeout_s or limits.idle_timeout_s) / self._period_s)
        request_sweeps = round(limits.request_timeout_s / self._period_s)
        self._max_sweeps = {
            Phase.HANDSHAKE: inf,
            Phase.IDLE: idle_sweeps,
            Phase.REQUEST: request_sweeps,
            Phase.RESPONSE: inf,
            Phase.UNREAD: unread_sweeps,
            Phase.CLOSING: unread_sweeps,
        }
        self._loop = asyncio.get_running_loop()
        self._next_log_s = 0.0
        self._sweeper = self._loop.call_later(self._period_s, self._sweep_again)

    def __len__(self) -> int:
        """Return the number of open connections in this process."""
        return len(self._open)

    def __iter__(self) -> Iterator[Connection]:
        """Iterate over a copy, so that connections may be closed meanwhile."""
        return iter(tuple(self._open.values()))

    def admit(self, connection: Connection) -> bool:
        """Register an accepted connection. At the limit, count a refusal and return False instead."""
        if self._metrics.over_workers(self._gauge) >= self.limits.max_connections:
            self.count_refusal(RefusalReason.MAX_CONNECTIONS)
            return False
        if len(self._open) >= self.limits.max_in_process:
            self.count_refusal(RefusalReason.NO_FILE_DESCRIPTOR)
            return False
        self._admitted += 1
        connection.number = self._admitted
        self._open[connection.number] = connection
        self._is_empty.clear()
        self._metrics.add(self._gauge)
        return True

    def count_refusal(self, reason: RefusalReason) -> None:
        """Count a connection that is refused or lost before it was served."""
        self._metrics.add(self._refused[reason])
        if reason is RefusalReason.NO_FILE_DESCRIPTOR and self._loop.time() >= self._next_log_s:
            self._next_log_s = self._loop.time() + _LOG_PERIOD_S
            _log.warning("no file descriptor for a connection", connections=len(self._open))

    def replace(self, connection: Connection, successor: Connection) -> None:
        """Register `successor` in place of an admitted connection; it holds nothing yet."""
        self._budget.record(connection.number, 0)
        successor.number = connection.number
        self._open[successor.number] = successor

    def discard(self, connection: Connection) -> None:
        """Remove a closed connection; no effect if it is not registered."""
        if self._open.get(connection.number) is connection:
            self._budget.record(connection.number, 0)
            del self._open[connection.number]
            self._metrics.add(self._gauge, -1)
            if not self._open:
                self._is_empty.set()

    def hold(self, connection: Connection, input_bytes: int, unread_bytes: int) -> None:
        """Record how many bytes a connection holds: of requests, and of answers that its client does not read.

        While the total exceeds `max_buffered_bytes`, the newest connections that hold any are refused.
        """
        if self._open.get(connection.number) is not connection:
            return
        connection.input_bytes, connection.unread_bytes = input_bytes, unread_bytes
        of_tls = min(2 * input_bytes, _MAX_TLS_BUFFER_BYTES) if connection.is_tls else 0
        for number in self._budget.record(connection.number, input_bytes + unread_bytes + of_tls):
            refused = self._open[number]
            refused.input_bytes = refused.unread_bytes = 0
            if refused.phase is Phase.CLOSING:  # refused already, or its last answer is not read
                refused.abort()
                continue
            self.count_refusal(RefusalReason.MEMORY)
            refused.refuse()
            if refused.is_tls:  # its buffers would be kept until the client answers the end of TLS
                self._loop.call_later(_TLS_REFUSAL_S, refused.abort)

    def close_idle(self) -> None:
        """Close the connections that have no request in flight; those that become idle later, at a sweep.

        A connection that is new, or whose handshake ends later, has a sweep's time for its first request: a client that
        loses it would not send it again, as most do if the connection has served one.
        """
        self._max_sweeps[Phase.IDLE] = 1
        for connection in self:
            connection.close_if_idle()

    async def wait_empty(self) -> None:
        """Wait until no connection is open."""
        await self._is_empty.wait()

    def close(self) -> None:
        """Abort all connections."""
        self._sweeper.cancel()
        for connection in self:
            connection.abort()

    def sweep(self) -> None:
        """Close the connections whose phase has exceeded its deadline, and record the answers that are not read."""
        for connection in self:
            connection.check_timeout(self._max_sweeps)
            connection.record_unread()
        self._trim_after_peak()

    def _trim_after_peak(self) -> None:
        """Give memory back to the system once much less of it is needed than before."""
        budget, connections = self._budget, len(self._open)
        self._peak_connections = max(self._peak_connections, connections)
        peak_bytes = budget.peak_bytes + self._peak_connections * _CONNECTION_BYTES
        if peak_bytes >= _TRIM_BYTES and budget.held_bytes + connections * _CONNECTION_BYTES <= peak_bytes // 4:
            budget.peak_bytes, self._peak_connections = budget.held_bytes, connections
            self._loop.run_in_executor(None, trim)

    def _sweep_again(self) -> None:
        self._sweeper = self._loop.call_later(self._period_s, self._sweep_again)
        self.sweep()
