"""Connections above the cap: a client that asks something is told so in HTTP, and the connection ends."""

import asyncio

from bidstream_svc.metrics import MetricCells, Route
from bidstream_svc.server.answers import OVERLOADED
from bidstream_svc.server.wire import closing_answer

# What it costs to be polite is bounded, too: no more at a time are waited for, and none for longer.
MAX_AT_A_TIME = 128
PATIENCE_S = 1.0


class Refusals:
    """Ends connections that were not admitted.

    Args:
        metrics: counts the requests that are answered.
    """

    def __init__(self, metrics: MetricCells) -> None:
        self._metrics = metrics
        self._under_way: set[_Refusal] = set()

    def refuse(self, transport: asyncio.Transport) -> None:
        """Answer 503 to the first bytes that come; cut it off where too many others wait for that already."""
        if len(self._under_way) < MAX_AT_A_TIME:
            transport.set_protocol(_Refusal(transport, self._metrics, self._under_way))
        else:
            transport.abort()

    def close(self) -> None:
        """Cut off all that are under way."""
        for refusal in tuple(self._under_way):
            refusal.abort()


class _Refusal(asyncio.Protocol):
    def __init__(self, transport: asyncio.Transport, metrics: MetricCells, under_way: "set[_Refusal]") -> None:
        self._transport = transport
        self._metrics = metrics
        self._under_way = under_way
        self._has_answered = False
        self._start_timer()
        under_way.add(self)

    def connection_lost(self, _exc: Exception | None) -> None:
        self._timer.cancel()
        self._under_way.discard(self)

    def data_received(self, _data: bytes) -> None:
        if self._has_answered:
            return
        self._has_answered = True
        self._timer.cancel()
        self._start_timer()
        self._metrics.count_request(Route.OTHER, OVERLOADED[0])
        self._transport.write(closing_answer(OVERLOADED))
        # Closed at once, the rest of the request would be met with a reset, and that can overtake the answer.
        if self._transport.can_write_eof():
            self._transport.write_eof()
        else:
            self._transport.close()

    def abort(self) -> None:
        self._transport.abort()

    def _start_timer(self) -> None:
        self._timer = asyncio.get_running_loop().call_later(PATIENCE_S, self.abort)
