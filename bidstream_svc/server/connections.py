"""Accepted connections: how many there may be, how long each may take, how many bytes all of them may hold.

The data plane and the admin plane each have one `Connections`, which counts a connection from the moment it is accepted
and enforces a deadline in each of its phases:

    phase      the connection                                     may last
    HANDSHAKE  is negotiating TLS                                 request_timeout_s, see `acceptor`
    IDLE       waits for the first byte of a request              idle_timeout_s
    REQUEST    has sent a part of a request                       request_timeout_s
    RESPONSE   waits for its answer                               no limit
    UNREAD     does not read its answers                          idle_timeout_s, then it is aborted
    CLOSING    is closed, but has not read all of its answers     idle_timeout_s, then it is aborted

A protocol that answers requests is a `Connection`; a protocol of a library is the guest of a `HostedConnection`. So no
library decides how long a connection stays.
"""

import asyncio
from collections.abc import Iterator
from dataclasses import dataclass
from enum import Enum, auto
from math import inf
from typing import cast

from bidstream_svc.metrics import MetricCells
from bidstream_svc.metrics.cells import CONNECTIONS, CONNECTIONS_REFUSED, RefusalReason

DEFAULT_MAX_BUFFERED_BYTES = 64 * 1024 * 1024
_MAX_SWEEP_PERIOD_S = 1.0


class Phase(Enum):
    """What a connection is waiting for."""

    HANDSHAKE = auto()
    IDLE = auto()
    REQUEST = auto()
    RESPONSE = auto()
    UNREAD = auto()
    CLOSING = auto()


@dataclass(frozen=True, slots=True)
class ConnectionLimits:
    """What the connections of a plane may take.

    Attributes:
        max_connections: over all workers.
        idle_timeout_s: for a connection between two requests, or one that does not read its answers.
        request_timeout_s: for the TLS handshake, and from a request's first byte to its last.
        max_buffered_bytes: unfinished input of all connections of this process.
    """

    max_connections: int
    idle_timeout_s: float
    request_timeout_s: float
    max_buffered_bytes: int = DEFAULT_MAX_BUFFERED_BYTES


class Connections:
    """The open connections of a plane.

    Args:
        limits: what they may take.
        metrics: counts them.
        gauge: the cell of `metrics` that holds their number.
    """

    def __init__(self, limits: ConnectionLimits, metrics: MetricCells, *, gauge: int = CONNECTIONS) -> None:
        self.limits = limits
        self._metrics = metrics
        self._gauge = gauge
        self._open: dict[Connection, None] = {}  # in the order in which they were accepted
        self._is_empty = asyncio.Event()
        self._is_empty.set()
        self._held_bytes = 0
        # One timer for all: a connection counts the sweeps since it last got on.
        self._period_s = min(_MAX_SWEEP_PERIOD_S, limits.idle_timeout_s / 2, limits.request_timeout_s / 2)
        idle_sweeps = round(limits.idle_timeout_s / self._period_s)
        request_sweeps = round(limits.request_timeout_s / self._period_s)
        self._max_sweeps = {
            Phase.HANDSHAKE: inf,
            Phase.IDLE: idle_sweeps,
            Phase.REQUEST: request_sweeps,
            Phase.RESPONSE: inf,
            Phase.UNREAD: idle_sweeps,
            Phase.CLOSING: idle_sweeps,
        }
        self._loop = asyncio.get_running_loop()
        self._sweeper = self._loop.call_later(self._period_s, self._sweep_again)

    def __len__(self) -> int:
        """How many this process has."""
        return len(self._open)

    def __iter__(self) -> Iterator["Connection"]:
        """Those of this process, as they are now."""
        return iter(tuple(self._open))

    def admit(self, connection: "Connection") -> bool:
        """Count a connection that has just been accepted; False, and counted as refused, if there is no room."""
        if self._metrics.over_workers(self._gauge) >= self.limits.max_connections:
            self.count_refusal(RefusalReason.MAX_CONNECTIONS)
            return False
        self._open[connection] = None
        self._is_empty.clear()
        self._metrics.add(self._gauge)
        return True

    def count_refusal(self, reason: RefusalReason) -> None:
        """Count a connection that was not served."""
        self._metrics.add(CONNECTIONS_REFUSED[reason])

    def replace(self, connection: "Connection", successor: "Connection") -> None:
        """Let `successor` stand for an admitted connection."""
        self.hold(connection, 0)
        del self._open[connection]
        self._open[successor] = None

    def discard(self, connection: "Connection") -> None:
        """Forget a connection that is lost; no effect if it is not open."""
        if connection in self._open:
            self.hold(connection, 0)
            del self._open[connection]
            self._metrics.add(self._gauge, -1)
            if not self._open:
                self._is_empty.set()

    def hold(self, connection: "Connection", held_bytes: int) -> None:
        """Note how many bytes of unfinished input a connection holds now; above the budget, the newest are refused."""
        self._held_bytes += held_bytes - connection.held_bytes
        connection.held_bytes = held_bytes
        while self._held_bytes > self.limits.max_buffered_bytes:
            newest = next(each for each in reversed(self._open) if each.held_bytes)
            self.count_refusal(RefusalReason.MEMORY)
            self.hold(newest, 0)
            newest.refuse()

    def close_idle(self) -> None:
        """Close the connections that are between two requests."""
        for connection in self:
            connection.close_if_idle()

    async def wait_empty(self) -> None:
        """Wait until the last connection is lost."""
        await self._is_empty.wait()

    def close(self) -> None:
        """Abort all connections."""
        self._sweeper.cancel()
        for connection in self:
            connection.abort()

    def sweep(self) -> None:
        """Close the connections that have exceeded their deadline."""
        for connection in self:
            connection.check_timeout(self._max_sweeps)

    def _sweep_again(self) -> None:
        self._sweeper = self._loop.call_later(self._period_s, self._sweep_again)
        self.sweep()


