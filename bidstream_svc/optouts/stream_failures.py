"""What is wrong with the server of the stream, in one line: not in its words, which may quote arguments."""

import os
import ssl
from collections.abc import Iterator

import redis.exceptions
from redis.exceptions import AuthenticationError, NoPermissionError, OutOfMemoryError, ReadOnlyError, ResponseError

from bidstream_svc.certificate_errors import explain_certificate
from bidstream_svc.core.errors import OptOutStreamError

_RESPONSES = {
    "WRONGTYPE": "the name belongs to a key that is not a stream",
    "NOAUTH": "the server requires a password",
    "WRONGPASS": "the server refuses the password",
    "OOM": "the server is out of memory (maxmemory)",
    "READONLY": "the server is a read-only replica",
    "NOREPLICAS": "the server has too few replicas to accept writes",
    "MISCONF": "the server cannot write to its disk and accepts no writes",
}
_FORBIDDEN = "the server's access rules forbid a command that is needed"
_FORBIDDEN_IN_SCRIPT = ("NOPERM", "ACL failure", "user executing the script can't run")  # Redis 6, Valkey, Redis 7


class StreamRefusedError(OptOutStreamError):
    """The server understood the command and refused it."""


def explain_failure(error: BaseException) -> OptOutStreamError:
    """Return the error to raise for one of the client's, of TLS, of the network or of time."""
    match error:
        case AuthenticationError():
            return OptOutStreamError("the server refuses the password")
        case NoPermissionError():
            return StreamRefusedError(_FORBIDDEN)
        case ReadOnlyError():
            return OptOutStreamError("the server is a read-only replica")
        case OutOfMemoryError():
            return OptOutStreamError("the server is out of memory (maxmemory)")
        case ResponseError():
            return _explain_response(str(error))
        case TimeoutError() | redis.exceptions.TimeoutError():
            return OptOutStreamError("no answer in time")
    return OptOutStreamError(_explain_connection(error))


def _explain_response(message: str) -> OptOutStreamError:
    for word, explanation in _RESPONSES.items():
        if word in message:
            return OptOutStreamError(explanation)
    if any(words in message for words in _FORBIDDEN_IN_SCRIPT):
        return StreamRefusedError(_FORBIDDEN)
    return StreamRefusedError("the server refuses a command, or the stream is not one of this program")


def _explain_connection(error: BaseException) -> str:
    for cause in _causes(error):
        match cause:
            case ssl.SSLCertVerificationError():
                return f"the server's certificate {explain_certificate(cause)}"
            case ssl.SSLError():
                return "TLS with the server fails"
            case OSError(errno=int(number)) if number > 0:
                return f"cannot reach the server ({os.strerror(number)})"
    return f"cannot reach the server ({type(error).__name__})"


def _causes(error: BaseException | None) -> Iterator[BaseException]:
    while error is not None:
        yield error
        error = error.__cause__ or error.__context__
