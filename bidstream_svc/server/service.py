"""One process of the sidecar: data plane, admin plane, key refreshes and signals."""

import asyncio
import gc
import signal
from collections.abc import Callable, Collection, Sequence
from contextlib import AbstractAsyncContextManager, AsyncExitStack, suppress
from dataclasses import dataclass
from functools import partial
from typing import Self

from bidstream_svc._version import __version__
from bidstream_svc.addresses import BoundAddress
from bidstream_svc.config import Settings
from bidstream_svc.core.domains import load_public_suffixes
from bidstream_svc.core.errors import ThreadFailedError
from bidstream_svc.core.identity import IdentityScope
from bidstream_svc.core.kernel import IS_NATIVE
from bidstream_svc.keystore.refresh_thread import RefreshThread
from bidstream_svc.keystore.refresher import KeyRefresher
from bidstream_svc.keystore.refresher_setup import open_refresher
from bidstream_svc.keystore.store import KeyStore, KeyStores
from bidstream_svc.logs import get_logger
from bidstream_svc.metrics import MetricCells
from bidstream_svc.metrics.cells import ACCEPTING, KEY_CELLS, LABEL_OF_SCOPE
from bidstream_svc.server.admin_server import AdminServer
from bidstream_svc.server.console_state import console_sources
from bidstream_svc.server.data_server import DataServer
from bidstream_svc.server.descriptors import descriptor_problem, raise_descriptor_limit
from bidstream_svc.server.failure_recorder import FailureRecorder
from bidstream_svc.server.handlers import TokenDecryptor
from bidstream_svc.server.health import Health
from bidstream_svc.server.heap import fix_mmap_threshold
from bidstream_svc.server.optout_health import describe_optouts, open_optouts, optouts_problem
from bidstream_svc.server.running import ThreadFailure, first_of, handle_signals, housekeeping
from bidstream_svc.server.socket_files import SocketFiles, SocketHandover
from bidstream_svc.server.sockets import Listeners
from bidstream_svc.server.stop_signals import StopSignals
from bidstream_svc.server.systemd import ServiceManager
from bidstream_svc.tracing import Tracer

_log = get_logger(__name__)

_POLL_S = 0.02
# How long a first start waits for the key cache to be read, before it accepts connections.
_CACHE_WAIT_S = 1.0
# How long a restarted worker waits for its first keys. Meanwhile clients wait, instead of getting KEYS_NOT_SYNCED while
# the other workers have keys.
_RESTARTED_KEY_WAIT_S = 3.0


@dataclass(frozen=True, slots=True)
class Family:
    """What a worker has of its parent.

    Attributes:
        is_restarted: whether it replaces a worker that ended.
        shared_keys: descriptors of the files in memory for SharedKeys, one for each operator.
        handover: brings sockets that the parent has bound again.
    """

    is_restarted: bool
    shared_keys: Sequence[int]
    handover: SocketHandover


