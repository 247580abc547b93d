"""Request heads: which ones the lane takes, and a memory of those it has seen.

A client sends the same head again and again. httptools reads it once; after that its bytes are recognised.
"""

import httptools

from bidstream_svc.metrics import Route
from bidstream_svc.server.auth import BearerToken
from bidstream_svc.server.handler import BODY_LIMITS
from bidstream_svc.server.media_type import is_json

__all__ = ["HEAD_END", "MAX_HEAD_BYTES", "NO_HEAD", "Head", "HeadMemo", "may_become_plain"]

HEAD_END = b"\r\n\r\n"
# Below every limit that aiohttp has for a line, so that what the lane takes, aiohttp would take.
MAX_HEAD_BYTES = 4096
_MAX_HEADERS = 32
_MAX_REMEMBERED = 1024

_START = b"POST /decrypt"
_ROUTES = {str(route).encode(): route for route in BODY_LIMITS}
_AT_MOST_ONCE = frozenset({b"content-length", b"host", b"content-type", b"authorization", b"connection"})
# Each changes how a request is framed or continued; aiohttp knows how.
_NEVER = frozenset({b"transfer-encoding", b"expect", b"upgrade", b"content-encoding", b"trailer", b"te"})


class Head:
    """A plain head: its bytes, their number, where the request goes, the lengths of its body and of it all.

    Not frozen, because reading a slot of a frozen or a tuple-like class costs the hot path more.
    """

    __slots__ = ("body_length", "length", "raw", "request_length", "route")

    def __init__(self, raw: bytes, route: Route, body_length: int) -> None:
        self.raw = raw
        self.length = len(raw)
        self.route = route
        self.body_length = body_length
        self.request_length = self.length + body_length


# No request begins so: a connection's last head before it has one.
NO_HEAD = Head(b"\0", Route.OTHER, 0)


class HeadMemo:
    """Plain heads by their bytes; bounded, and forgotten whole when full.

    Args:
        bearer: what requests must show, if anything; a head that it does not admit is not plain.
    """

    def __init__(self, bearer: BearerToken | None) -> None:
        self._bearer = bearer
        self._heads: dict[bytes, Head] = {}

    def find(self, raw: bytes) -> Head | None:
        """The head of these bytes, up to and with the empty line; None if it is not plain."""
        head = self._heads.get(raw)
        if head is None:
            head = _read(raw, self._bearer)
            if head is not None:
                if len(self._heads) >= _MAX_REMEMBERED:
                    self._heads.clear()
                self._heads[raw] = head
        return head

    def forget(self) -> None:
        """Forget all, because the bearer token changed."""
        self._heads.clear()


class _Fields:
    """Collects what httptools finds."""

    __slots__ = ("fields", "target")

    def __init__(self) -> None:
        self.target = b""
        self.fields: list[tuple[bytes, bytes]] = []

    def on_url(self, target: bytes) -> None:
        self.target += target

    def on_header(self, name: bytes, value: bytes) -> None:
        self.fields.append((name.lower(), value))


def may_become_plain(beginning: bytes) -> bool:
    """Whether the beginning of a head, without its end, is still worth waiting for."""
    if len(beginning) > MAX_HEAD_BYTES or not beginning.startswith(_START[: len(beginning)]):
        return False
    try:
        httptools.HttpRequestParser(_Fields()).feed_data(beginning)
    except (httptools.HttpParserError, httptools.HttpParserUpgrade):
        return False
    return True


def _read(raw: bytes, bearer: BearerToken | None) -> Head | None:
    if len(raw) > MAX_HEAD_BYTES or not raw.startswith(_START):
        return None
    found = _Fields()
    parser = httptools.HttpRequestParser(found)
    try:
        parser.feed_data(raw)
    except (httptools.HttpParserError, httptools.HttpParserUpgrade):
        return None
    route = _ROUTES.get(found.target)
    if route is None or parser.get_http_version() != "1.1" or len(found.fields) > _MAX_HEADERS:
        return None
    return _read_fields(raw, route, found.fields, bearer)


def _read_fields(
    raw: bytes, route: Route, fields: list[tuple[bytes, bytes]], bearer: BearerToken | None
) -> Head | None:
    known: dict[bytes, bytes] = {}
    for name, value in fields:
        if name in _NEVER:
            return None
        if name in _AT_MOST_ONCE:
            if name in known:
                return None
            known[name] = value
    length = known.get(b"content-length", b"")
    if b"host" not in known or not length.isdigit() or known.get(b"connection", b"keep-alive") != b"keep-alive":
        return None
    if b"content-type" in known and not is_json(known[b"content-type"].decode("latin-1")):
        return None
    if bearer is not None and not bearer.admits(known.get(b"authorization", b"").decode("latin-1")):
        return None
    body_length = int(length)
    if body_length > BODY_LIMITS[route]:
        return None
    return Head(raw, route, body_length)
