"""The data plane's sockets: listen, serve, drain."""

import asyncio
import time
from collections.abc import Iterable, Sequence
from contextlib import AsyncExitStack
from functools import partial
from typing import Self

from bidstream_svc.addresses import UnixAddress
from bidstream_svc.config import Settings
from bidstream_svc.logs import get_logger
from bidstream_svc.metrics import MetricCells
from bidstream_svc.server.acceptor import Acceptor
from bidstream_svc.server.auth import BearerToken
from bidstream_svc.server.connections import ConnectionLimits, Connections
from bidstream_svc.server.data_plane import DataPlane
from bidstream_svc.server.fastpath import FastPath
from bidstream_svc.server.handlers import TokenJudge
from bidstream_svc.server.hosts import HostCheck
from bidstream_svc.server.refusal import Refusals
from bidstream_svc.server.routes import OTHER_LABEL, ROUTES, Route
from bidstream_svc.server.sockets import Listener, make_tls_context
from bidstream_svc.tracing import Tracer

_log = get_logger(__name__)

# How long after SIGTERM new connections are still taken: whatever routes traffic needs a moment to notice.
FAREWELL_S = 0.5


class DataServer:
    """Serves the data plane while entered.

    Args:
        listeners: listening sockets; they are closed at the end, but a Unix socket's file stays.
        judge: judges the tokens of requests.
        tracer: makes spans of the requests that are sampled.
        has_fast_path: False leaves every request to aiohttp; to compare the two, not for production.
        routes: where requests may go.

    Raises:
        ConfigurationError: the bearer token's file cannot be read.
    """

    def __init__(
        self,
        settings: Settings,
        listeners: Sequence[Listener],
        judge: TokenJudge,
        metrics: MetricCells,
        *,
        tracer: Tracer | None = None,
        has_fast_path: bool = True,
        routes: Iterable[Route] = ROUTES,
    ) -> None:
        self._settings = settings
        self._listeners = listeners
        self._judge = judge
        self._metrics = metrics
        self._tracer = tracer
        self._has_fast_path = has_fast_path
        self._routes = tuple(routes)
        self._bearer = None if settings.auth_token_file is None else BearerToken(settings.auth_token_file)
        self._connections: Connections
        self._plane: DataPlane
        self._fast_path: FastPath | None = None
        self._acceptors: list[Acceptor] = []
        self._closing = AsyncExitStack()

    async def __aenter__(self) -> Self:
        """Begin to serve.

        Raises:
            ConfigurationError: certificates cannot be loaded.
        """
        settings = self._settings
        tls = None
        if settings.tls_cert is not None and settings.tls_key is not None:
            tls = make_tls_context(settings.tls_cert, settings.tls_key, settings.tls_client_ca)
        limits = ConnectionLimits(settings.max_connections, settings.idle_timeout, settings.request_timeout)
        async with AsyncExitStack() as stack:
            self._connections = Connections(limits, self._metrics)
            self._plane = DataPlane(
                self._connections, self._routes, self._judge, self._metrics, bearer=self._bearer, tracer=self._tracer
            )
            stack.push_async_callback(self._plane.close)
            stack.callback(self._connections.close)
            if self._has_fast_path:
                self._fast_path = self._make_fast_path()
                stack.callback(self._fast_path.close)
            refusals = Refusals(lambda answer: self._metrics.count_request(OTHER_LABEL, answer[0]))
            stack.callback(refusals.close)
            for listener in self._listeners:
                hosts = HostCheck(listener.address, settings.allowed_hosts)
                connect = partial((self._fast_path or self._plane).connect, hosts)
                of_listener = None if isinstance(listener.address, UnixAddress) else tls
                acceptor = Acceptor(listener.socket, self._connections, connect, refusals, of_listener)
                stack.callback(acceptor.close)
                self._acceptors.append(acceptor)
            self._closing = stack.pop_all()
        return self

    async def __aexit__(self, *_exc_info: object) -> None:
        """Stop at once; see `drain` for the gentle part."""
        await self._closing.aclose()

    def reload_bearer(self) -> None:
        """Read the bearer token's file again, if there is one and it has changed."""
        if self._bearer is not None and self._bearer.reload() and self._fast_path is not None:
            self._fast_path.forget_heads()

    async def drain(self) -> None:
        """Make each answer the last of its connection, then take no new connections, then wait for the rest."""
        timeout_s = self._settings.drain_timeout
        started_s = time.monotonic()
        self._plane.is_draining = True
        if self._fast_path is not None:
            self._fast_path.drain()
        await asyncio.sleep(min(FAREWELL_S, timeout_s))
        for acceptor in self._acceptors:
            acceptor.stop()
        if self._fast_path is not None:
            self._fast_path.answer_now()
        self._connections.close_idle()
        try:
            async with asyncio.timeout(timeout_s - (time.monotonic() - started_s)):
                await self._connections.wait_empty()
        except TimeoutError:
            _log.warning("drain timed out", connections=len(self._connections))

    def _make_fast_path(self) -> FastPath:
        return FastPath(
            self._connections,
            self._routes,
            self._judge,
            self._metrics,
            bearer=self._bearer,
            host=self._plane.connect,
            is_traced=self._tracer is not None,
        )
