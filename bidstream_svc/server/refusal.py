"""Refused connections: the first bytes are answered with 503, and the connection is closed."""

import asyncio
import socket
from collections.abc import Callable
from contextlib import suppress
from typing import cast

from bidstream_svc.server.answers import OVERLOADED, Answer
from bidstream_svc.server.response_writer import closing_response

# Limits for refused connections; above the first, a connection is closed without an answer.
MAX_REFUSALS = 128
REFUSAL_TIMEOUT_S = 1.0


class Refusals:
    """The open connections that are being refused.

    Args:
        on_answer: called with each answer sent, to count it.
        max_open: how many may be open.
    """

    def __init__(self, on_answer: Callable[[Answer], None], *, max_open: int = MAX_REFUSALS) -> None:
        self._max_open = max_open
        self._on_answer = on_answer
        self._open: set[Refusal] = set()

    def make(self) -> "Refusal | None":
        """Return a protocol that answers the first bytes with 503.

        While `max_open` are open, return None: the caller closes the connection without an answer.
        """
        return Refusal(self._on_answer, self._open) if len(self._open) < self._max_open else None

    def answer_at_once(self, accepted: socket.socket) -> None:
        """Send 503 on a socket that cannot be added to the event loop; the caller closes the socket."""
        self._on_answer(OVERLOADED)
        with suppress(OSError):
            accepted.send(closing_response(OVERLOADED))
            accepted.shutdown(socket.SHUT_WR)

    def close(self) -> None:
        """Abort all connections that are being refused."""
        for refusal in tuple(self._open):
            refusal.abort()


class Refusal(asyncio.Protocol):
    """The protocol of one refused connection; `Refusals.make` creates it."""

    def __init__(self, on_answer: Callable[[Answer], None], open_refusals: "set[Refusal]") -> None:
        self._on_answer = on_answer
        self._open = open_refusals
        self._transport: asyncio.Transport | None = None
        self._has_answered = False
        self._timer: asyncio.TimerHandle | None = None
        open_refusals.add(self)

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Store the transport and start the timer; before, the deadline of the handshake applies."""
        # uvloop's transport has the interface of asyncio.Transport, but does not inherit from it.
        self._transport = cast("asyncio.Transport", transport)
        self._restart_timer()

    def connection_lost(self, _exc: Exception | None) -> None:
        """Stop the timer, and remove the connection from the open refusals."""
        if self._timer is not None:
            self._timer.cancel()
        self._open.discard(self)

    def data_received(self, _data: bytes) -> None:
        """Answer the first bytes with 503 and ignore all further ones."""
        if self._has_answered or self._transport is None:
            return
        self._has_answered = True
        self._restart_timer()
        self._on_answer(OVERLOADED)
        self._transport.write(closing_response(OVERLOADED))
        # Closing with unread input makes the kernel send a reset, and the client may lose the answer.
        if self._transport.can_write_eof():
            self._transport.write_eof()
        else:
            self._transport.close()

    def abort(self) -> None:
        """Close the connection at once."""
        if self._transport is not None:
            self._transport.abort()

    def _restart_timer(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
        self._timer = asyncio.get_running_loop().call_later(REFUSAL_TIMEOUT_S, self.abort)
