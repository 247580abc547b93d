"""Results of endpoints: an answer to encrypt, or an error in plain JSON."""

from typing import Any, TypeAlias

from bidstream_svc.core.errors import BidstreamError

Body: TypeAlias = dict[str, Any]  # a request's JSON object
Answer: TypeAlias = dict[str, Any]  # `{"status": ..., "body": ...}`

MAX_ITEMS = 5000  # of a list in one request


class RequestRefusedError(BidstreamError):
    """An answer other than 200. The message is sent to the client and contains nothing of the request."""

    def __init__(self, http_status: int, api_status: str, message: str) -> None:
        super().__init__(message)
        self.http_status = http_status
        self.api_status = api_status


def client_error(message: str) -> RequestRefusedError:
    """Make a 400 with the status `client_error`."""
    return RequestRefusedError(400, "client_error", message)


def success(body: object) -> Answer:
    """Make an answer with a body."""
    return {"body": body, "status": "success"}
