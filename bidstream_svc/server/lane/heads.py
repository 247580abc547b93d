"""Request heads: which ones the lane takes, and a memory of those it has seen.

A client sends the same head again and again. httptools reads it once; after that its bytes are recognised.
"""

import httptools

from bidstream_svc.metrics import Route
from bidstream_svc.server.auth import BearerToken
from bidstream_svc.server.handler import BODY_LIMITS
from bidstream_svc.server.hosts import HostCheck
from bidstream_svc.server.media_type import is_json

__all__ = ["HEAD_END", "MAX_HEAD_BYTES", "NO_HEAD", "Head", "HeadMemo", "may_become_plain"]

HEAD_END = b"\r\n\r\n"
# Below every limit that aiohttp has for a line, so that what the lane takes, aiohttp would take.
MAX_HEAD_BYTES = 4096
_MAX_HEADERS = 32
_MAX_REMEMBERED = 1024

_START = b"POST /decrypt"
_ROUTES = {str(route).encode(): route for route in BODY_LIMITS}
# The lane reads the first line; all of them, aiohttp refuses or treats specially when they come twice.
_AT_MOST_ONCE = frozenset(
    {
        *(b"content-length", b"host", b"content-type", b"authorization", b"connection"),
        *(b"content-location", b"content-range", b"etag", b"max-forwards", b"server", b"user-agent"),
    }
)
# Each changes how a request is framed, continued or refused; aiohttp knows how.
_NEVER = frozenset(
    {
        *(b"transfer-encoding", b"expect", b"upgrade", b"content-encoding", b"trailer", b"te"),
        *(b"proxy-connection", b"sec-websocket-key1"),
    }
)


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


# Of a length that no bytes have: a connection's last head before it has one.
NO_HEAD = Head(b"", Route.OTHER, -1)


class HeadMemo:
    """Plain heads by their bytes; bounded, and forgotten whole when full.

    Args:
        bearer: what requests must show, if anything; a head that it does not admit is not plain.
        hosts: what their `Host` header may say; likewise.
    """

    def __init__(self, bearer: BearerToken | None, hosts: HostCheck) -> None:
        self._bearer = bearer
        self._hosts = hosts
        self._heads: dict[bytes, Head] = {}

    def find(self, raw: bytes) -> Head | None:
        """The head of these bytes, up to and with the empty line; None if it is not plain."""
        head = self._heads.get(raw)
        if head is None:
            head = self._read(raw)
            if head is not None:
                if len(self._heads) >= _MAX_REMEMBERED:
                    self._heads.clear()
                self._heads[raw] = head
        return head

    def forget(self) -> None:
        """Forget all, because the bearer token changed."""
        self._heads.clear()

    def _read(self, raw: bytes) -> Head | None:
        if len(raw) > MAX_HEAD_BYTES or not raw.startswith(_START):
            return None
        found = _Fields()
        parser = httptools.HttpRequestParser(found)
        try:
            parser.feed_data(raw)
        except (httptools.HttpParserError, httptools.HttpParserUpgrade):
            return None
        route = _ROUTES.get(found.target)
        fields = _pick(found.fields)
        if route is None or fields is None or parser.get_http_version() != "1.1" or not self._admits(fields):
            return None
        length = fields.get(b"content-length", b"")
        if not length.isdigit() or int(length) > BODY_LIMITS[route]:
            return None
        return Head(raw, route, int(length))

    def _admits(self, fields: dict[bytes, bytes]) -> bool:
        """Whether a request with these fields is plain and may pass."""
        if b"host" not in fields or fields.get(b"connection", b"keep-alive") != b"keep-alive":
            return False
        if b"content-type" in fields and not is_json(_to_text(fields[b"content-type"])):
            return False
        if not self._hosts.admits(_to_text(fields[b"host"])):
            return False
        return self._bearer is None or self._bearer.admits(_to_text(fields.get(b"authorization", b"")))


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


def _pick(fields: list[tuple[bytes, bytes]]) -> dict[bytes, bytes] | None:
    """The fields that matter; None if one is not plain, or comes twice."""
    if len(fields) > _MAX_HEADERS:
        return None
    picked: dict[bytes, bytes] = {}
    for name, value in fields:
        if name in _NEVER:
            return None
        if name in _AT_MOST_ONCE:
            if name in picked:
                return None
            picked[name] = value
    return picked


def _to_text(value: bytes) -> str:
    """A header's value as aiohttp reads it."""
    return value.decode("utf-8", "surrogateescape")
