"""Serialises answers as HTTP/1.1 responses. Heads are cached and rebuilt every second, because they hold the date."""

from email.utils import formatdate
from http import HTTPStatus
from typing import Final

from bidstream_svc.server.answers import STATUSES, Answer
from bidstream_svc.server.media_type import JSON

_STATUSES = STATUSES.encode()
_WITH_STATUSES: Final = 3  # the length of such an answer
_OK = int(HTTPStatus.OK)  # an int: comparing with the enum takes ten times as long

# Statuses whose response closes the connection.
_LAST = frozenset({HTTPStatus.REQUEST_TIMEOUT, HTTPStatus.SERVICE_UNAVAILABLE})


def closing_response(answer: Answer) -> bytes:
    """Return a response with `Connection: close`."""
    code, body = answer[:2]
    return _head(_start(code, formatdate(usegmt=True), closes=True), len(body)) + body


class ResponseWriter:
    """Serialises answers.

    Attributes:
        closes: whether responses carry `Connection: close`; takes effect with the next `renew`.
        start_of_ok: the head of a response with status 200, up to the value of Content-Length.
    """

    def __init__(self) -> None:
        self.closes = False
        self.renew()

    def renew(self) -> None:
        """Rebuild the heads with the current date and `closes`. The owner must call it every second."""
        self._starts = _Starts(formatdate(usegmt=True), closes=self.closes)
        self.start_of_ok = self._starts[_OK]
        self._heads_of_ok = _Heads(self.start_of_ok)

    def write(self, answer: Answer) -> bytes:
        """Return a complete response."""
        if len(answer) == _WITH_STATUSES:
            return self._write_with_statuses(*answer)
        code, body = answer
        if code == _OK:
            return self._heads_of_ok[len(body)] + body
        return _head(self._starts[code], len(body)) + body

    def _write_with_statuses(self, code: int, body: bytes, statuses: str) -> bytes:
        return b"%b%d\r\n%b: %b\r\n\r\n%b" % (self._starts[code], len(body), _STATUSES, statuses.encode(), body)


class _Starts(dict[int, bytes]):
    """HTTP status -> head of the response up to the value of Content-Length; entries are made on first use."""

    def __init__(self, date: str, *, closes: bool) -> None:
        super().__init__()
        self._date = date
        self._closes = closes

    def __missing__(self, code: int) -> bytes:
        closes = self._closes or code in _LAST
        start = self[code] = _start(code, self._date, closes=closes)
        return start


class _Heads(dict[int, bytes]):
    """Length of the body -> complete head of the response; entries are made on first use."""

    def __init__(self, start: bytes) -> None:
        super().__init__()
        self._start = start

    def __missing__(self, body_length: int) -> bytes:
        head = self[body_length] = _head(self._start, body_length)
        return head


def _start(code: int, date: str, *, closes: bool) -> bytes:
    """Return the head of a response up to the value of Content-Length."""
    lines = (
        f"HTTP/1.1 {code} {HTTPStatus(code).phrase}",
        "Server: bidstream-svc",
        f"Date: {date}",
        *(["Connection: close"] if closes else []),
        f"Content-Type: {JSON}",
        "Content-Length: ",
    )
    return "\r\n".join(lines).encode()


def _head(start: bytes, body_length: int) -> bytes:
    return b"%b%d\r\n\r\n" % (start, body_length)
