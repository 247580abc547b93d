"""The data plane's sockets: listen, serve, drain."""

import asyncio
import time
from collections.abc import Sequence
from contextlib import AsyncExitStack
from functools import partial
from typing import Self

from bidstream_svc.addresses import UnixAddress
from bidstream_svc.config import Settings
from bidstream_svc.logs import get_logger
from bidstream_svc.metrics import MetricCells
from bidstream_svc.server.auth import BearerToken
from bidstream_svc.server.data_plane import ConnectionLimits, DataPlane
from bidstream_svc.server.handler import DecryptHandler
from bidstream_svc.server.hosts import HostCheck
from bidstream_svc.server.lane import Lane
from bidstream_svc.server.listeners import BACKLOG, Listener, make_tls_context
from bidstream_svc.tracing import Tracer

_log = get_logger(__name__)

_DRAIN_POLL_S = 0.02
# How long after SIGTERM new connections are still taken: whoever routes traffic needs a moment to notice.
FAREWELL_S = 0.5


class DataServer:
    """Serves the data plane while entered.

    Args:
        listeners: listening sockets; they are closed at the end, but a Unix socket's file stays.
        tracer: makes spans of the requests that are sampled.
        has_lane: False leaves every request to aiohttp; to compare the two, not for production.

    Raises:
        ConfigurationError: the bearer token's file cannot be read.
    """

    def __init__(
        self,
        settings: Settings,
        listeners: Sequence[Listener],
        handler: DecryptHandler,
        metrics: MetricCells,
        *,
        tracer: Tracer | None = None,
        has_lane: bool = True,
    ) -> None:
        self._settings = settings
        self._listeners = listeners
        self._handler = handler
        self._metrics = metrics
        self._tracer = tracer
        self._has_lane = has_lane
        self._bearer = None if settings.auth_token_file is None else BearerToken(settings.auth_token_file)
        self._plane: DataPlane
        self._lane: Lane | None = None
        self._servers: list[asyncio.Server] = []
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
        self._plane = DataPlane(self._handler, self._metrics, limits, self._bearer, tracer=self._tracer)
        async with AsyncExitStack() as stack:
            stack.push_async_callback(self._plane.shutdown, 0)
            stack.callback(self._plane.close_refused)
            if self._has_lane:
                self._lane = Lane(self._plane, self._handler, self._metrics)
                stack.callback(self._lane.close)
            loop = asyncio.get_running_loop()
            for listener in self._listeners:
                hosts = HostCheck(listener.address, settings.allowed_hosts)
                make_protocol = partial((self._lane or self._plane).connect, hosts)
                # Not create_unix_server, which from Python 3.13 on removes the file even of a socket that others use.
                of_listener = None if isinstance(listener.address, UnixAddress) else tls
                server = await loop.create_server(make_protocol, sock=listener.socket, ssl=of_listener, backlog=BACKLOG)
                stack.callback(server.close)
                self._servers.append(server)
            self._closing = stack.pop_all()
        return self

    async def __aexit__(self, *_exc_info: object) -> None:
        """Stop at once; see `drain` for the gentle part."""
        await self._closing.aclose()

    def reload_bearer(self) -> None:
        """Read the bearer token's file again, if there is one and it has changed."""
        if self._bearer is not None and self._bearer.reload() and self._lane is not None:
            self._lane.forget_heads()

    async def drain(self) -> None:
        """Make each answer the last of its connection, then take no new connections, then wait for the rest."""
        timeout_s = self._settings.drain_timeout
        deadline_s = time.monotonic() + timeout_s
        self._plane.is_draining = True
        if self._lane is not None:
            self._lane.drain()
        await asyncio.sleep(min(FAREWELL_S, timeout_s))
        for server in self._servers:
            server.close()
        self._plane.close_idle()
        if self._lane is not None:
            self._lane.close_idle()
        while self._plane.open_connections and time.monotonic() < deadline_s:  # noqa: ASYNC110 - nobody announces the last
            await asyncio.sleep(_DRAIN_POLL_S)
        if self._plane.open_connections:
            _log.warning("drain timed out", connections=self._plane.open_connections)
