"""One process of the sidecar: data plane, admin plane, key refreshes and signals."""

import asyncio
import gc
import resource
import signal
import time
from collections.abc import AsyncIterator, Callable, Collection, Coroutine, Iterator
from contextlib import AsyncExitStack, asynccontextmanager, contextmanager, suppress
from typing import Any, Self

import uvloop

from bidstream_svc._version import __version__, is_compiled
from bidstream_svc.addresses import BoundAddress
from bidstream_svc.config import Settings
from bidstream_svc.core.domains import load_public_suffixes
from bidstream_svc.keystore.key_cache import KeyCache
from bidstream_svc.keystore.refresh_thread import RefreshThread
from bidstream_svc.keystore.refresher import KeyRefresher
from bidstream_svc.keystore.store import KeyStore
from bidstream_svc.logs import get_logger
from bidstream_svc.metrics import MetricCells
from bidstream_svc.metrics.cells import EVENT_LOOP_LAG_NS, HEARTBEAT_NS
from bidstream_svc.operator.from_settings import credentials_reader, make_transport
from bidstream_svc.operator.key_fetch import fetch_keys
from bidstream_svc.operator.transport import RetryPolicy
from bidstream_svc.server.admin_plane import Health
from bidstream_svc.server.admin_server import AdminServer
from bidstream_svc.server.data_server import DataServer
from bidstream_svc.server.handlers import TokenDecryptor
from bidstream_svc.server.sockets import Listeners
from bidstream_svc.server.stop_signals import StopSignals
from bidstream_svc.tracing import Tracer

_log = get_logger(__name__)

_HOUSEKEEPING_PERIOD_S = 0.5
_POLL_S = 0.02


