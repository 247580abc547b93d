"""The lane as a whole: makes connections, ends those that take too long, drains."""

import asyncio

from bidstream_svc.metrics import MetricCells
from bidstream_svc.server.data_plane import DataPlane
from bidstream_svc.server.handler import DecryptHandler
from bidstream_svc.server.hosts import HostCheck
from bidstream_svc.server.lane.connection import LaneConnection, Shared
from bidstream_svc.server.lane.heads import HeadMemo
from bidstream_svc.server.lane.turn import Turn
from bidstream_svc.server.wire import AnswerWriter

_MAX_SWEEP_PERIOD_S = 1.0


class Lane:
    """Makes the protocols of the data plane's connections.

    Args:
        plane: the aiohttp side: counts connections and takes what the lane does not.
        handler: answers requests.
        metrics: counts them.
    """

    def __init__(self, plane: DataPlane, handler: DecryptHandler, metrics: MetricCells) -> None:
        self._writer = AnswerWriter()
        turn = Turn(handler, metrics, self._writer)
        self._shared = Shared(plane, handler, metrics, self._writer, turn)
        self._memos: dict[HostCheck, HeadMemo] = {}
        self._loop = asyncio.get_running_loop()
        # One timer for all connections: they count how many of its sweeps they were idle, or waited for a request.
        limits = plane.limits
        self._sweep_period_s = min(_MAX_SWEEP_PERIOD_S, limits.idle_timeout_s / 2, limits.request_timeout_s / 2)
        self._idle_sweeps = round(limits.idle_timeout_s / self._sweep_period_s)
        self._request_sweeps = round(limits.request_timeout_s / self._sweep_period_s)
        self._sweeper = self._loop.call_later(self._sweep_period_s, self._sweep)

    def connect(self, hosts: HostCheck) -> asyncio.Protocol:
        """A protocol for a connection of a listener."""
        memo = self._memos.get(hosts)
        if memo is None:
            plane = self._shared.plane
            memo = self._memos[hosts] = HeadMemo(plane.bearer, hosts, is_traced=plane.is_traced)
        return LaneConnection(self._shared, memo, hosts)

    def forget_heads(self) -> None:
        """Read every head anew, because the bearer token changed."""
        for memo in self._memos.values():
            memo.forget()
        for connection in self._shared.connections:
            connection.forget_head()

    def drain(self) -> None:
        """Let the next answer of each connection be its last."""
        self._writer.closes = True
        self._writer.renew()

    def close_idle(self) -> None:
        """Close the connections between two requests."""
        self._shared.turn.answer()
        for connection in tuple(self._shared.connections):
            connection.close_if_idle()

    def close(self) -> None:
        """Close all connections at once."""
        self._sweeper.cancel()
        for connection in tuple(self._shared.connections):
            connection.abort()

    def _sweep(self) -> None:
        """Close what has been idle, or in the middle of a request, for too long."""
        self._sweeper = self._loop.call_later(self._sweep_period_s, self._sweep)
        self._writer.renew()
        for connection in tuple(self._shared.connections):
            connection.grow_older(self._idle_sweeps, self._request_sweeps)
