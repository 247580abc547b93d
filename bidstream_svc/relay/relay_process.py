"""The process of a relay: key endpoints, admin plane, key refreshes."""

import sys
from contextlib import AsyncExitStack, ExitStack
from functools import partial
from typing import Self

from bidstream_svc._version import __version__
from bidstream_svc.config import Settings
from bidstream_svc.core.keys import KeyPurpose
from bidstream_svc.keystore.store import KeyStores
from bidstream_svc.logs import get_logger
from bidstream_svc.metrics import MetricCells
from bidstream_svc.metrics.cells import ACCEPTING, KEY_CELLS, LABEL_OF_SCOPE
from bidstream_svc.operator.from_settings import credentials_reader
from bidstream_svc.operator.relay_path import draw_relay_name
from bidstream_svc.operator_settings import OperatorSettings
from bidstream_svc.relay.relay_credentials import RelayCredentials
from bidstream_svc.relay.relay_keys import RelayKeys
from bidstream_svc.relay.relay_plane import RelayPlane, RelayProgramme
from bidstream_svc.server.admin_server import AdminServer
from bidstream_svc.server.connections import ConnectionLimits
from bidstream_svc.server.data_server import BEARER_PERIOD_S
from bidstream_svc.server.descriptors import share_descriptors
from bidstream_svc.server.file_watch import Watched
from bidstream_svc.server.health import Health
from bidstream_svc.server.hosts import ANY_HOST
from bidstream_svc.server.page_connections import PageConnections
from bidstream_svc.server.page_server import PageServer
from bidstream_svc.server.running import ThreadFailure, housekeeping, run, run_until_stopped
from bidstream_svc.server.socket_files import SocketFiles
from bidstream_svc.server.sockets import Listeners, close_listeners, open_listeners
from bidstream_svc.server.systemd import ServiceManager
from bidstream_svc.server.tls import ServerTls, tls_files

_log = get_logger(__name__)


class RelayService:
    """What the process does; an asynchronous context manager that works while entered.

    Args:
        settings: the settings.
        listeners: the listening sockets.
        metrics: the counters.
        manager: systemd, if it has started this process.

    Attributes:
        failed: set when a thread has failed: the process must end, because nothing replaces the thread.

    Raises:
        ConfigurationError: credentials or certificates cannot be loaded, or two programmes have the same API key.
    """

    def __init__(
        self, settings: Settings, listeners: Listeners, metrics: MetricCells, manager: ServiceManager | None = None
    ) -> None:
        self._settings = settings
        self._listeners = listeners
        self._metrics = metrics
        self._manager = manager or ServiceManager({})
        self._socket_files = SocketFiles(listeners.all)
        self.failed = ThreadFailure()
        self._name = draw_relay_name()
        self._programmes = [self._make_programme(operator) for operator in settings.operators]
        credentials = [programme.credentials for programme in self._programmes]
        for each in credentials:
            each.keep_apart([other for other in credentials if other is not each])
        self._stores = KeyStores([each.keys[KeyPurpose.BIDSTREAM].store for each in self._programmes])
        for store in self._stores.all:
            metrics.set(KEY_CELLS[LABEL_OF_SCOPE[store.scope]].is_in_use, 1)
        files = tls_files(settings)
        tls = None if files is None else ServerTls(files)
        self._health = Health(self._stores, metrics, settings.hang_timeout, listeners.all, tls=tls)
        self._server = self._make_server(tls)
        self._closing = AsyncExitStack()

    async def __aenter__(self) -> Self:
        """Start the admin plane, the key refreshes and the key endpoints."""
        async with AsyncExitStack() as stack:
            stack.enter_context(housekeeping(self._metrics, self._manager, self._keep_house))
            if self._listeners.admin:
                admin = AdminServer(
                    self._settings, self._listeners.admin, self._health, self._metrics, on_failure=self.failed.note
                )
                admin.start()
                stack.callback(admin.stop)
            for programme in self._programmes:
                programme.keys[KeyPurpose.BIDSTREAM].start()
                for keys in programme.keys.values():
                    stack.callback(keys.stop)
            await stack.enter_async_context(self._server)
            self._closing = stack.pop_all()
        self._metrics.set(ACCEPTING, 1)
        self._manager.ready()
        _log.info(
            "relay listening",
            version=__version__,
            data=[str(listener.address) for listener in self._listeners.data],
            admin=[str(listener.address) for listener in self._listeners.admin],
        )
        return self

    async def __aexit__(self, *_exc_info: object) -> None:
        """Close all connections at once; call `drain` before to let requests finish."""
        await self._closing.aclose()

    def reload(self) -> None:
        """Refresh the keys now, and look for new credentials and certificates."""
        for programme in self._programmes:
            for keys in programme.keys.values():
                keys.refresh_soon()
        self._server.reload_files()
        self._manager.reloaded()

    async def drain(self) -> None:
        """Report not ready, then finish the requests in flight."""
        self._health.is_draining = True
        self._manager.stopping()
        await self._server.drain()

    def _make_programme(self, operator: OperatorSettings) -> RelayProgramme:
        make = partial(RelayKeys, operator, interval_s=self._settings.refresh_interval, failed=self.failed)
        keys = {
            KeyPurpose.BIDSTREAM: make(KeyPurpose.BIDSTREAM, self._name, self._metrics),
            # Fetched from the first request on. Its refreshes are not counted: the metrics are of the other ones.
            KeyPurpose.SHARING: make(KeyPurpose.SHARING, self._name, MetricCells()),
        }
        return RelayProgramme(RelayCredentials(credentials_reader(operator)), keys)

    def _make_server(self, tls: ServerTls | None) -> PageServer:
        settings = self._settings
        limits = ConnectionLimits(
            sys.maxsize,  # a new connection beyond the limit takes the place of a silent one, and is not refused
            settings.idle_timeout,
            settings.request_timeout,
            settings.max_buffered,
            max_in_process=min(settings.max_connections, share_descriptors().data),
            unread_timeout_s=settings.request_timeout,
        )
        connections = PageConnections(limits, self._metrics)
        return PageServer(
            settings,
            self._listeners.data,
            self._metrics,
            connections,
            RelayPlane(self._programmes, self._name, self._metrics, connections),
            allowed_hosts=ANY_HOST,  # web pages do not have the API key
            watched=[
                Watched("credentials-watch", BEARER_PERIOD_S, programme.credentials.reload)
                for programme in self._programmes
            ],
            tls=tls,
        )

    async def _keep_house(self) -> None:
        """Keep Unix sockets reachable."""
        if not self._health.is_draining:
            self._socket_files.check()


def run_relay(settings: Settings) -> None:
    """Run a relay until a stop signal.

    Raises:
        ListenError: an address cannot be used.
        ConfigurationError: a setting is missing or invalid, or a file that it names cannot be used.
    """
    metrics = MetricCells()
    manager = ServiceManager()
    with ExitStack() as stack:
        stack.callback(manager.close)
        data = open_listeners(settings.listen)
        stack.callback(close_listeners, data)
        admin = open_listeners(settings.admin_listen, field="admin_listen")
        stack.callback(close_listeners, admin)
        listeners = Listeners(data=data, admin=admin)

        def make(closing: AsyncExitStack) -> RelayService:
            closing.callback(lambda: _log.info("stopped"))
            return RelayService(settings, listeners, metrics, manager)

        run(run_until_stopped(make, settings.drain_timeout))
