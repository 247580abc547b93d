"""The data plane on its listening sockets: start, drain, stop."""

import asyncio
import time
from collections.abc import Iterable, Sequence
from contextlib import AsyncExitStack
from functools import partial
from typing import Self

from bidstream_svc.config import Settings
from bidstream_svc.logs import get_logger
from bidstream_svc.metrics import MetricCells
from bidstream_svc.metrics.cells import TLS_CERTIFICATE_EXPIRY_MS
from bidstream_svc.server.acceptor import Acceptor, open_acceptors
from bidstream_svc.server.auth import BearerToken
from bidstream_svc.server.connections import ConnectionLimits, Connections
from bidstream_svc.server.data_plane import DataPlane
from bidstream_svc.server.descriptors import share_descriptors
from bidstream_svc.server.fastpath import FastPath
from bidstream_svc.server.file_watch import FileWatch
from bidstream_svc.server.handlers import TokenDecryptor
from bidstream_svc.server.refusal import Refusals
from bidstream_svc.server.routes import OTHER_LABEL, ROUTES, Route
from bidstream_svc.server.sockets import Listener
from bidstream_svc.server.tls import ServerTls, tls_files
from bidstream_svc.tracing import Tracer

_log = get_logger(__name__)

# How long new connections are still accepted after SIGTERM, because load balancers need time to notice that it ends.
SHUTDOWN_DELAY_S = 0.5
# How often files are read to look for a change.
BEARER_PERIOD_S = 0.5
TLS_PERIOD_S = 60.0


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
        self._watches: list[FileWatch] = []
        self._connections: Connections
        self._plane: DataPlane
        self._fast_path: FastPath | None = None
        self._acceptors: list[Acceptor] = []
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
            self._connections = Connections(limits, self._metrics)
            self._plane = DataPlane(
                self._connections,
                self._routes,
                self._decryptor,
                self._metrics,
                bearer=self.bearer,
                tracer=self._tracer,
            )
            stack.push_async_callback(self._plane.close)
            stack.callback(self._connections.close)
            if self._has_fast_path:
                self._fast_path = self._make_fast_path()
                stack.callback(self._fast_path.close)
            refusals = Refusals(
                lambda answer: self._metrics.count_request(OTHER_LABEL, answer[0]), max_open=shares.refusals
            )
            stack.callback(refusals.close)
            self._acceptors = open_acceptors(
                stack,
                self._listeners,
                self._connections,
                (self._fast_path or self._plane).connect,
                refusals,
                allowed_hosts=settings.allowed_hosts,
                tls=None if self.tls is None else self.tls.current.context,
            )
            self._watch_files(stack)
            self._closing = stack.pop_all()
        return self

    async def __aexit__(self, *_exc_info: object) -> None:
        """Close all connections at once; call `drain` before to let requests finish."""
        await self._closing.aclose()

    def reload_files(self) -> None:
        """Look now, and not at the next turn, whether the bearer token or the certificates have changed."""
        for watch in self._watches:
            watch.look_now()

    async def drain(self) -> None:
        """Finish the requests in flight.

        Every response now closes its connection. After `SHUTDOWN_DELAY_S` no connection is accepted, and idle ones are
        closed, new ones a little later. Returns when none is open, or after `drain_timeout` seconds in all.
        """
        timeout_s = self._settings.drain_timeout
        started_s = time.monotonic()
        self._plane.is_draining = True
        if self._fast_path is not None:
            self._fast_path.drain()
        await asyncio.sleep(min(SHUTDOWN_DELAY_S, timeout_s))
        for acceptor in self._acceptors:
            acceptor.stop()
        self._connections.close_idle()
        try:
            async with asyncio.timeout(timeout_s - (time.monotonic() - started_s)):
                await self._connections.wait_empty()
        except TimeoutError:
            _log.warning("drain timed out", connections=len(self._connections))

    def _watch_files(self, stack: AsyncExitStack) -> None:
        """Use changed files from now on, until `stack` is closed."""
        if self.bearer is not None:
            forget_heads = self._fast_path.forget_heads if self._fast_path is not None else lambda: None
            self._watches.append(FileWatch("bearer-watch", BEARER_PERIOD_S, self.bearer.reload, forget_heads))
        if self.tls is not None:
            self._use_certificates(self.tls)
            self._watches.append(
                FileWatch("tls-watch", TLS_PERIOD_S, self.tls.reload, partial(self._use_certificates, self.tls))
            )
        for watch in self._watches:
            stack.callback(watch.stop)

    def _use_certificates(self, tls: ServerTls) -> None:
        """Serve new connections with the current certificates."""
        context, validity = tls.current
        self._metrics.set(TLS_CERTIFICATE_EXPIRY_MS, validity.not_after_ms)
        for acceptor in self._acceptors:
            if acceptor.tls is not None:
                acceptor.tls = context

    def _make_fast_path(self) -> FastPath:
        return FastPath(
            self._connections,
            self._routes,
            self._decryptor,
            self._metrics,
            bearer=self.bearer,
            fallback=self._plane.connect,
            turns=self._plane.turns,
            is_traced=self._tracer is not None,
        )
