"""The data plane on its listening sockets: start, drain, stop."""

import asyncio
import time
from collections.abc import Iterable, Sequence
from contextlib import AsyncExitStack
from typing import Self

from bidstream_svc.config import Settings
from bidstream_svc.logs import get_logger
from bidstream_svc.metrics import MetricCells
from bidstream_svc.server.acceptor import Acceptor, open_acceptors
from bidstream_svc.server.auth import BearerToken
from bidstream_svc.server.connections import ConnectionLimits, Connections
from bidstream_svc.server.data_plane import DataPlane
from bidstream_svc.server.descriptors import share_descriptors
from bidstream_svc.server.fastpath import FastPath
from bidstream_svc.server.handlers import TokenDecryptor
from bidstream_svc.server.refusal import Refusals
from bidstream_svc.server.routes import OTHER_LABEL, ROUTES, Route
from bidstream_svc.server.sockets import Listener, make_tls_context
from bidstream_svc.tracing import Tracer

_log = get_logger(__name__)

# How long new connections are still accepted after SIGTERM, because load balancers need time to notice that it ends.
SHUTDOWN_DELAY_S = 0.5


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

    Raises:
        ConfigurationError: the bearer token's file cannot be read.
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
        self._bearer = None if settings.auth_token_file is None else BearerToken(settings.auth_token_file)
        self._connections: Connections
        self._plane: DataPlane
        self._fast_path: FastPath | None = None
        self._acceptors: list[Acceptor] = []
        self._closing = AsyncExitStack()

    async def __aenter__(self) -> Self:
        """Start accepting connections.

        Raises:
            ConfigurationError: certificates cannot be loaded.
        """
        settings = self._settings
        tls = None
        if settings.tls_cert is not None and settings.tls_key is not None:
            tls = make_tls_context(settings.tls_cert, settings.tls_key, settings.tls_client_ca)
        shares = share_descriptors()
        limits = ConnectionLimits(
            settings.max_connections,
            settings.idle_timeout,
            settings.request_timeout,
            settings.max_buffered,
            max_in_process=shares.data,
        )
        async with AsyncExitStack() as stack:
            self._connections = Connections(limits, self._metrics)
            self._plane = DataPlane(
                self._connections,
                self._routes,
                self._decryptor,
                self._metrics,
                bearer=self._bearer,
                tracer=self._tracer,
            )
            stack.push_async_callback(self._plane.close)
            stack.callback(self._connections.close)
            if self._has_fast_path:
                self._fast_path = self._make_fast_path()
                stack.callback(self._fast_path.close)
            refusals = Refusals(lambda answer: self._metrics.count_request(OTHER_LABEL, answer[0]), shares.refusals)
            stack.callback(refusals.close)
            self._acceptors = open_acceptors(
                stack,
                self._listeners,
                self._connections,
                (self._fast_path or self._plane).connect,
                refusals,
                allowed_hosts=settings.allowed_hosts,
                tls=tls,
            )
            self._closing = stack.pop_all()
        return self

    async def __aexit__(self, *_exc_info: object) -> None:
        """Close all connections at once; call `drain` before to let requests finish."""
        await self._closing.aclose()

    def reload_bearer(self) -> None:
        """Read the file of the bearer token again if it is configured and has changed."""
        if self._bearer is not None and self._bearer.reload() and self._fast_path is not None:
            self._fast_path.forget_heads()

    async def drain(self) -> None:
        """Finish the requests in flight.

        Every response now closes its connection. After `SHUTDOWN_DELAY_S` no connection is accepted and idle ones are
        closed. Returns when none is open, or after `drain_timeout` seconds in all.
        """
        timeout_s = self._settings.drain_timeout
        started_s = time.monotonic()
        self._plane.is_draining = True
        if self._fast_path is not None:
            self._fast_path.drain()
        await asyncio.sleep(min(SHUTDOWN_DELAY_S, timeout_s))
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
            self._decryptor,
            self._metrics,
            bearer=self._bearer,
            fallback=self._plane.connect,
            is_traced=self._tracer is not None,
        )
