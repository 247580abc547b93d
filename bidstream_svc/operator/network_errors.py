"""What aiohttp raises, as errors of our own: aiohttp's carry the request's headers, and so the API key."""

import errno
import os
from typing import NamedTuple

import aiohttp

from bidstream_svc.core.errors import OperatorNetworkError, OperatorTimeoutError


class _Explanation(NamedTuple):
    cause: type[Exception]
    error: type[OperatorNetworkError]
    message: str
    may_have_arrived: bool


# The first that fits counts.
_EXPLANATIONS = (
    _Explanation(
        aiohttp.ConnectionTimeoutError, OperatorTimeoutError, "operator did not accept the connection in time", False
    ),
    _Explanation(TimeoutError, OperatorTimeoutError, "operator did not answer in time", True),
    _Explanation(
        aiohttp.ClientConnectorDNSError, OperatorNetworkError, "the operator's host name cannot be resolved", False
    ),
    _Explanation(
        aiohttp.ClientConnectorCertificateError,
        OperatorNetworkError,
        "the operator's TLS certificate is not trusted",
        False,
    ),
    _Explanation(aiohttp.ClientSSLError, OperatorNetworkError, "no TLS with the operator: is it plain http?", False),
    _Explanation(aiohttp.ClientConnectorError, OperatorNetworkError, "cannot connect to the operator", False),
    _Explanation(
        aiohttp.ServerDisconnectedError, OperatorNetworkError, "operator closed the connection without an answer", True
    ),
    _Explanation(aiohttp.ClientPayloadError, OperatorNetworkError, "operator's answer broke off", True),
    _Explanation(aiohttp.ClientResponseError, OperatorNetworkError, "operator's answer is not HTTP", True),
    _Explanation(OSError, OperatorNetworkError, "the connection to the operator broke", True),
    _Explanation(Exception, OperatorNetworkError, "operator cannot be reached", True),
)


def explain_network_error(error: Exception) -> OperatorNetworkError:
    """The error to raise in place of one that aiohttp raised: its kind, and the system's reason if there is one."""
    fits = next(explanation for explanation in _EXPLANATIONS if isinstance(error, explanation.cause))
    message = fits.message
    if isinstance(error, OSError) and error.errno is not None and error.errno in errno.errorcode:
        message += f": {os.strerror(error.errno)}"
    return fits.error(message, may_have_arrived=fits.may_have_arrived)
