"""One accepted connection, and its phases.

    phase      begins when
    HANDSHAKE  the connection is accepted
    IDLE       no request has begun
    REQUEST    part of a request has been received
    RESPONSE   a request is being answered
    UNREAD     the client does not read its answers
    CLOSING    it is closed with answers still unsent

A protocol that answers requests is a subclass of `Connection`. The protocol of an HTTP library is the guest of one, so
that the same limits hold for it; see `aiohttp_connection`.
"""

import asyncio
from enum import Enum, auto
from fcntl import ioctl
from termios import FIONREAD
from typing import Protocol, cast

_INT_BYTES = 4


class Phase(Enum):
    """The phase of a connection; see the table above."""

    HANDSHAKE = auto()
    IDLE = auto()
    REQUEST = auto()
    RESPONSE = auto()
    UNREAD = auto()
    CLOSING = auto()


class Registry(Protocol):
    """The part of `Connections` that a connection uses."""

    def replace(self, connection: "Connection", successor: "Connection") -> None:
        """Register `successor` in place of an admitted connection; it holds nothing yet."""

    def discard(self, connection: "Connection") -> None:
        """Remove a closed connection; no effect if it is not registered."""

    def hold(self, connection: "Connection", input_bytes: int, unread_bytes: int) -> None:
        """Record how many bytes a connection holds: of requests, and of answers that its client does not read."""


class Connection(asyncio.Protocol):
    """One accepted connection. A subclass answers its requests.

    Args:
        connections: the connections of its plane. The caller registers the new connection with `admit`.

    Attributes:
        transport: None before `connection_made` and after `connection_lost`.
        opening: the task that connects it, such as by a TLS handshake; None once it has.
        last_phase: the phase at the last sweep; HANDSHAKE before the first one.
        quiet_sweeps: sweeps since the last progress; a subclass sets it to 0 when a request is complete.
        number: the place in the order in which the connections of the plane were accepted.
        input_bytes: bytes held of requests, as last recorded by `Connections.hold`.
        unread_bytes: bytes held of answers that the client does not read, as last recorded by `Connections.hold`.
        is_tls: whether the connection has TLS.
        is_writing_paused: True while the transport's write buffer is full, because the client does not read.
    """

    __slots__ = (
        "_is_overdue",
        "connections",
        "input_bytes",
        "is_tls",
        "is_writing_paused",
        "last_phase",
        "number",
        "opening",
        "quiet_sweeps",
        "transport",
        "unread_bytes",
    )

    def __init__(self, connections: Registry) -> None:
        self.connections = connections
        self.transport: asyncio.Transport | None = None
        self.opening: asyncio.Task[None] | None = None
        self.quiet_sweeps = 0
        self.number = 0
        self.input_bytes = 0
        self.unread_bytes = 0
        self.is_tls = False
        self.is_writing_paused = False
        self.last_phase = Phase.HANDSHAKE
        self._is_overdue = False

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Store the transport."""
        # uvloop's transport has the interface of asyncio.Transport, but does not inherit from it.
        self.transport = cast("asyncio.Transport", transport)
        self.opening = None
        self.is_tls = transport.get_extra_info("sslcontext") is not None

    def connection_lost(self, _exc: Exception | None) -> None:
        """Remove the connection from the open ones."""
        self.transport = None
        self.connections.discard(self)

    def pause_writing(self) -> None:
        """Record that the write buffer is full, because the client does not read its answers."""
        self.is_writing_paused = True
        # Later, because further answers may be written in this loop iteration.
        asyncio.get_running_loop().call_soon(self.record_unread)

    def resume_writing(self) -> None:
        """Record that the write buffer has been emptied, because the client reads again."""
        self.is_writing_paused = False
        self.record_unread()

    def hold_input(self, input_bytes: int) -> None:
        """Record how many bytes of requests the connection holds."""
        self.connections.hold(self, input_bytes, self.unread_bytes)

    def record_unread(self) -> None:
        """Record how many bytes of answers the connection holds."""
        unread_bytes = 0 if self.transport is None else self.transport.get_write_buffer_size()
        if unread_bytes != self.unread_bytes:
            self.connections.hold(self, self.input_bytes, unread_bytes)

    def request_phase(self) -> Phase:
        """Return IDLE, REQUEST or RESPONSE, for a connection that is open and can be written to."""
        raise NotImplementedError

    @property
    def phase(self) -> Phase:
        """The current phase."""
        if self.transport is None:
            return Phase.HANDSHAKE
        if self.transport.is_closing():
            return Phase.CLOSING
        # While writing is paused nothing is read, so the deadline of a request does not apply.
        return Phase.UNREAD if self.is_writing_paused else self.request_phase()

    def check_timeout(self, max_sweeps: dict[Phase, float]) -> None:
        """Close the connection if its phase has lasted too many sweeps; called at every sweep."""
        phase = self.phase
        if self._is_overdue:
            self.abort()  # `close` waits for the write buffer, which a client that does not read never empties
            return
        if phase is not self.last_phase:
            self.last_phase = phase
            self.quiet_sweeps = 0
        self.quiet_sweeps += 1
        if self.quiet_sweeps > max_sweeps[phase] and not (phase is Phase.IDLE and self._has_unread_input()):
            self._is_overdue = True
            self.time_out(phase)

    def time_out(self, phase: Phase) -> None:
        """Close the connection because `phase` has exceeded its deadline."""
        if phase in {Phase.UNREAD, Phase.CLOSING}:
            self.abort()
        elif self.transport is not None:
            self.transport.close()

    def refuse(self) -> None:
        """Close the connection because the buffered bytes exceed their limit."""
        self.abort()

    def close_if_idle(self) -> None:
        """Close the connection if no request is in flight, unless it is new: then the first one may be on its way."""
        is_new = self.last_phase is Phase.HANDSHAKE  # no sweep has seen it open
        if self.transport is None or is_new:
            return
        if self.request_phase() is Phase.IDLE and not self._has_unread_input():
            self.transport.close()

    def _has_unread_input(self) -> bool:
        """Whether the kernel has input that the event loop has not read: closing would reset the connection."""
        accepted = None if self.transport is None else self.transport.get_extra_info("socket")
        if accepted is None:
            return False
        return any(ioctl(accepted.fileno(), FIONREAD, bytes(_INT_BYTES)))

    def abort(self) -> None:
        """Close the connection without sending what is buffered, or end its opening."""
        if self.transport is not None:
            self.transport.abort()
        elif self.opening is not None:
            self.opening.cancel()

    def pass_to(self, successor: "Connection", unread: bytes) -> None:
        """Hand the transport over to `successor`, with the bytes that have been received and not answered."""
        transport = self.transport
        assert transport is not None
        self.transport = None
        successor.last_phase = self.last_phase  # a new connection would not count as idle
        self.connections.replace(self, successor)
        transport.set_protocol(successor)
        successor.connection_made(transport)
        if self.is_writing_paused:
            successor.pause_writing()
        successor.data_received(unread)
