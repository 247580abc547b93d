"""Connections of commands to the admin plane of the service on this host.

`health` runs every few seconds and must start fast, so this imports neither asyncio nor the server.
"""

import socket
from collections.abc import Iterable
from http.client import HTTPConnection

from bidstream_svc.addresses import BoundAddress, ListenAddress, TcpAddress, UnixAddress
from bidstream_svc.config import env_name
from bidstream_svc.core.errors import ConfigurationError

# Where to connect to a service that listens on all addresses.
_LOOPBACK_OF = {"0.0.0.0": "127.0.0.1", "::": "::1"}  # noqa: S104 - nothing listens here


def reachable(addresses: Iterable[ListenAddress]) -> BoundAddress:
    """Return the first address that can be connected to.

    Raises:
        ConfigurationError: there is none; port 0 and systemd:NAME do not tell where to connect.
    """
    for address in addresses:
        if isinstance(address, UnixAddress):
            return address
        if isinstance(address, TcpAddress) and address.port:
            return TcpAddress(_LOOPBACK_OF.get(address.host, address.host), address.port)
    raise ConfigurationError(
        f"{env_name('admin_listen')}: no address to connect to; HOST:PORT or unix:/path is required"
    )


def connect(address: BoundAddress, timeout_s: float) -> HTTPConnection:
    """Return a connection, which is opened by the first request."""
    if isinstance(address, UnixAddress):
        return _UnixConnection(address, timeout_s)
    return HTTPConnection(address.host, address.port, timeout=timeout_s)


class _UnixConnection(HTTPConnection):
    def __init__(self, address: UnixAddress, timeout_s: float) -> None:
        super().__init__("localhost", timeout=timeout_s)
        self._path = str(address.path)

    def connect(self) -> None:
        self.sock = socket.socket(socket.AF_UNIX)
        self.sock.settimeout(self.timeout)
        self.sock.connect(self._path)
