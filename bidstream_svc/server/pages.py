"""What the admin plane and the webhook answer: a page, whole or in parts that are made while it is sent."""

from collections.abc import AsyncGenerator, Sequence
from email.utils import formatdate
from http import HTTPStatus
from typing import NamedTuple

from bidstream_svc.server.media_type import JSON

METHODS = ("GET", "HEAD")
LAST_CHUNK = b"0\r\n\r\n"


class PageRequest(NamedTuple):
    """What a page needs to know of a request.

    Attributes:
        method, path: of the request line.
        accept: the header; "" if absent.
        query: as it was sent, without the question mark; "" if absent.
        authorization: the header; None if absent.
    """

    method: str
    path: str
    accept: str = ""
    query: str = ""
    authorization: str | None = None


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
        parts: the body; it is closed in any case. An exception cuts the page short, so the content must tell its end.
        content_type: of the body.
    """

    parts: AsyncGenerator[bytes, None]
    content_type: str


def whole_response(page: Page, *, has_body: bool, closes: bool) -> bytes:
    """Encode a page."""
    lines = [f"Content-Length: {len(page.body)}", f"Content-Type: {page.content_type}", *page.headers]
    return _head(page.status, lines, closes=closes) + (page.body if has_body else b"")


def streamed_head(page: StreamedPage, *, is_chunked: bool, closes: bool) -> bytes:
    """Encode the head of a page whose parts follow, each as `chunk` encodes it if they are chunked."""
    lines = [f"Content-Type: {page.content_type}", *(["Transfer-Encoding: chunked"] if is_chunked else [])]
    return _head(HTTPStatus.OK, lines, closes=closes)


def chunk(part: bytes) -> bytes:
    """Encode a part that is not empty."""
    return b"%x\r\n%b\r\n" % (len(part), part)


def _head(status: int, lines: Sequence[str], *, closes: bool) -> bytes:
    all_lines = (
        f"HTTP/1.1 {status} {HTTPStatus(status).phrase}",
        "Server: bidstream-svc",
        f"Date: {formatdate(usegmt=True)}",
        *(["Connection: close"] if closes else []),
        *lines,
    )
    return "\r\n".join(all_lines).encode() + b"\r\n\r\n"