class Service:
    """The sidecar in one process; an asynchronous context manager that serves while entered.

    Args:
        settings: the settings.
        listeners: the listening sockets.
        metrics: the counters.
        has_fast_path: see DataServer.
        key_wait_s: how long the data plane waits for the first keys before it accepts connections.

    Raises:
        ConfigurationError: the bearer token or the certificates cannot be loaded, or the packages for tracing are not
            installed.
    """

    def __init__(
        self,
        settings: Settings,
        listeners: Listeners,
        metrics: MetricCells,
        *,
        has_fast_path: bool = True,
        key_wait_s: float = 0.0,
    ) -> None:
        self._settings = settings
        self._listeners = listeners
        self._metrics = metrics
        self._key_wait_s = key_wait_s
        self._store = KeyStore()
        self._health = Health(self._store, metrics, settings.hang_timeout)
        self._refresh = RefreshThread(self._open_refresher)
        decryptor = TokenDecryptor(self._store, metrics, on_unknown_key=self._refresh.refresh_for_unknown_key)
        self._tracer = None if settings.otlp_endpoint is None else Tracer(settings.otlp_endpoint)
        self._data_server = DataServer(
            settings, listeners.data, decryptor, metrics, tracer=self._tracer, has_fast_path=has_fast_path
        )
        self._health.tls = self._data_server.tls
        self._closing = AsyncExitStack()

    async def __aenter__(self) -> Self:
        """Start the admin plane, the key refreshes and the data plane."""
        async with AsyncExitStack() as stack:
            if self._tracer is not None:
                stack.callback(self._tracer.close)
            load_public_suffixes()
            housekeeping = asyncio.create_task(self._run_housekeeping())
            stack.callback(housekeeping.cancel)
            if self._listeners.admin:
                self._serve_admin_plane(stack)
            self._refresh.start()
            stack.callback(self._refresh.stop)
            with suppress(TimeoutError):
                await asyncio.wait_for(self.wait_started(), self._key_wait_s)
            await stack.enter_async_context(self._data_server)
            self._closing = stack.pop_all()
        _log.info(
            "listening",
            version=__version__,
            compiled=is_compiled(),
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
        self._refresh.refresh_soon()
        self._data_server.reload_files()

    async def wait_started(self) -> None:
        """Wait until keys have been loaded."""
        while self._health.not_started() is not None:  # noqa: ASYNC110 - another thread loads them
            await asyncio.sleep(_POLL_S)

    async def drain(self) -> None:
        """Report not ready, then finish the requests in flight; see DataServer.drain."""
        self._health.is_draining = True
        await self._data_server.drain()

    def _serve_admin_plane(self, stack: AsyncExitStack) -> None:
        self._beat()  # before the first request for /livez
        server = AdminServer(self._settings, self._listeners.admin, self._health, self._metrics)
        server.start()
        stack.callback(server.stop)

    @asynccontextmanager
    async def _open_refresher(self) -> AsyncIterator[KeyRefresher]:
        settings, store = self._settings, self._store
        read_credentials = credentials_reader(settings)
        cache = None
        if settings.key_cache is not None:
            cache = KeyCache(settings.key_cache, lambda: read_credentials().client_secret)
        # One attempt per refresh: the refresher schedules its own retries.
        async with make_transport(settings, RetryPolicy(attempts=1)) as transport:
            yield KeyRefresher(
                lambda: fetch_keys(transport, previous=store.snapshot, pause_s=store.parsing_pause_s),
                store,
                self._metrics,
                cache=cache,
                tracer=self._tracer,
                interval_s=settings.refresh_interval,
            )

    async def _run_housekeeping(self) -> None:
        """Twice a second: record that the event loop turns, and how late."""
        while True:
            self._beat()
            due_s = time.monotonic() + _HOUSEKEEPING_PERIOD_S
            await asyncio.sleep(_HOUSEKEEPING_PERIOD_S)
            self._metrics.set(EVENT_LOOP_LAG_NS, max(0, int((time.monotonic() - due_s) * 1e9)))

    def _beat(self) -> None:
        """Record that the event loop turns."""
        self._metrics.set(HEARTBEAT_NS, time.monotonic_ns())


async def serve(
    settings: Settings,
    listeners: Listeners,
    metrics: MetricCells,
    *,
    stop_signals: Collection[int] = (signal.SIGTERM, signal.SIGINT),
    key_wait_s: float = 0.0,
    on_started: Callable[[Service], None] | None = None,
) -> None:
    """Serve until a stop signal, then drain. A second stop signal ends draining. SIGHUP refreshes the keys.

    The process must end after it returns; see StopSignals.

    Args:
        settings: the settings.
        listeners: the listening sockets.
        metrics: the counters.
        stop_signals: the signals that stop the service.
        key_wait_s: see Service.
        on_started: called once keys have been loaded.

    Raises:
        BidstreamError: the service cannot start.
    """
    # A core dump would contain keys.
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    # The usual soft limit of 1,024 open files is far below the default BIDSTREAM_MAX_CONNECTIONS.
    _, hard_limit = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard_limit, hard_limit))
    stop = StopSignals(stop_signals, settings.drain_timeout)
    async with AsyncExitStack() as stack:
        stack.enter_context(stop.handling())
        service = Service(settings, listeners, metrics, key_wait_s=key_wait_s)
        stack.enter_context(handle_signals([signal.SIGHUP], service.reload))
        await stack.enter_async_context(service)
        # The objects so far live as long as the process. Full collections, which stall requests, need not scan them.
        gc.freeze()
        if on_started is not None:
            await _first_of(service.wait_started(), stop.first.wait())
            if not stop.first.is_set():
                on_started(service)
        await stop.first.wait()
        _log.info("draining")
        await _first_of(service.drain(), stop.second.wait())
    _log.info("stopped")


@contextmanager
def handle_signals(numbers: Collection[int], handle: Callable[[], object]) -> Iterator[None]:
    """Call `handle` in the running loop for each of these signals; on exit, restore the default actions."""
    loop = asyncio.get_running_loop()
    for number in numbers:
        loop.add_signal_handler(number, handle)
    try:
        yield
    finally:
        for number in numbers:
            loop.remove_signal_handler(number)


async def _first_of(*coroutines: Coroutine[Any, Any, object]) -> None:
    """Run coroutines until one ends, then cancel the others. An exception of the one that ended is raised."""
    tasks = [asyncio.ensure_future(coroutine) for coroutine in coroutines]
    done, pending = await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
    for task in pending:
        task.cancel()
    for task in done:
        task.result()


def run(main: Coroutine[Any, Any, None]) -> None:
    """Run a coroutine on uvloop until it returns."""
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        runner.run(main)
