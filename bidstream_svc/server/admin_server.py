"""The admin plane on its listening sockets, in a thread of its own: no request to it runs in the serving loop."""

import asyncio
import sys
from collections.abc import Callable, Sequence
from contextlib import AsyncExitStack

from bidstream_svc.config import Settings
from bidstream_svc.loop_thread import GilShareSelector, LoopThread
from bidstream_svc.metrics import MetricCells
from bidstream_svc.metrics.cells import ADMIN_CONNECTIONS, ADMIN_CONNECTIONS_REFUSED
from bidstream_svc.server.acceptor import open_acceptors
from bidstream_svc.server.admin_plane import AdminPlane
from bidstream_svc.server.connections import ConnectionLimits
from bidstream_svc.server.console_state import ConsoleSources
from bidstream_svc.server.descriptors import share_descriptors
from bidstream_svc.server.health import HealthReports
from bidstream_svc.server.page_connections import PageConnections
from bidstream_svc.server.refusal import Refusals
from bidstream_svc.server.sockets import Listener

_MAX_REFUSALS = 8
_GIL_SHARE = 0.1
# Each takes up to 0.2 ms.
_MAX_ACCEPTED_PER_ITERATION = 4


class AdminServer:
    """Serves the admin plane.

    Args:
        settings: limits and time-outs.
        listeners: the listening sockets; they are closed by `stop`, but the files of Unix sockets are kept.
        health: what the health pages report.
        metrics: what `/metrics` and `/failures` show; counts the connections of the admin plane.
        console: what the console reads; None without one.
        on_failure: see LoopThread.
    """

    def __init__(
        self,
        settings: Settings,
        listeners: Sequence[Listener],
        health: HealthReports,
        metrics: MetricCells,
        *,
        console: ConsoleSources | None = None,
        on_failure: Callable[[], None],
    ) -> None:
        self._settings = settings
        self._listeners = listeners
        self._health = health
        self._metrics = metrics
        self._console = console
        self._selector = GilShareSelector(_GIL_SHARE, self._listening_descriptors)
        self._thread = LoopThread("admin-plane", self._serve, self._selector, on_failure=on_failure)

    def start(self) -> None:
        """Start the thread, which accepts connections."""
        self._thread.start()

    def stop(self) -> None:
        """Close all connections at once and end the thread; see LoopThread. Call after `start`."""
        self._selector.lift()
        self._thread.stop()

    async def _serve(self) -> None:
        async with AsyncExitStack() as stack:
            connections = PageConnections(
                self._make_limits(), self._metrics, gauge=ADMIN_CONNECTIONS, refused=ADMIN_CONNECTIONS_REFUSED
            )
            plane = AdminPlane(self._health, self._metrics, connections, self._console)
            stack.callback(connections.close)
            refusals = Refusals(lambda _answer: None, max_open=_MAX_REFUSALS)
            stack.callback(refusals.close)
            open_acceptors(
                stack,
                self._listeners,
                connections,
                plane.connect,
                refusals,
                allowed_hosts=self._settings.allowed_hosts,
                max_per_iteration=_MAX_ACCEPTED_PER_ITERATION,
            )
            if plane.console is not None:
                await plane.console.state.history.run()
            await asyncio.Event().wait()

    def _listening_descriptors(self) -> set[int]:
        return {listener.socket.fileno() for listener in self._listeners}

    def _make_limits(self) -> ConnectionLimits:
        settings = self._settings
        return ConnectionLimits(
            sys.maxsize,
            settings.idle_timeout,
            settings.request_timeout,
            settings.max_buffered,
            max_in_process=share_descriptors().admin,
            # The answers are small enough for the kernel's buffers; only a client that pipelines and does not read
            # its answers makes them wait here.
            unread_timeout_s=settings.request_timeout,
        )
