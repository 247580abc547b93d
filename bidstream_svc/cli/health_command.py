"""`bidstream-svc health`: queries a health endpoint of the service on this host, for a container's health check.

It runs every few seconds and must start fast, so it imports neither asyncio nor the server.
"""

import json
import socket
from collections.abc import Iterable
from contextlib import closing
from http import HTTPStatus
from http.client import HTTPConnection, HTTPException
from typing import Any

import click

from bidstream_svc.addresses import BoundAddress, ListenAddress, TcpAddress, UnixAddress
from bidstream_svc.cli.options import provided, setting_options
from bidstream_svc.cli.streams import emit
from bidstream_svc.config import env_name, load_settings
from bidstream_svc.core.errors import BidstreamError, ConfigurationError

_TIMEOUT_S = 2.0
_MAX_ANSWER_BYTES = 65_536
# Where to connect to a service that listens on all addresses.
_LOOPBACK_OF = {"0.0.0.0": "127.0.0.1", "::": "::1"}  # noqa: S104 - nothing listens here


@click.command()
@click.option(
    "--endpoint",
    type=click.Choice(["/livez", "/startupz", "/readyz"]),
    default="/readyz",
    show_default=True,
    help="the endpoint to query",
)
@setting_options("admin_listen")
def health(*, endpoint: str, **flags: Any) -> None:
    """Query a health endpoint of the service on this host.

    Prints the reason in its answer. The exit status is 1 if the answer is not 200, or does not arrive within 2 seconds.
    """
    address = _reachable(load_settings(**provided(flags)).admin_listen)
    try:
        status, reason = _get(address, endpoint)
    except OSError as error:
        raise BidstreamError(f"{endpoint} at {address}: no answer: {error.strerror or error}") from None
    except HTTPException:
        raise BidstreamError(f"{endpoint} at {address}: the answer is not from bidstream-svc") from None
    if status != HTTPStatus.OK:
        raise BidstreamError(f"{endpoint} at {address}: {status}: {reason}")
    emit(f"{endpoint} at {address}: {reason}")


def _reachable(addresses: Iterable[ListenAddress]) -> BoundAddress:
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


def _get(address: BoundAddress, path: str) -> tuple[int, str]:
    """Return the HTTP status of a health endpoint, and the reason in its answer.

    Raises:
        OSError: no answer.
        HTTPException: the answer is not from this service.
    """
    with closing(_connect(address)) as connection:
        connection.request("GET", path)
        response = connection.getresponse()
        body = response.read(_MAX_ANSWER_BYTES)
    try:
        return response.status, str(json.loads(body)["reason"])
    except (ValueError, TypeError, KeyError):
        raise HTTPException from None


def _connect(address: BoundAddress) -> HTTPConnection:
    if isinstance(address, UnixAddress):
        return _UnixConnection(address)
    return HTTPConnection(address.host, address.port, timeout=_TIMEOUT_S)


class _UnixConnection(HTTPConnection):
    def __init__(self, address: UnixAddress) -> None:
        super().__init__("localhost", timeout=_TIMEOUT_S)
        self._path = str(address.path)

    def connect(self) -> None:
        self.sock = socket.socket(socket.AF_UNIX)
        self.sock.settimeout(_TIMEOUT_S)
        self.sock.connect(self._path)
