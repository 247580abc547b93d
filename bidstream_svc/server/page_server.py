"""A plane of pages on its listening sockets: start, drain, stop."""

import asyncio
import time
from collections.abc import Sequence
from contextlib import AsyncExitStack
from typing import Protocol, Self

from bidstream_svc.config import Settings
from bidstream_svc.logs import get_logger
from bidstream_svc.metrics import MetricCells
from bidstream_svc.metrics.cells import TLS_CERTIFICATE_EXPIRY_MS
from bidstream_svc.server.acceptor import Acceptor, open_acceptors
from bidstream_svc.server.data_server import SHUTDOWN_DELAY_S, TLS_PERIOD_S
from bidstream_svc.server.file_watch import FileWatch, Watched
from bidstream_svc.server.hosts import HostCheck
from bidstream_svc.server.page_connection import PageConnection
from bidstream_svc.server.page_connections import PageConnections
from bidstream_svc.server.refusal import Refusals
from bidstream_svc.server.sockets import Listener
from bidstream_svc.server.tls import ServerTls

_log = get_logger(__name__)

_MAX_REFUSALS = 8
# Those that are closed to make room for them keep their descriptors until the next iterations.
_MAX_ACCEPTED_PER_ITERATION = 4


class Plane(Protocol):
    """What answers the requests.

    Attributes:
        is_draining: once True, every answer closes its connection.
    """

    is_draining: bool

    def connect(self, hosts: HostCheck) -> PageConnection:
        """Return a protocol for a new connection; `hosts` checks its `Host` headers."""


class PageServer:
    """Serves a plane of pages; an asynchronous context manager.

    Args:
        settings: time-outs.
        listeners: the listening sockets; they are closed on exit, but the files of Unix sockets are kept.
        metrics: gets the expiry of the certificate.
        connections: the connections of the plane.
        plane: answers them.
        allowed_hosts: see HostCheck.
        watched: files that may change meanwhile.
        tls: the TLS of the listeners on TCP; None without.
    """

    def __init__(
        self,
        settings: Settings,
        listeners: Sequence[Listener],
        metrics: MetricCells,
        connections: PageConnections,
        plane: Plane,
        *,
        allowed_hosts: frozenset[str],
        watched: Sequence[Watched] = (),
        tls: ServerTls | None = None,
    ) -> None:
        self._drain_timeout_s = settings.drain_timeout
        self._listeners = listeners
        self._metrics = metrics
        self._connections = connections
        self._plane = plane
        self._allowed_hosts = allowed_hosts
        self._watched = list(watched)
        self._tls = tls
        if tls is not None:
            self._watched.append(Watched("tls-watch", TLS_PERIOD_S, tls.reload, self._use_certificates))
        self._watches: list[FileWatch] = []
        self._acceptors: list[Acceptor] = []
        self._closing = AsyncExitStack()

    async def __aenter__(self) -> Self:
        """Start accepting connections."""
        async with AsyncExitStack() as stack:
            stack.callback(self._connections.close)
            refusals = Refusals(lambda _answer: None, max_open=_MAX_REFUSALS)
            stack.callback(refusals.close)
            for watched in self._watched:
                watch = FileWatch(*watched)
                self._watches.append(watch)
                stack.callback(watch.stop)
            self._acceptors = open_acceptors(
                stack,
                self._listeners,
                self._connections,
                self._plane.connect,
                refusals,
                allowed_hosts=self._allowed_hosts,
                tls=None if self._tls is None else self._tls.current.context,
                max_per_iteration=_MAX_ACCEPTED_PER_ITERATION,
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
        """Finish the requests in flight; see DataServer.drain."""
        timeout_s = self._drain_timeout_s
        started_s = time.monotonic()
        await asyncio.sleep(min(SHUTDOWN_DELAY_S, timeout_s))
        for acceptor in self._acceptors:
            acceptor.stop()
        self._plane.is_draining = True
        self._connections.close_idle()
        try:
            async with asyncio.timeout(timeout_s - (time.monotonic() - started_s)):
                await self._connections.wait_empty()
        except TimeoutError:
            _log.warning("drain timed out", connections=len(self._connections))

    def _use_certificates(self) -> None:
        """Serve new connections with the current certificates."""
        if self._tls is None:
            return
        context, validity = self._tls.current
        self._metrics.set(TLS_CERTIFICATE_EXPIRY_MS, validity.not_after_ms)
        for acceptor in self._acceptors:
            if acceptor.tls is not None:
                acceptor.tls = context