class Connection(asyncio.Protocol):
    """One accepted connection; a subclass answers its requests.

    Args:
        connections: those of its plane. Whoever makes a connection admits it there.

    Attributes:
        transport: None before the connection is made and after it is lost.
        quiet_sweeps: sweeps since the connection last got on; a subclass sets it to 0 when a request is complete.
        held_bytes: bytes of unfinished input, as last noted by `Connections.hold`.
        is_writing_paused: whether the client does not read its answers.
    """

    __slots__ = (
        "_is_overdue",
        "_last_phase",
        "connections",
        "held_bytes",
        "is_writing_paused",
        "quiet_sweeps",
        "transport",
    )

    def __init__(self, connections: Connections) -> None:
        self.connections = connections
        self.transport: asyncio.Transport | None = None
        self.quiet_sweeps = 0
        self.held_bytes = 0
        self.is_writing_paused = False
        self._last_phase = Phase.HANDSHAKE
        self._is_overdue = False

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Begin to serve."""
        # uvloop's transport is one, but not by inheritance.
        self.transport = cast("asyncio.Transport", transport)

    def connection_lost(self, _exc: Exception | None) -> None:
        """Forget the client."""
        self.transport = None
        self.connections.discard(self)

    def pause_writing(self) -> None:
        """The client does not read its answers."""
        self.is_writing_paused = True

    def resume_writing(self) -> None:
        """The client reads again."""
        self.is_writing_paused = False

    def request_phase(self) -> Phase:
        """IDLE, REQUEST or RESPONSE."""
        raise NotImplementedError

    @property
    def phase(self) -> Phase:
        """What the connection is waiting for."""
        if self.transport is None:
            return Phase.HANDSHAKE
        if self.transport.is_closing():
            return Phase.CLOSING
        # While writing is paused nothing is read, so a request that does not arrive then is not late.
        return Phase.UNREAD if self.is_writing_paused else self.request_phase()

    def check_timeout(self, max_sweeps: dict[Phase, float]) -> None:
        """Called at every sweep; closes the connection when its phase has lasted for too many of them."""
        phase = self.phase
        if self._is_overdue:
            self.abort()  # a client that does not read would keep a close waiting for ever
            return
        if phase is not self._last_phase:
            self._last_phase = phase
            self.quiet_sweeps = 0
        self.quiet_sweeps += 1
        if self.quiet_sweeps > max_sweeps[phase]:
            self._is_overdue = True
            self.time_out(phase)

    def time_out(self, phase: Phase) -> None:
        """Close, because `phase` has lasted too long."""
        if phase in {Phase.UNREAD, Phase.CLOSING}:
            self.abort()
        elif self.transport is not None:
            self.transport.close()

    def refuse(self) -> None:
        """Close, because there is no room for what this connection holds."""
        self.abort()

    def close_if_idle(self) -> None:
        """Close between two requests; a request under way gets its answer first."""
        if self.transport is not None and self.request_phase() is Phase.IDLE:
            self.transport.close()

    def abort(self) -> None:
        """Close at once."""
        if self.transport is not None:
            self.transport.abort()

    def pass_to(self, successor: "Connection", unread: bytes) -> None:
        """Let `successor` go on with this connection, beginning with the bytes that are not answered."""
        transport = self.transport
        assert transport is not None
        self.transport = None
        self.connections.replace(self, successor)
        transport.set_protocol(successor)
        successor.connection_made(transport)
        if self.is_writing_paused:
            successor.pause_writing()
        successor.data_received(unread)


class HostedConnection(Connection):
    """A connection whose requests are answered by the protocol of a library, which a subclass knows.

    Args:
        guest: the protocol; it writes to the transport itself.
    """

    __slots__ = ("guest",)

    def __init__(self, connections: Connections, guest: asyncio.Protocol) -> None:
        super().__init__(connections)
        self.guest = guest

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Let the guest serve."""
        super().connection_made(transport)
        self.guest.connection_made(transport)
        # Whatever the client does not take pauses writing, so that it is waited for with a limit. Not in TLS: with a
        # limit of 0, uvloop never resumes.
        if self.transport is not None and transport.get_extra_info("sslcontext") is None:
            self.transport.set_write_buffer_limits(high=0)

    def connection_lost(self, exc: Exception | None) -> None:
        """Forget the client, as the guest does."""
        if self.transport is not None:
            self.guest.connection_lost(exc)
        super().connection_lost(exc)

    def data_received(self, data: bytes) -> None:
        """Let the guest read; the bytes count as unfinished until `request_is_read`."""
        self.connections.hold(self, self.held_bytes + len(data))
        self.guest.data_received(data)

    def eof_received(self) -> bool | None:
        """Let the guest decide whether the connection stays open."""
        return self.guest.eof_received()

    def pause_writing(self) -> None:
        """The client does not read its answers."""
        super().pause_writing()
        self.guest.pause_writing()

    def resume_writing(self) -> None:
        """The client reads again."""
        super().resume_writing()
        self.guest.resume_writing()

    def request_is_read(self) -> None:
        """Note that a request is complete."""
        self.connections.hold(self, 0)
        self.quiet_sweeps = 0
