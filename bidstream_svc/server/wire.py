"""Answers as bytes: status line and headers made in advance, the date once a second."""

from email.utils import formatdate
from http import HTTPStatus

from bidstream_svc.server.answers import Answer
from bidstream_svc.server.media_type import JSON

_STATUSES = (
    HTTPStatus.OK,
    HTTPStatus.BAD_REQUEST,
    HTTPStatus.REQUEST_TIMEOUT,
    HTTPStatus.INTERNAL_SERVER_ERROR,
)
_OK = int(HTTPStatus.OK)  # a plain number: comparing with the enum costs ten times as much


def closing_answer(answer: Answer) -> bytes:
    """The bytes of an answer with which its connection ends."""
    code, body = answer
    return _head(_start(HTTPStatus(code), formatdate(usegmt=True), closes=True), len(body)) + body


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
        date = formatdate(usegmt=True)
        self._starts = {
            status: _start(status, date, closes=self.closes or status is HTTPStatus.REQUEST_TIMEOUT)
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


def _start(status: HTTPStatus, date: str, *, closes: bool) -> bytes:
    """The head of an answer, up to the length of its body."""
    lines = (
        f"HTTP/1.1 {status.value} {status.phrase}",
        "Server: bidstream-svc",
        f"Date: {date}",
        *(["Connection: close"] if closes else []),
        f"Content-Type: {JSON}",
        "Content-Length: ",
    )
    return "\r\n".join(lines).encode()


def _head(start: bytes, body_length: int) -> bytes:
    return b"%b%d\r\n\r\n" % (start, body_length)
