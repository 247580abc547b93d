"""Connections that are not admitted: a client that asks something is answered 503, and the connection ends."""

import asyncio
import socket
from collections.abc import Callable
from contextlib import suppress
from typing import cast

from bidstream_svc.server.answers import OVERLOADED, Answer
from bidstream_svc.server.response_writer import closing_response

# Refusing politely has limits, too: no more at a time, and none for longer.
MAX_REFUSALS = 128
REFUSAL_TIMEOUT_S = 1.0


class Refusals:
    """Makes the protocols that refuse connections.

    Args:
        on_answer: called with each answer.
    """

    def __init__(self, on_answer: Callable[[Answer], None]) -> None:
        self._on_answer = on_answer
        self._open: set[Refusal] = set()

    def make(self) -> "Refusal | None":
        """A protocol that answers 503 to the first bytes that come; None while too many wait for theirs."""
        return Refusal(self._on_answer, self._open) if len(self._open) < MAX_REFUSALS else None

    def answer_at_once(self, accepted: socket.socket) -> None:
        """Answer 503 on a socket for which there is no place in the event loop; the caller closes it."""
        self._on_answer(OVERLOADED)
        with suppress(OSError):
            accepted.send(closing_response(OVERLOADED))
            accepted.shutdown(socket.SHUT_WR)

    def close(self) -> None:
        """Abort all of these connections."""
        for refusal in tuple(self._open):
            refusal.abort()


class Refusal(asyncio.Protocol):
    """Refuses one connection; see `Refusals`."""

    def __init__(self, on_answer: Callable[[Answer], None], open_refusals: "set[Refusal]") -> None:
        self._on_answer = on_answer
        self._open = open_refusals
        self._transport: asyncio.Transport | None = None
        self._has_answered = False
        self._start_timer()
        open_refusals.add(self)

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Wait for a request."""
        # uvloop's transport is one, but not by inheritance.
        self._transport = cast("asyncio.Transport", transport)

    def connection_lost(self, _exc: Exception | None) -> None:
        """Make room for the next."""
        self._timer.cancel()
        self._open.discard(self)

    def data_received(self, _data: bytes) -> None:
        """Answer the first bytes, and ignore all others."""
        if self._has_answered or self._transport is None:
            return
        self._has_answered = True
        self._timer.cancel()
        self._start_timer()
        self._on_answer(OVERLOADED)
        self._transport.write(closing_response(OVERLOADED))
        # Closed at once, the rest of the request would be met with a reset, and that can overtake the answer.
        if self._transport.can_write_eof():
            self._transport.write_eof()
        else:
            self._transport.close()

    def abort(self) -> None:
        """Close at once."""
        if self._transport is not None:
            self._transport.abort()

    def _start_timer(self) -> None:
        self._timer = asyncio.get_running_loop().call_later(REFUSAL_TIMEOUT_S, self.abort)
