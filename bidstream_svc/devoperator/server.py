"""The embedded operator's HTTP server."""

from ssl import SSLContext
from types import TracebackType
from typing import Self

from aiohttp import web

from bidstream_svc.devoperator.app import make_app
from bidstream_svc.devoperator.state import OperatorState

# Requests take milliseconds; what still runs at shutdown is an injected hang.
_SHUTDOWN_TIMEOUT_S = 0.1


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
        self._runner = web.AppRunner(
            make_app(state), access_log=None, handler_cancellation=True, shutdown_timeout=_SHUTDOWN_TIMEOUT_S
        )

    async def __aenter__(self) -> Self:
        await self._runner.setup()
        try:
            await web.TCPSite(self._runner, self._host, self._port, ssl_context=self._ssl_context).start()
        except OSError:
            await self._runner.cleanup()
            raise
        host, port = self._runner.addresses[0][:2]
        scheme = "http" if self._ssl_context is None else "https"
        self.url = f"{scheme}://[{host}]:{port}" if ":" in host else f"{scheme}://{host}:{port}"
        return self

    async def __aexit__(
        self, exc_type: type[BaseException] | None, exc: BaseException | None, traceback: TracebackType | None
    ) -> None:
        server = self._runner.server
        transports = [] if server is None else [each.transport for each in server.connections]
        await self._runner.cleanup()
        for transport in transports:
            if transport is not None:
                transport.abort()  # its client may not read the rest of an answer
