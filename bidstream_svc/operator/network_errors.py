"""Translation of aiohttp's exceptions, which contain the request's headers and so the API key."""

import errno
import os
import socket
import ssl
from typing import NamedTuple

import aiohttp

from bidstream_svc.certificate_errors import explain_certificate
from bidstream_svc.core.errors import OperatorNetworkError, OperatorTimeoutError

# Their `errno` is a number of another library.
_OF_LIBRARIES = (ssl.SSLError, aiohttp.ClientSSLError, aiohttp.ClientConnectorDNSError, socket.gaierror)


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
    """Return the error to raise in place of `error`. Its message ends with the operating system's reason, if any."""
    if isinstance(error, aiohttp.ClientConnectorCertificateError):
        return OperatorNetworkError(
            f"the operator's TLS certificate {_explain_certificate(error.certificate_error)}", may_have_arrived=False
        )
    explanation = next(each for each in _EXPLANATIONS if isinstance(error, each.cause))
    return explanation.error(explanation.message + _reason(error), may_have_arrived=explanation.may_have_arrived)


def _explain_certificate(error: Exception) -> str:
    # Without verification by OpenSSL, it is a CertificateError of Python's, of which only the type is known.
    return explain_certificate(error) if isinstance(error, ssl.SSLCertVerificationError) else "is not trusted"


def _reason(error: Exception) -> str:
    """Return ": " and the operating system's reason; "" if there is none."""
    if not isinstance(error, OSError) or isinstance(error, _OF_LIBRARIES):
        return ""
    number = error.errno
    return "" if number is None or number not in errno.errorcode else f": {os.strerror(number)}"
