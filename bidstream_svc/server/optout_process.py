"""The process of the opt-out store: webhook, writer, stream. It runs beside the workers, which read the store."""

import asyncio
import signal
from collections.abc import Collection, Iterable
from contextlib import AsyncExitStack, ExitStack
from typing import Self

from bidstream_svc._version import __version__
from bidstream_svc.config import Settings, env_name
from bidstream_svc.core.errors import ConfigurationError, OptOutStoreError
from bidstream_svc.logs import get_logger
from bidstream_svc.metrics import MetricCells
from bidstream_svc.metrics.cells import ACCEPTING
from bidstream_svc.optouts.blocking import run_blocking
from bidstream_svc.optouts.filter_growth import grow_if_needed
from bidstream_svc.optouts.group_commit import GroupCommit
from bidstream_svc.optouts.malformed_log import MalformedLog
from bidstream_svc.optouts.optout_records import OptOut
from bidstream_svc.optouts.optout_store import OptOutStore
from bidstream_svc.optouts.snapshot_file import SnapshotFiles
from bidstream_svc.optouts.stream_link import StreamLink
from bidstream_svc.server.admin_server import AdminServer
from bidstream_svc.server.optout_gauges import OptOutGauges
from bidstream_svc.server.optout_health import ReceiverHealth
from bidstream_svc.server.optout_server import OptOutServer
from bidstream_svc.server.running import ThreadFailure, housekeeping, run, run_until_stopped
from bidstream_svc.server.socket_files import SocketFiles, SocketHandover
from bidstream_svc.server.sockets import Listeners, close_listeners, open_listeners, open_optout_listeners
from bidstream_svc.server.systemd import ServiceManager

_log = get_logger(__name__)

_SAVE_PERIOD_S = 60.0
_GROWTH_PERIOD_S = 1.0
_FAILED_GROWTH_PAUSE_S = 60.0
# The sender waits for 30 s.
_COMMIT_TIMEOUT_S = 20.0
_CLOSE_TIMEOUT_S = 0.3
_FOR_EVER_MS = 2**63 - 1


class OptOutService:
    """What the process does; an asynchronous context manager that works while entered.

    Args:
        settings: the settings, with a store.
        listeners: the listening sockets of the webhook; of a receiver, those of its admin plane, too.
        metrics: the counters; this process has taken its row.
        manager: systemd, if it has started this process; None if it has a parent.
        creates_store: see OptOutStore.

    Attributes:
        failed: set when a thread has failed: the process must end, because nothing replaces the thread.

    Raises:
        OptOutStoreError: the store is damaged or of another version.
        ConfigurationError: a file that the settings name cannot be used.
    """

    def __init__(
        self,
        settings: Settings,
        listeners: Listeners,
        metrics: MetricCells,
        manager: ServiceManager | None = None,
        *,
        creates_store: bool = True,
    ) -> None:
        assert settings.optout_store is not None
        self._settings = settings
        self._listeners = listeners
        self._metrics = metrics
        self._manager = manager or ServiceManager({})
        self._socket_files = None if manager is None else SocketFiles(listeners.all)
        self._health = ReceiverHealth(settings, metrics)
        self.failed = ThreadFailure()
        self._is_closing = False
        self._store = OptOutStore(settings.optout_store, creates=creates_store)
        self._link: StreamLink | None = None
        if settings.optout_stream is None:
            self._note_fresh(_FOR_EVER_MS)
        else:
            self._link = StreamLink(settings, self._store, on_fresh=self._note_fresh, on_failure=self.failed.note)
        self._gauges = OptOutGauges(metrics, self._store, self._link)
        self._commit = GroupCommit(
            self._store,
            MalformedLog(settings.optout_store),
            is_owed=self._link is not None,
            on_added=self._note_added,
        )
        self._server = OptOutServer(
            settings,
            listeners.optouts,
            self._commit,
            metrics,
            snapshots=SnapshotFiles(settings.optout_store),
            judge_snapshot=self._judge_snapshot,
        )
        self._closing = AsyncExitStack()

    async def __aenter__(self) -> Self:
        """Start the stream, the webhook, and a receiver's admin plane."""
        async with AsyncExitStack() as stack:
            stack.push_async_callback(self._close_store)
            self._gauges.record()
            stack.enter_context(housekeeping(self._metrics, self._manager, self._keep_house))
            saving = asyncio.create_task(self._run_saving())
            stack.callback(saving.cancel)
            growing = asyncio.create_task(self._run_growth())
            stack.push_async_callback(self._stop_growth, growing)
            if self._listeners.admin:
                admin = AdminServer(
                    self._settings, self._listeners.admin, self._health, self._metrics, on_failure=self.failed.note
                )
                admin.start()
                stack.callback(admin.stop)
            if self._link is not None:
                self._link.start()
                stack.callback(self._link.stop)
            await stack.enter_async_context(self._server)
            self._closing = stack.pop_all()
        self._metrics.set(ACCEPTING, 1)
        self._manager.ready()
        _log.info(
            "opt-out store open",
            version=__version__,
            webhook=[str(listener.address) for listener in self._listeners.optouts],
            admin=[str(listener.address) for listener in self._listeners.admin],
            optouts=self._store.count(),
        )
        return self

    async def __aexit__(self, *_exc_info: object) -> None:
        """Close all connections at once, write what has come, and close the store."""
        await self._closing.aclose()

    def reload(self) -> None:
        """Look for a new bearer token."""
        self._server.reload_files()
        self._manager.reloaded()

    async def drain(self) -> None:
        """Finish the requests in flight."""
        self._health.is_draining = True
        self._manager.stopping()
        await self._server.drain()

    async def _close_store(self) -> None:
        if await self._commit.close(_CLOSE_TIMEOUT_S):
            await run_blocking(self._gauges.save)
            self._store.close()
        else:
            _log.warning("opt-out store not closed", error="the disk does not respond")

    def _judge_snapshot(self, asking: str) -> bool | None:
        """See OptOutPlane: a snapshot from which opt-outs may be missing is for other receivers only."""
        is_incomplete = self._link is not None and bool(self._link.follower.gap)
        if is_incomplete and asking in {"", self._store.store_id.hex()}:
            return None
        return is_incomplete

    def _note_added(self, optouts: Iterable[OptOut]) -> None:
        """Note new opt-outs; called in the thread of the writer."""
        self._gauges.note_received(optouts)
        if self._link is not None:
            self._link.wake()

    def _note_fresh(self, until_ms: int) -> None:
        """Tell all readers until when the store counts as synced; called in the thread of the stream."""
        self._store.control.fresh_until_ms = until_ms

    async def _run_growth(self) -> None:
        """Build the filter when it is missing or full."""
        while True:
            try:
                await run_blocking(lambda: grow_if_needed(self._store, lambda: self._is_closing))
            except (OptOutStoreError, OSError) as error:
                problem = str(error) if isinstance(error, OptOutStoreError) else error.strerror
                _log.warning("opt-out filter not built", error=problem)
                await asyncio.sleep(_FAILED_GROWTH_PAUSE_S)
            await asyncio.sleep(_GROWTH_PERIOD_S)

    async def _stop_growth(self, growing: asyncio.Task[None]) -> None:
        self._is_closing = True
        growing.cancel()
        await asyncio.wait([growing], timeout=_CLOSE_TIMEOUT_S)

    async def _run_saving(self) -> None:
        """Not in the housekeeping, which must go on while the disk does not respond."""
        while True:
            await asyncio.sleep(_SAVE_PERIOD_S)
            await run_blocking(self._gauges.save)

    async def _keep_house(self) -> None:
        """Record what the store holds, and give up what the disk does not take."""
        self._commit.expire(_COMMIT_TIMEOUT_S)
        if self._socket_files is not None and not self._health.is_draining:
            self._socket_files.check()
        self._gauges.record()


