"""The data plane with its fast path on its listening sockets: start, drain, stop."""

from collections.abc import Iterable, Sequence
from contextlib import AsyncExitStack
from typing import Self

from bidstream_svc.config import Settings
from bidstream_svc.metrics import MetricCells
from bidstream_svc.server.auth import BearerToken
from bidstream_svc.server.connections import ConnectionLimits, Connections
from bidstream_svc.server.data_plane import DataPlane
from bidstream_svc.server.descriptors import share_descriptors
from bidstream_svc.server.fastpath import FastPath
from bidstream_svc.server.file_watch import Watched
from bidstream_svc.server.handlers import TokenDecryptor
from bidstream_svc.server.plane_server import Intake, PlaneServer
from bidstream_svc.server.refusal import Refusals
from bidstream_svc.server.routes import OTHER_LABEL, ROUTES, Route
from bidstream_svc.server.sockets import Listener
from bidstream_svc.server.tls import ServerTls, tls_files
from bidstream_svc.tracing import Tracer

# How often the file of a token or of credentials is read to look for a change.
BEARER_PERIOD_S = 0.5


class DataServer:
    """Serves the data plane; an asynchronous context manager.

    Args:
        settings: limits, time-outs, TLS and bearer token.
        listeners: the listening sockets; they are closed on exit, but the files of Unix sockets are kept.
        decryptor: decrypts the tokens of requests.
        metrics: counts connections and requests.
        tracer: records spans of sampled requests; None to record none.
        has_fast_path: False lets aiohttp answer every request; for comparisons only.
        routes: the route table.

    Attributes:
        bearer: the token that requests must have; None for none.
        tls: the TLS in use; None without.

    Raises:
        ConfigurationError: the file of the bearer token or a file of TLS cannot be read or is not valid.
    """

    def __init__(
        self,
        settings: Settings,
        listeners: Sequence[Listener],
        decryptor: TokenDecryptor,
        metrics: MetricCells,
        *,
        tracer: Tracer | None = None,
        has_fast_path: bool = True,
        routes: Iterable[Route] = ROUTES,
    ) -> None:
        self._settings = settings
        self._listeners = listeners
        self._decryptor = decryptor
        self._metrics = metrics
        self._tracer = tracer
        self._has_fast_path = has_fast_path
        self._routes = tuple(routes)
        self.bearer = None if settings.auth_token_file is None else BearerToken(settings.auth_token_file)
        files = tls_files(settings)
        self.tls = None if files is None else ServerTls(files)
        self._plane: DataPlane
        self._fast_path: FastPath | None = None
        self._server: PlaneServer | None = None  # before it has started
        self._closing = AsyncExitStack()

    async def __aenter__(self) -> Self:
        """Start accepting connections."""
        settings = self._settings
        shares = share_descriptors()
        limits = ConnectionLimits(
            settings.max_connections,
            settings.idle_timeout,
            settings.request_timeout,
            settings.max_buffered,
            max_in_process=shares.data,
        )
        async with AsyncExitStack() as stack:
            connections = Connections(limits, self._metrics)
            self._plane = DataPlane(
                connections,
                self._routes,
                self._decryptor,
                self._metrics,
                bearer=self.bearer,
                tracer=self._tracer,
            )
            stack.push_async_callback(self._plane.close)
            if self._has_fast_path:
                self._fast_path = self._make_fast_path(connections)
                stack.callback(self._fast_path.close)
            refusals = Refusals(
                lambda answer: self._metrics.count_request(OTHER_LABEL, answer[0]), max_open=shares.refusals
            )
            self._server = PlaneServer(
                settings,
                self._listeners,
                self._metrics,
                self._plane,
                Intake(connections, (self._fast_path or self._plane).connect, refusals, settings.allowed_hosts),
                watched=self._watch_bearer(),
                tls=self.tls,
            )
            await stack.enter_async_context(self._server)
            self._closing = stack.pop_all()
        return self

    async def __aexit__(self, *_exc_info: object) -> None:
        """Close all connections at once; call `drain` before to let requests finish."""
        await self._closing.aclose()

    def reload_files(self) -> None:
        """Look now, and not at the next turn, whether the bearer token or the certificates have changed."""
        if self._server is not None:
            self._server.reload_files()

    async def drain(self) -> None:
        """Finish the requests in flight; see PlaneServer. Every response closes its connection from now on."""
        assert self._server is not None
        self._plane.is_draining = True
        if self._fast_path is not None:
            self._fast_path.drain()
        await self._server.drain()

    def _watch_bearer(self) -> list[Watched]:
        if self.bearer is None:
            return []
        forget_heads = self._fast_path.forget_heads if self._fast_path is not None else lambda: None
        return [Watched("bearer-watch", BEARER_PERIOD_S, self.bearer.reload, forget_heads)]

    def _make_fast_path(self, connections: Connections) -> FastPath:
        return FastPath(
            connections,
            self._routes,
            self._decryptor,
            self._metrics,
            bearer=self.bearer,
            fallback=self._plane.connect,
            turns=self._plane.turns,
            is_traced=self._tracer is not None,
        )
