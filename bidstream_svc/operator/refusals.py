"""Requests refused as an operator does: the exception, and its HTTP answer."""

import msgspec

from bidstream_svc.core.errors import BidstreamError


class RequestRefusedError(BidstreamError):
    """The request is answered with an HTTP status other than 200.

    The message, if there is one, is sent to the client and contains nothing of the request.
    """

    def __init__(self, http_status: int, api_status: str, message: str | None = None) -> None:
        super().__init__(message or "")
        self.http_status = http_status
        self.api_status = api_status
        self.message = message

    @property
    def json(self) -> bytes:
        """The body of the answer. As with operators, a 401 has no message."""
        message = {} if self.message is None else {"message": self.message}
        return msgspec.json.encode({"status": self.api_status} | message)


def client_error(message: str) -> RequestRefusedError:
    """Make a 400 with the status `client_error`."""
    return RequestRefusedError(400, "client_error", message)


def unauthorized() -> RequestRefusedError:
    """Make the 401 for an unknown API key, or one without the role that the endpoint requires."""
    return RequestRefusedError(401, "unauthorized")