async def serve_optouts(
    settings: Settings,
    listeners: Listeners,
    metrics: MetricCells,
    *,
    stop_signals: Collection[int] = (signal.SIGTERM, signal.SIGINT),
    handover: SocketHandover | None = None,
    manager: ServiceManager | None = None,
) -> None:
    """Keep the store until a stop signal, then drain. A second stop signal ends draining. SIGHUP re-reads files.

    The process must end after it returns; see StopSignals.

    Args:
        settings: see OptOutService.
        listeners: see OptOutService.
        metrics: see OptOutService.
        stop_signals: the signals that stop it.
        handover: brings sockets that the parent has bound again; None without a parent.
        manager: see OptOutService.

    Raises:
        BidstreamError: it cannot start, or one of its threads has failed.
    """

    def make(stack: AsyncExitStack) -> OptOutService:
        stack.callback(lambda: _log.info("opt-out store closed"))
        # A parent has created the store before it started this process, perhaps long before.
        service = OptOutService(settings, listeners, metrics, manager, creates_store=handover is None)
        if handover is not None:
            loop = asyncio.get_running_loop()
            loop.add_reader(handover.fileno(), handover.receive, listeners.all)
            stack.callback(loop.remove_reader, handover.fileno())
        return service

    await run_until_stopped(make, settings.drain_timeout, stop_signals)


def run_receiver(settings: Settings) -> None:
    """Run a receiver until a stop signal: the same process, with an admin plane and without workers.

    Raises:
        ListenError: an address cannot be used.
        ConfigurationError: a setting is missing, or a file that it names cannot be used.
        OptOutStoreError: see OptOutService.
    """
    for name in ("optout_store", "optout_listen"):
        if not getattr(settings, name):
            raise ConfigurationError(f"{env_name(name)}: missing; a receiver of opt-outs requires it")
    metrics = MetricCells()
    metrics.take_row(len(metrics.rows))
    manager = ServiceManager()
    with ExitStack() as stack:
        stack.callback(manager.close)
        optouts = open_optout_listeners(settings)
        stack.callback(close_listeners, optouts)
        admin = open_listeners(settings.admin_listen, field="admin_listen")
        stack.callback(close_listeners, admin)
        run(serve_optouts(settings, Listeners(admin=admin, optouts=optouts), metrics, manager=manager))
