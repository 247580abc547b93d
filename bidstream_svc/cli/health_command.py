"""`bidstream-svc health`: asks the service on this host how it is; a container's health check.

Run every few seconds, it has to start fast: it does without asyncio, and without what serves.
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
from bidstream_svc.config import env_name, load_settings
from bidstream_svc.core.errors import BidstreamError, ConfigurationError

_TIMEOUT_S = 2.0
_MAX_ANSWER_BYTES = 65_536
# Where to connect to what listens on every address.
_LOOPBACK_OF = {"0.0.0.0": "127.0.0.1", "::": "::1"}  # noqa: S104 - nothing listens here


@click.command()
@click.option(
    "--endpoint",
    type=click.Choice(["/livez", "/startupz", "/readyz"]),
    default="/readyz",
    show_default=True,
    help="what to ask",
)
@setting_options("admin_listen")
def health(*, endpoint: str, **flags: Any) -> None:
    """Ask the service on this host whether it is well.

    Prints its reason. Exit status 1 if it is not well, or does not answer within 2 seconds.
    """
    address = _reachable(load_settings(**provided(flags)).admin_listen)
    try:
        status, reason = _ask(address, endpoint)
    except OSError as error:
        raise BidstreamError(f"{endpoint} at {address}: no answer: {error.strerror or error}") from None
    except HTTPException:
        raise BidstreamError(f"{endpoint} at {address}: another program answers there") from None
    if status != HTTPStatus.OK:
        raise BidstreamError(f"{endpoint} at {address}: {status}: {reason}")
    click.echo(f"{endpoint} at {address}: {reason}")


def _reachable(addresses: Iterable[ListenAddress]) -> BoundAddress:
    """The first address that says where to connect.

    Raises:
        ConfigurationError: none does.
    """
    for address in addresses:
        if isinstance(address, UnixAddress):
            return address
        if isinstance(address, TcpAddress) and address.port:
            return TcpAddress(_LOOPBACK_OF.get(address.host, address.host), address.port)
    raise ConfigurationError(f"{env_name('admin_listen')}: names nothing to ask; HOST:PORT or unix:/path is needed")


def _ask(address: BoundAddress, path: str) -> tuple[int, str]:
    """The status of a page, and the reason in it.

    Raises:
        OSError: no answer.
        HTTPException: not an answer of this service.
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
