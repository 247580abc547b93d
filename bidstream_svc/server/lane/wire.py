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
_OK = int(HTTPStatus.OK)  # a plain number: comparing with the enum costs ten times as much
_CLOSE = "Connection: close\r\n"


class AnswerWriter:
    """Turns answers into bytes for the socket.

    Attributes:
        closes: whether answers say that the connection ends with them.
    """

    def __init__(self) -> None:
        self.closes = False
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
        self._heads_of_ok = _Heads(self._starts[HTTPStatus.OK])

    def write(self, answer: Answer) -> bytes:
        """The bytes of a whole answer."""
        code, body = answer
        if code == _OK:
            return self._heads_of_ok[len(body)] + body
        return _head(self._starts[code], len(body)) + body


class _Heads(dict[int, bytes]):
    """Length of the body -> head of the answer, made on first use."""

    def __init__(self, start: bytes) -> None:
        super().__init__()
        self._start = start

    def __missing__(self, body_length: int) -> bytes:
        head = self[body_length] = _head(self._start, body_length)
        return head


def _head(start: bytes, body_length: int) -> bytes:
    return b"%b%d\r\n\r\n" % (start, body_length)
