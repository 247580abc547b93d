"""The fast path as a whole: makes connections, renews what their answers have in common, drains."""

import asyncio
from collections.abc import Callable, Iterable

from bidstream_svc.metrics import MetricCells
from bidstream_svc.server.auth import BearerToken
from bidstream_svc.server.connections import Connection, Connections
from bidstream_svc.server.fastpath.connection import FastPathConnection, Shared
from bidstream_svc.server.fastpath.heads import PlainHeads
from bidstream_svc.server.fastpath.iteration import Iteration
from bidstream_svc.server.handlers import TokenJudge
from bidstream_svc.server.hosts import HostCheck
from bidstream_svc.server.response_writer import ResponseWriter
from bidstream_svc.server.routes import Route

_RENEWAL_PERIOD_S = 1.0


class FastPath:
    """Answers the plain requests of the data plane.

    Args:
        connections: those of the data plane.
        routes: where requests may go.
        judge: judges their tokens.
        metrics: counts them.
        bearer: what requests must show, if anything.
        host: makes the connection that goes on where a request is not plain; given what its `Host` may say.
        is_traced: leaves requests that are sampled to the host.
    """

    def __init__(
        self,
        connections: Connections,
        routes: Iterable[Route],
        judge: TokenJudge,
        metrics: MetricCells,
        *,
        bearer: BearerToken | None,
        host: Callable[[HostCheck], Connection],
        is_traced: bool = False,
    ) -> None:
        self._writer = ResponseWriter()
        self._iteration = Iteration(judge, metrics, self._writer)
        self._shared = Shared(connections, self._iteration, metrics, self._writer)
        self._routes = tuple(routes)
        self._bearer = bearer
        self._host = host
        self._is_traced = is_traced
        self._heads: dict[HostCheck, PlainHeads] = {}
        self._loop = asyncio.get_running_loop()
        self._renewal = self._loop.call_later(_RENEWAL_PERIOD_S, self.renew)

    def connect(self, hosts: HostCheck) -> FastPathConnection:
        """A connection of a listener."""
        heads = self._heads.get(hosts)
        if heads is None:
            heads = PlainHeads(self._routes, self._bearer, hosts, is_traced=self._is_traced)
            self._heads[hosts] = heads
        return FastPathConnection(self._shared, heads, lambda: self._host(hosts))

    def forget_heads(self) -> None:
        """Judge every head anew, because the bearer token has changed."""
        for heads in self._heads.values():
            heads.forget()
        for connection in self._shared.connections:
            if isinstance(connection, FastPathConnection):
                connection.reader.forget_head()

    def drain(self) -> None:
        """Let the next answer of each connection be its last."""
        self._writer.closes = True
        self._writer.renew()

    def answer_now(self) -> None:
        """Answer the requests that are complete, without waiting for the end of the loop's iteration."""
        self._iteration.answer()

    def close(self) -> None:
        """Stop renewing."""
        self._renewal.cancel()

    def renew(self) -> None:
        """Use the time of day in responses from now on; called every second."""
        self._renewal.cancel()
        self._renewal = self._loop.call_later(_RENEWAL_PERIOD_S, self.renew)
        self._writer.renew()
