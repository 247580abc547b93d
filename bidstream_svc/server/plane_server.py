"""A plane on its listening sockets: start, drain, stop."""

import asyncio
import time
from collections.abc import Callable, Sequence
from contextlib import AsyncExitStack
from typing import NamedTuple, Protocol, Self

from bidstream_svc.config import Settings
from bidstream_svc.logs import get_logger
from bidstream_svc.metrics import MetricCells
from bidstream_svc.metrics.cells import TLS_CERTIFICATE_EXPIRY_MS
from bidstream_svc.server.acceptor import MAX_ACCEPTED_PER_ITERATION, Acceptor, open_acceptors
from bidstream_svc.server.base_connection import Connection
from bidstream_svc.server.connections import Connections
from bidstream_svc.server.file_watch import FileWatch, Watched
from bidstream_svc.server.hosts import HostCheck
from bidstream_svc.server.refusal import Refusals
from bidstream_svc.server.sockets import Listener
from bidstream_svc.server.tls import ServerTls

_log = get_logger(__name__)

# How long new connections are still accepted after SIGTERM, because load balancers need time to notice that it ends.
SHUTDOWN_DELAY_S = 0.5
# How often the files of TLS are read to look for a change.
TLS_PERIOD_S = 60.0


class Plane(Protocol):
    """What answers the requests.

    Attributes:
        is_draining: once True, every answer closes its connection.
    """

    is_draining: bool


class Intake(NamedTuple):
    """What becomes of new connections.

    Attributes:
        connections: those of the plane.
        connect: returns a protocol for one; the argument checks its `Host` headers.
        refusals: answers those that are not admitted.
        allowed_hosts: see HostCheck.
        max_per_iteration: see Acceptor.
    """

    connections: Connections
    connect: Callable[[HostCheck], Connection]
    refusals: Refusals
    allowed_hosts: frozenset[str]
    max_per_iteration: int = MAX_ACCEPTED_PER_ITERATION


class PlaneServer:
    """Serves a plane; an asynchronous context manager.

    Args:
        settings: time-outs.
        listeners: the listening sockets; they are closed on exit, but the files of Unix sockets are kept.
        metrics: gets the expiry of the certificate.
        plane: answers the requests.
        intake: what becomes of new connections.
        watched: files that may change meanwhile.
        tls: the TLS of the listeners on TCP; None without.
    """

    def __init__(
        self,
        settings: Settings,
        listeners: Sequence[Listener],
        metrics: MetricCells,
        plane: Plane,
        intake: Intake,
        *,
        watched: Sequence[Watched] = (),
        tls: ServerTls | None = None,
    ) -> None:
        self._drain_timeout_s = settings.drain_timeout
        self._listeners = listeners
        self._metrics = metrics
        self._plane = plane
        self._intake = intake
        self._watched = list(watched)
        self._tls = tls
        if tls is not None:
            self._watched.append(Watched("tls-watch", TLS_PERIOD_S, tls.reload, self._use_certificates))
        self._watches: list[FileWatch] = []
        self._acceptors: list[Acceptor] = []
        self._closing = AsyncExitStack()

    async def __aenter__(self) -> Self:
        """Start accepting connections."""
        connections, connect, refusals, allowed_hosts, max_per_iteration = self._intake
        async with AsyncExitStack() as stack:
            stack.callback(connections.close)
            stack.callback(refusals.close)
            for watched in self._watched:
                watch = FileWatch(*watched)
                self._watches.append(watch)
                stack.callback(watch.stop)
            self._acceptors = open_acceptors(
                stack,
                self._listeners,
                connections,
                connect,
                refusals,
                allowed_hosts=allowed_hosts,
                tls=None if self._tls is None else self._tls.current.context,
                max_per_iteration=max_per_iteration,
            )
            self._use_certificates()
            self._closing = stack.pop_all()
        return self

    async def __aexit__(self, *_exc_info: object) -> None:
        """Close all connections at once; call `drain` before to let requests finish."""
        await self._closing.aclose()

    def reload_files(self) -> None:
        """Look now, and not at the next turn, whether a file has changed."""
        for watch in self._watches:
            watch.look_now()

    async def drain(self) -> None:
        """Finish the requests in flight.

        After `SHUTDOWN_DELAY_S` no connection is accepted. Every answer then closes its connection, and idle ones are
        closed, new ones a little later. Returns when none is open, or after `drain_timeout` seconds in all.
        """
        connections = self._intake.connections
        timeout_s = self._drain_timeout_s
        started_s = time.monotonic()
        await asyncio.sleep(min(SHUTDOWN_DELAY_S, timeout_s))
        for acceptor in self._acceptors:
            acceptor.stop()
        self._plane.is_draining = True
        connections.close_idle()
        try:
            async with asyncio.timeout(timeout_s - (time.monotonic() - started_s)):
                await connections.wait_empty()
        except TimeoutError:
            _log.warning("drain timed out", connections=len(connections))

    def _use_certificates(self) -> None:
        """Serve new connections with the current certificates."""
        if self._tls is None:
            return
        context, validity = self._tls.current
        self._metrics.set(TLS_CERTIFICATE_EXPIRY_MS, validity.not_after_ms)
        for acceptor in self._acceptors:
            if acceptor.tls is not None:
                acceptor.tls = context
