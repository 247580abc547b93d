"""Translation of aiohttp's exceptions, which contain the request's headers and so the API key."""

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


# The first match counts.
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
    _Explanation(
        aiohttp.ClientSSLError,
        OperatorNetworkError,
        "TLS handshake with the operator failed: it may serve plain http",
        False,
    ),
    _Explanation(aiohttp.ClientConnectorError, OperatorNetworkError, "cannot connect to the operator", False),
    _Explanation(
        aiohttp.ServerDisconnectedError, OperatorNetworkError, "operator closed the connection without an answer", True
    ),
    _Explanation(aiohttp.ClientPayloadError, OperatorNetworkError, "operator's answer ended early", True),
    _Explanation(aiohttp.ClientResponseError, OperatorNetworkError, "operator's answer is not HTTP", True),
    _Explanation(OSError, OperatorNetworkError, "connection to the operator failed", True),
    _Explanation(Exception, OperatorNetworkError, "call to the operator failed", True),
)


def explain_network_error(error: Exception) -> OperatorNetworkError:
    """Return the error to raise in place of one of aiohttp's, with the system's reason if there is one."""
    explanation = next(each for each in _EXPLANATIONS if isinstance(error, each.cause))
    message = explanation.message
    if isinstance(error, OSError) and error.errno is not None and error.errno in errno.errorcode:
        message += f": {os.strerror(error.errno)}"
    return explanation.error(message, may_have_arrived=explanation.may_have_arrived)
