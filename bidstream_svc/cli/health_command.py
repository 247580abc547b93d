"""`bidstream-svc health`: queries a health endpoint of the service on this host, for a container's health check.

It runs every few seconds and must start fast, so it imports neither asyncio nor the server.
"""

import json
from contextlib import closing
from http import HTTPStatus
from http.client import HTTPException
from typing import Any

import click

from bidstream_svc.addresses import BoundAddress
from bidstream_svc.cli.admin_connection import connect, reachable
from bidstream_svc.cli.options import provided, setting_options
from bidstream_svc.cli.streams import emit
from bidstream_svc.config import load_settings
from bidstream_svc.core.errors import BidstreamError

_TIMEOUT_S = 2.0
_MAX_ANSWER_BYTES = 65_536


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
    address = reachable(load_settings(**provided(flags)).admin_listen)
    try:
        status, reason = _get(address, endpoint)
    except OSError as error:
        raise BidstreamError(f"{endpoint} at {address}: no answer: {error.strerror or error}") from None
    except HTTPException:
        raise BidstreamError(f"{endpoint} at {address}: the answer is not from bidstream-svc") from None
    if status != HTTPStatus.OK:
        raise BidstreamError(f"{endpoint} at {address}: {status}: {reason}")
    emit(f"{endpoint} at {address}: {reason}")


def _get(address: BoundAddress, path: str) -> tuple[int, str]:
    """Return the HTTP status of a health endpoint, and the reason in its answer.

    Raises:
        OSError: no answer.
        HTTPException: the answer is not from this service.
    """
    with closing(connect(address, _TIMEOUT_S)) as connection:
        connection.request("GET", path)
        response = connection.getresponse()
        body = response.read(_MAX_ANSWER_BYTES)
    try:
        return response.status, str(json.loads(body)["reason"])
    except (ValueError, TypeError, KeyError):
        raise HTTPException from None
