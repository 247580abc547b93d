"""The embedded operator over TLS on a fixed port; it can be stopped, restarted, and change its certificate."""

import asyncio
import os
import ssl
from collections.abc import Coroutine, Iterator
from contextlib import contextmanager
from pathlib import Path
from threading import Thread
from typing import Any

import trustme

from bidstream_svc.core.identity import IdentityScope
from bidstream_svc.devoperator import DevOperator, OperatorState

_HOST = "127.0.0.1"
_TIMEOUT_S = 20


def _server_context(authority: trustme.CA) -> ssl.SSLContext:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    authority.issue_cert(_HOST).configure_cert(context)
    return context


class FaultyOperator:
    """An operator whose certificate a sidecar trusts if it is started within `trusted`.

    Args:
        directory: for the authority's certificate.
        authority: that of its certificate; operators of one sidecar share it.
        scope: its programme.

    Attributes:
        state: what it answers from, its faults among it.
    """

    def __init__(
        self, directory: Path, authority: trustme.CA | None = None, scope: IdentityScope = IdentityScope.UID2
    ) -> None:
        self.state = OperatorState(seed=5 + scope, scope=scope)
        authority = authority or trustme.CA()
        self._good_context = _server_context(authority)
        self._untrusted_context = _server_context(trustme.CA())
        self._authority_file = directory / "authority.pem"
        authority.cert_pem.write_to_path(str(self._authority_file))
        # One loop for all restarts, because connections of an earlier server may still be closing.
        self._loop = asyncio.new_event_loop()
        self._thread = Thread(target=self._loop.run_forever, name="operator")
        self._thread.start()
        self._server: DevOperator | None = None
        self._port = 0

    def start(self) -> None:
        self._start(self._good_context)

    def start_with_untrusted_certificate(self) -> None:
        """Start with a certificate from an authority that the sidecar does not trust."""
        self._start(self._untrusted_context)

    def start_without_tls(self) -> None:
        self._start(None)

    def stop(self) -> None:
        """Stop listening and drop the requests that hang."""
        server, self._server = self._server, None
        if server is not None:
            self._run(server.__aexit__(None, None, None))

    def close(self) -> None:
        """Stop for good."""
        try:
            self.stop()
            self._run(self._abort_connections())
        finally:
            self._loop.call_soon_threadsafe(self._loop.stop)
            self._thread.join(_TIMEOUT_S)
            self._loop.close()

    def restart(self) -> None:
        self.stop()
        self.start()

    @contextmanager
    def trusted(self) -> Iterator[None]:
        """For processes that are started meanwhile, this operator's authority is one of the system's."""
        os.environ["SSL_CERT_FILE"] = str(self._authority_file)
        try:
            yield
        finally:
            del os.environ["SSL_CERT_FILE"]

    @property
    def settings(self) -> dict[str, Any]:
        """The settings that lead here."""
        return {
            "operator_url": f"https://{_HOST}:{self._port}",
            "api_key": self.state.api_key,
            "client_secret": self.state.client_secret,
        }

    def _start(self, context: ssl.SSLContext | None) -> None:
        self._server = DevOperator(self.state, _HOST, self._port, ssl_context=context)
        self._run(self._server.__aenter__())
        self._port = int(self._server.url.rpartition(":")[2])

    async def _abort_connections(self) -> None:
        """End the connections that TLS keeps until the other side has closed them, too."""
        for transport in list(self._loop._transports.values()):  # type: ignore[attr-defined] # it has no public list
            transport.abort()
        await asyncio.sleep(0)

    def _run(self, coroutine: Coroutine[Any, Any, object]) -> None:
        asyncio.run_coroutine_threadsafe(coroutine, self._loop).result(_TIMEOUT_S)


@contextmanager
def faulty_operator(
    directory: Path, authority: trustme.CA | None = None, scope: IdentityScope = IdentityScope.UID2
) -> Iterator[FaultyOperator]:
    """One that runs, until the end of the block."""
    operator = FaultyOperator(directory, authority, scope)
    operator.start()
    try:
        yield operator
    finally:
        operator.close()
