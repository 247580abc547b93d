"""What the admin plane and the webhook answer: a page, whole or in parts that are made while it is sent."""

from collections.abc import AsyncGenerator, Mapping, Sequence
from email.utils import formatdate
from http import HTTPStatus
from math import inf
from typing import NamedTuple

from bidstream_svc.server.media_type import JSON

METHODS = ("GET", "HEAD")


class PageRequest(NamedTuple):
    """What a page needs to know of a request.

    Attributes:
        method, path: of the request line.
        accept: the header; "" if absent.
        query: as it was sent, without the question mark; "" if absent.
        authorization: the header; None if absent.
        fields: the values of each header, by its name in lower case.
        body: empty unless the page takes one.
    """

    method: str
    path: str
    accept: str = ""
    query: str = ""
    authorization: str | None = None
    fields: Mapping[bytes, Sequence[str]] = {}
    body: bytes = b""


class Page(NamedTuple):
    """A page.

    Attributes:
        status: the HTTP status.
        body: not sent for HEAD.
        content_type: of the body.
        headers: further header lines.
    """

    status: int
    body: bytes
    content_type: str = JSON
    headers: Sequence[str] = ()


class StreamedPage(NamedTuple):
    """A page whose body is made while it is sent, no faster than the client reads.

    Attributes:
        parts: the body; it is closed in any case.
        body_bytes: the length of all parts.
        content_type: of the body.
        headers: further header lines.
        timeout_s: how long the client may take to read it.
        status: the HTTP status.
    """

    parts: AsyncGenerator[bytes, None]
    body_bytes: int
    content_type: str
    headers: Sequence[str] = ()
    timeout_s: float = inf
    status: int = HTTPStatus.OK


def whole_response(page: Page, *, has_body: bool, closes: bool) -> bytes:
    """Encode a page."""
    head = _head(page.status, len(page.body), page.content_type, page.headers, closes=closes)
    return head + (page.body if has_body else b"")


def streamed_head(page: StreamedPage, *, closes: bool) -> bytes:
    """Encode the head of a page whose parts follow."""
    return _head(page.status, page.body_bytes, page.content_type, page.headers, closes=closes)


def _head(status: int, body_bytes: int, content_type: str, headers: Sequence[str], *, closes: bool) -> bytes:
    lines = (
        f"HTTP/1.1 {status} {HTTPStatus(status).phrase}",
        "Server: bidstream-svc",
        f"Date: {formatdate(usegmt=True)}",
        *(["Connection: close"] if closes else []),
        f"Content-Length: {body_bytes}",
        f"Content-Type: {content_type}",
        *headers,
    )
    return "\r\n".join(lines).encode() + b"\r\n\r\n"
