"""Answers as bytes: status line and headers made in advance, the date once a second."""

import time
from email.utils import formatdate
from http import HTTPStatus

from bidstream_svc.server.answers import Answer

__all__ = ["AnswerWriter"]

_STATUSES = (
    HTTPStatus.OK,
    HTTPStatus.BAD_REQUEST,
    HTTPStatus.REQUEST_TIMEOUT,
    HTTPStatus.INTERNAL_SERVER_ERROR,
)
_CLOSE = "Connection: close\r\n"
_MANY_LENGTHS = 1024  # an answer to a single token is far shorter


class AnswerWriter:
    """Turns answers into bytes for the socket.

    Attributes:
        closes: whether answers say that the connection ends with them.
    """

    def __init__(self) -> None:
        self.closes = False
        self._lengths = [b"%d\r\n\r\n" % length for length in range(_MANY_LENGTHS)]
        self._starts: dict[int, bytes] = {}
        self.renew()

    def renew(self) -> None:
        """Take over the time of day, and `closes`; to be called every second."""
        date = formatdate(time.time(), usegmt=True)
        closing = set(_STATUSES) if self.closes else {HTTPStatus.REQUEST_TIMEOUT}
        self._starts = {
            status: (
                f"HTTP/1.1 {status.value} {status.phrase}\r\nServer: bidstream-svc\r\nDate: {date}\r\n"
                f"{_CLOSE if status in closing else ''}"
                "Content-Type: application/json\r\nContent-Length: "
            ).encode()
            for status in _STATUSES
        }
        self._start_of_ok = self._starts[HTTPStatus.OK]

    def write(self, answer: Answer) -> bytes:
        """The bytes of a whole answer."""
        code, body = answer
        start = self._start_of_ok if code == HTTPStatus.OK else self._starts[code]
        length = len(body)
        end_of_head = self._lengths[length] if length < _MANY_LENGTHS else b"%d\r\n\r\n" % length
        return start + end_of_head + body
