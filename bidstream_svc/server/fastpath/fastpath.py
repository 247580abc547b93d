"""The fast path's entry point: creates connections, renews the date in responses, drains."""

import asyncio
from collections.abc import Callable, Iterable
from functools import partial

from bidstream_svc.metrics import MetricCells
from bidstream_svc.server.auth import BearerToken
from bidstream_svc.server.base_connection import Connection
from bidstream_svc.server.connections import Connections
from bidstream_svc.server.fastpath.connection import FastPathConnection, Shared
from bidstream_svc.server.fastpath.heads import HEAD_END, MAX_HEAD_BYTES, PlainHeads
from bidstream_svc.server.fastpath.lane import LaneConnection, NativeLane, make_lane
from bidstream_svc.server.handlers import TokenDecryptor
from bidstream_svc.server.hosts import HostCheck
from bidstream_svc.server.response_writer import ResponseWriter
from bidstream_svc.server.routes import Route
from bidstream_svc.server.turns import Turns

_RENEWAL_PERIOD_S = 1.0


class FastPath:
    """Answers the plain requests of the data plane.

    Args:
        connections: the connections of the data plane.
        routes: the route table.
        decryptor: decrypts the tokens of requests.
        metrics: counts requests and measures their duration.
        bearer: the bearer token that requests must carry; None for none.
        fallback: returns the connection that answers requests that are not plain, given the check of their `Host`, and
            a function that returns the connection to hand over to if the bytes received begin with a plain head.
        turns: orders the work that takes several loop iterations; shared with the fallback.
        is_traced: if True, sampled requests are not plain, so that the fallback records their spans.
    """

    def __init__(
        self,
        connections: Connections,
        routes: Iterable[Route],
        decryptor: TokenDecryptor,
        metrics: MetricCells,
        *,
        bearer: BearerToken | None,
        fallback: Callable[[HostCheck, Callable[[bytes], Connection | None]], Connection],
        turns: Turns,
        is_traced: bool = False,
    ) -> None:
        self._writer = ResponseWriter()
        self._metrics = metrics
        self._shared = Shared(connections, decryptor, turns, metrics, self._writer)
        self._routes = tuple(routes)
        self._bearer = bearer
        self._fallback = fallback
        self._is_traced = is_traced
        self._of_hosts: dict[HostCheck, tuple[PlainHeads, NativeLane]] = {}
        self._loop = asyncio.get_running_loop()
        self._renewal = self._loop.call_later(_RENEWAL_PERIOD_S, self.renew)

    def connect(self, hosts: HostCheck) -> FastPathConnection:
        """Return a protocol for a new connection; `hosts` checks its `Host` headers."""
        known = self._of_hosts.get(hosts)
        if known is None:
            heads = PlainHeads(self._routes, self._bearer, hosts, is_traced=self._is_traced)
            known = self._of_hosts[hosts] = heads, make_lane(self._shared.decryptor, self._metrics)
            self._renew_lanes()
        return self._connect(hosts, *known)

    def _connect(self, hosts: HostCheck, heads: PlainHeads, lane: NativeLane) -> FastPathConnection:
        def make_fallback() -> Connection:
            return self._fallback(hosts, partial(self._take_back, hosts, heads, lane))

        if lane is None:
            return FastPathConnection(self._shared, heads, make_fallback)
        return LaneConnection(self._shared, heads, lane, make_fallback)

    def _take_back(
        self, hosts: HostCheck, heads: PlainHeads, lane: NativeLane, received: bytes
    ) -> FastPathConnection | None:
        """Return a connection if the bytes received begin with a plain head; None otherwise."""
        end = received.find(HEAD_END, 0, MAX_HEAD_BYTES)
        if end < 0 or heads.find(received[: end + len(HEAD_END)]) is None:
            return None
        return self._connect(hosts, heads, lane)

    def forget_heads(self) -> None:
        """Forget all heads, because the bearer token has changed."""
        for heads, lane in self._of_hosts.values():
            heads.forget()
            if lane is not None:
                lane.forget()

    def drain(self) -> None:
        """Close each connection after its next response."""
        self._writer.closes = True
        self._writer.renew()
        self._renew_lanes()

    def close(self) -> None:
        """Stop the timer that renews the date."""
        self._renewal.cancel()

    def renew(self) -> None:
        """Renew the date in responses; the timer calls it every second."""
        self._renewal.cancel()
        self._renewal = self._loop.call_later(_RENEWAL_PERIOD_S, self.renew)
        self._writer.renew()
        self._renew_lanes()

    def _renew_lanes(self) -> None:
        start = b"" if self._writer.closes else self._writer.start_of_ok
        for _, lane in self._of_hosts.values():
            if lane is not None:
                lane.set_response_start(start)
