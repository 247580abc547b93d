"""The embedded operator's HTTP server."""

import asyncio
from ssl import SSLContext
from types import TracebackType
from typing import Self

from aiohttp import web

from bidstream_svc.devoperator.app import make_app
from bidstream_svc.devoperator.state import OperatorState

# Requests take milliseconds; what still runs at shutdown is an injected hang.
_SHUTDOWN_TIMEOUT_S = 0.1
# From `accept` to `connection_made`, asyncio runs a task and then a callback.
_ITERATIONS_TO_CONNECT = 3


class DevOperator:
    """Serves a state over HTTP, or over HTTPS with an `ssl_context`, while entered.

    Attributes:
        url: base URL without a trailing slash; set once it listens. Port 0 chooses a free port.
    """

    def __init__(
        self,
        state: OperatorState,
        host: str = "127.0.0.1",
        port: int = 0,
        *,
        ssl_context: SSLContext | None = None,
    ) -> None:
        self.state = state
        self.url = ""
        self._host, self._port, self._ssl_context = host, port, ssl_context
        self._server: asyncio.Server | None = None
        self._runner = web.AppRunner(
            make_app(state), access_log=None, handler_cancellation=True, shutdown_timeout=_SHUTDOWN_TIMEOUT_S
        )

    async def __aenter__(self) -> Self:
        await self._runner.setup()
        assert self._runner.server is not None
        try:
            self._server = await asyncio.get_running_loop().create_server(
                self._runner.server, self._host, self._port, ssl=self._ssl_context
            )
        except OSError:
            await self._runner.cleanup()
            raise
        host, port = self._server.sockets[0].getsockname()[:2]
        scheme = "http" if self._ssl_context is None else "https"
        self.url = f"{scheme}://[{host}]:{port}" if ":" in host else f"{scheme}://{host}:{port}"
        return self

    async def __aexit__(
        self, exc_type: type[BaseException] | None, exc: BaseException | None, traceback: TracebackType | None
    ) -> None:
        await self._stop_accepting()
        server = self._runner.server
        transports = [] if server is None else [each.transport for each in server.connections]
        await self._runner.cleanup()
        for transport in transports:
            if transport is not None:
                transport.abort()  # its client may not read the rest of an answer
        await asyncio.sleep(0)  # in which the sockets are closed

    async def _stop_accepting(self) -> None:
        """Stop listening, after the connections that have been accepted are known to aiohttp, which closes them.

        If asyncio's server is closed between `accept` and `connection_made`, nothing closes the connection.
        """
        assert self._server is not None
        loop = asyncio.get_running_loop()
        for listening in self._server.sockets:
            loop.remove_reader(listening.fileno())
        for _ in range(_ITERATIONS_TO_CONNECT):
            await asyncio.sleep(0)
        self._server.close()