class Service:
    """The sidecar in one process; an asynchronous context manager that serves while entered.

    Args:
        settings: the settings.
        listeners: the listening sockets.
        metrics: the counters.
        has_fast_path: see DataServer.
        family: of one of several workers; None for a process without a parent.
        manager: systemd, if it has started this process; None for a worker with a parent.

    Attributes:
        failed: set when a thread has failed: the service must end, because nothing replaces the thread.
        is_serving: True once connections are accepted.

    Raises:
        ConfigurationError: the bearer token or the certificates cannot be loaded, or the packages for tracing are not
            installed.
        OptOutStoreError: the opt-out store cannot be opened.
    """

    def __init__(
        self,
        settings: Settings,
        listeners: Listeners,
        metrics: MetricCells,
        *,
        has_fast_path: bool = True,
        family: Family | None = None,
        manager: ServiceManager | None = None,
    ) -> None:
        self._settings = settings
        self._listeners = listeners
        self._metrics = metrics
        self._family = family
        self._manager = manager or ServiceManager({})
        self.failed = ThreadFailure()
        # Opened here, because it must not be open while a worker is forked.
        self._optouts = open_optouts(settings, is_required=family is None or not family.is_restarted)
        self._stores = KeyStores(
            [KeyStore(scope=operator.scope, optouts=self._optouts) for operator in settings.operators]
        )
        for store in self._stores.all:
            metrics.set(KEY_CELLS[LABEL_OF_SCOPE[store.scope]].is_in_use, 1)
        self._health = Health(
            self._stores,
            metrics,
            settings.hang_timeout,
            listeners.all,
            optouts=partial(describe_optouts, settings, metrics),
            optouts_problem=partial(optouts_problem, settings, self._optouts),
        )
        # Each in a thread of its own, so that nothing that one of them waits for delays another.
        self._refreshes = [
            RefreshThread(partial(self._open_refresher, place), self.failed.note)
            for place in range(len(self._stores.all))
        ]
        # Only the admin plane shows what it records.
        self._recorder = FailureRecorder(self._stores, metrics.failures.row) if listeners.admin else None
        decryptor = TokenDecryptor(
            self._stores,
            metrics,
            on_unknown_key=self._refresh_for_unknown_key,
            eid_sources=settings.eid_sources,
            sample=None if self._recorder is None else self._recorder.sample,
        )
        self._tracer = None if settings.otlp_endpoint is None else Tracer(settings.otlp_endpoint)
        self._data_server = DataServer(
            settings, listeners.data, decryptor, metrics, tracer=self._tracer, has_fast_path=has_fast_path
        )
        self._health.tls = self._data_server.tls
        self.is_serving = False
        self._socket_files: SocketFiles | None = None
        self._closing = AsyncExitStack()

    async def __aenter__(self) -> Self:
        """Start the admin plane, the key refreshes and the data plane."""
        async with AsyncExitStack() as stack:
            if self._optouts is not None:
                stack.callback(self._optouts.close)
            if self._tracer is not None:
                stack.callback(self._tracer.close)
            load_public_suffixes()
            # Also before the first request for /livez.
            stack.enter_context(housekeeping(self._metrics, self._manager, self._keep_house))
            if self._listeners.admin:
                self._serve_admin_plane(stack)
            for refresh in self._refreshes:
                refresh.start()
                stack.callback(refresh.stop)
            await self._wait_to_accept()
            await stack.enter_async_context(self._data_server)
            self._watch_socket_files(stack)
            self._closing = stack.pop_all()
        self.is_serving = True
        self._metrics.set(ACCEPTING, 1)
        self._manager.ready()
        _log.info(
            "listening",
            version=__version__,
            native=IS_NATIVE,
            data=[str(address) for address in self.data_addresses],
            admin=[str(address) for address in self.admin_addresses],
        )
        return self

    async def __aexit__(self, *_exc_info: object) -> None:
        """Close all connections at once; call `drain` before to let requests finish."""
        await self._closing.aclose()

    @property
    def data_addresses(self) -> list[BoundAddress]:
        """Addresses of the data plane, with the actual port numbers."""
        return [listener.address for listener in self._listeners.data]

    @property
    def admin_addresses(self) -> list[BoundAddress]:
        """Addresses of the admin plane, with the actual port numbers."""
        return [listener.address for listener in self._listeners.admin]

    def reload(self) -> None:
        """Refresh the keys now, with credentials read anew, and look for a new bearer token and new certificates."""
        for refresh in self._refreshes:
            refresh.refresh_soon()
        self._data_server.reload_files()
        self._manager.reloaded()

    async def wait_started(self) -> None:
        """Wait until keys of a programme have been loaded."""
        while self._health.not_started() is not None:  # noqa: ASYNC110 - another thread loads them
            await asyncio.sleep(_POLL_S)

    async def drain(self) -> None:
        """Report not ready, then finish the requests in flight; see DataServer.drain."""
        self._health.is_draining = True
        self._manager.stopping()
        await self._data_server.drain()

    async def _wait_to_accept(self) -> None:
        """Let a worker that is started again have keys, and any other have read the key cache; within limits."""
        is_restarted = self._family is not None and self._family.is_restarted
        with suppress(TimeoutError):
            async with asyncio.timeout(_RESTARTED_KEY_WAIT_S if is_restarted else _CACHE_WAIT_S):
                while self._is_loading(is_restarted=is_restarted):  # noqa: ASYNC110 - other threads load
                    await asyncio.sleep(_POLL_S)

    def _is_loading(self, *, is_restarted: bool) -> bool:
        """Whether keys are about to be there that are worth waiting for."""
        stores = self._stores.all
        if any(store.snapshot is None and not store.is_cache_read for store in stores):
            return True
        return is_restarted and all(store.snapshot is None for store in stores)

    def _refresh_for_unknown_key(self, scope: IdentityScope | None, token: object) -> None:
        """Request a refresh of the programme of a token, or of all if it is unknown."""
        for store, refresh in zip(self._stores.all, self._refreshes, strict=True):
            if scope is None or store.scope is scope:
                refresh.refresh_for_unknown_key(token)

    def _watch_socket_files(self, stack: AsyncExitStack) -> None:
        """Keep Unix sockets reachable. Of several workers, the parent does, and hands the sockets over."""
        listeners = self._listeners.all
        if self._family is None:
            self._socket_files = SocketFiles(listeners)
            return
        loop, handover = asyncio.get_running_loop(), self._family.handover
        loop.add_reader(handover.fileno(), handover.receive, listeners)
        stack.callback(loop.remove_reader, handover.fileno())

    def _serve_admin_plane(self, stack: AsyncExitStack) -> None:
        console = console_sources(self._settings, self._health, self._data_server.bearer)
        server = AdminServer(
            self._settings,
            self._listeners.admin,
            self._health,
            self._metrics,
            console=console,
            on_failure=self.failed.note,
        )
        server.start()
        stack.callback(server.stop)

    def _open_refresher(self, place: int) -> AbstractAsyncContextManager[KeyRefresher]:
        """Open the refresher of the operator at this place in the settings."""
        return open_refresher(
            self._settings.operators[place],
            self._stores.all[place],
            self._metrics,
            interval_s=self._settings.refresh_interval,
            shared=None if self._family is None else self._family.shared_keys[place],
            tracer=self._tracer,
        )

    async def _keep_house(self) -> None:
        """Check what files are still there, and record failures."""
        if self._optouts is not None:
            self._optouts.check_file()  # the kernel asks the filter only
        if self._recorder is not None:
            await self._recorder.record()
        if self._socket_files is not None and not self._health.is_draining:
            self._socket_files.check()


