"""Results of endpoints: an answer to encrypt, or an error in plain JSON."""

from typing import Any, TypeAlias

from bidstream_svc.core.errors import BidstreamError

Body: TypeAlias = dict[str, Any]  # a request's JSON object; empty without one
Answer: TypeAlias = dict[str, Any]  # `{"status": ..., "body": ...}`


class RequestRefusedError(BidstreamError):
    """The request is answered with an HTTP status other than 200.

    The message, if there is one, is sent to the client and contains nothing of the request.
    """

    def __init__(self, http_status: int, api_status: str, message: str | None = None) -> None:
        super().__init__(message or "")
        self.http_status = http_status
        self.api_status = api_status
        self.message = message


def client_error(message: str) -> RequestRefusedError:
    """Make a 400 with the status `client_error`."""
    return RequestRefusedError(400, "client_error", message)


def server_error(message: str) -> RequestRefusedError:
    """Make a 500, as operators answer requests that they do not expect."""
    return RequestRefusedError(500, "unknown", message)


def success(body: object) -> Answer:
    """Make an answer with a body."""
    return {"body": body, "status": "success"}