async def serve(
    settings: Settings,
    listeners: Listeners,
    metrics: MetricCells,
    *,
    stop_signals: Collection[int] = (signal.SIGTERM, signal.SIGINT),
    family: Family | None = None,
    manager: ServiceManager | None = None,
    on_started: Callable[[Service], None] | None = None,
) -> None:
    """Serve until a stop signal, then drain. A second stop signal ends draining.

    SIGHUP refreshes the keys, unless it is a stop signal.

    The process must end after it returns; see StopSignals.

    Args:
        settings: the settings.
        listeners: the listening sockets.
        metrics: the counters.
        stop_signals: the signals that stop the service.
        family: see Service.
        manager: see Service.
        on_started: called once keys have been loaded.

    Raises:
        BidstreamError: the service cannot start, or one of its threads has failed.
    """
    fix_mmap_threshold()
    raise_descriptor_limit()
    if (problem := descriptor_problem(settings)) is not None:
        _log.warning("too few file descriptors", problem=problem)
    stop = StopSignals(stop_signals, settings.drain_timeout)
    async with AsyncExitStack() as stack:
        stack.enter_context(stop.handling())
        service = Service(settings, listeners, metrics, family=family, manager=manager)
        if signal.SIGHUP not in stop_signals:
            stack.enter_context(handle_signals([signal.SIGHUP], service.reload))
        await first_of(stack.enter_async_context(service), stop.first.wait())
        if stop.first.is_set() and not service.is_serving:
            _log.info("stopped")  # during the start
            return
        # The objects so far live as long as the process. Full collections, which stall requests, need not scan them.
        gc.freeze()
        if on_started is not None:
            await first_of(service.wait_started(), stop.first.wait(), service.failed.wait())
            if not stop.first.is_set() and not service.failed.is_set():
                on_started(service)
        await first_of(stop.first.wait(), service.failed.wait())
        _log.info("draining")
        await first_of(service.drain(), stop.second.wait())
    _log.info("stopped")
    if service.failed.is_set():
        raise ThreadFailedError("a thread of the service failed; the log says why")
