"""Request heads: which ones are plain.

A head is plain if its request is `POST` to a route over HTTP/1.1 with exactly one Host and one Content-Length, if the
request passes all checks (Host, bearer token, content type, length of the body), and if no header changes how the
request is framed or continued. Every other head is left to aiohttp, also to refuse it.

httptools parses a head and the rules here are applied to it once. The next heads of the client are recognised by its
shape (see `shapes`).
"""

from collections.abc import Iterable
from typing import NamedTuple, TypeAlias

import httptools

from bidstream_svc.server.auth import BearerToken
from bidstream_svc.server.fastpath.shapes import LENGTH, TEXT, UNSAMPLED, Shape, Value, shape_of
from bidstream_svc.server.hosts import HostCheck
from bidstream_svc.server.media_type import is_json
from bidstream_svc.server.routes import Route
from bidstream_svc.tracing import TRACEPARENT, is_sampled

HEAD_END = b"\r\n\r\n"
# Below every limit of aiohttp for one line, so that aiohttp accepts every plain head.
MAX_HEAD_BYTES = 4096
_MAX_HEADERS = 32
MAX_SHAPES = 16
# Of all shapes together. To compare one takes about a microsecond, and clients can send heads that differ at their end.
MAX_PARTS = 64

_TRACEPARENT = TRACEPARENT.encode()

# The route of a request, and the length of its body.
Head: TypeAlias = tuple[Route, int]


# The headers that are checked; each may occur once. Plain ints, because the operators of IntFlag are far slower.
_NONE, _HOST, _LENGTH, _TYPE, _AUTHORIZATION, _CONNECTION, _UPGRADE, _USER_AGENT, _MAX_FORWARDS = (
    *(0, 1, 2, 4, 8, 16, 32, 64, 128),
)
_KINDS = {
    b"host": _HOST,
    b"content-length": _LENGTH,
    b"content-type": _TYPE,
    b"authorization": _AUTHORIZATION,
    b"connection": _CONNECTION,
    b"upgrade": _UPGRADE,
    b"user-agent": _USER_AGENT,
    b"max-forwards": _MAX_FORWARDS,
}
# Those of which any value will do; they are checked because aiohttp refuses them if they are repeated.
_ANY_VALUE = frozenset({_NONE, _USER_AGENT, _MAX_FORWARDS})
# Those whose value may be another one in the next request.
_FREE = _ANY_VALUE | {_LENGTH}
# Connection options that change nothing here (RFC 9110, 7.6.1). Any other may be the name of a header that has to be
# ignored, or `close`.
_HARMLESS_OPTIONS = frozenset({b"keep-alive", b"te", b"upgrade", b"http2-settings"})
# An offer to change to another protocol, which may be declined by ignoring it (RFC 9110, 7.8).
_DECLINED_OFFER = b"h2c"
# Headers that make a head not plain. Those in the first line change how a request is framed or continued. Those in the
# second line have no meaning in a request, and aiohttp refuses some of them if they are repeated.
_NEVER_PLAIN = frozenset(
    {b"transfer-encoding", b"expect", b"content-encoding", b"trailer", b"proxy-connection"}
    | {b"content-location", b"content-range", b"etag", b"server", b"sec-websocket-key1"}
)


class _Line(NamedTuple):
    """A header line that passed the checks: its kind, and the length of the body if it is Content-Length."""

    kind: int
    body_length: int


_HARMLESS = _Line(_NONE, 0)


class PlainHeads:
    """Recognises plain heads; one for each listener. It remembers some shapes.

    Args:
        routes: the route table.
        bearer: the bearer token that requests must carry; None for none.
        hosts: checks the `Host` header.
        is_traced: if True, the heads of sampled requests are not plain.

    Attributes:
        shapes: the shapes of the last heads, the last one first.
    """

    def __init__(
        self, routes: Iterable[Route], bearer: BearerToken | None, hosts: HostCheck, *, is_traced: bool = False
    ) -> None:
        self._routes = {route.path.encode(): route for route in routes}
        self._starts = tuple(b"POST " + path for path in self._routes)
        self._bearer = bearer
        self._hosts = hosts
        self._is_traced = is_traced
        self.shapes: list[Shape] = []
        self._needed = _HOST | _LENGTH | (_NONE if bearer is None else _AUTHORIZATION)

    def find(self, raw: bytes) -> Head | None:
        """Return the route and the length of the body; None if the head with these bytes is not plain.

        Args:
            raw: the head, from its first byte to the empty line.
        """
        if len(raw) > MAX_HEAD_BYTES:
            return None
        shapes = self.shapes
        for place, shape in enumerate(shapes):
            body_length = shape.body_length(raw)
            if body_length >= 0:
                if place:
                    shapes.insert(0, shapes.pop(place))
                return shape.route, body_length
        return self._read(raw)

    def may_begin(self, beginning: bytes) -> bool:
        """Return whether these bytes, an incomplete head, may be the beginning of a plain head."""
        if len(beginning) > MAX_HEAD_BYTES or not any(
            beginning.startswith(start[: len(beginning)]) for start in self._starts
        ):
            return False
        try:
            httptools.HttpRequestParser(_Fields()).feed_data(beginning)
        except (httptools.HttpParserError, httptools.HttpParserUpgrade):
            return False
        return True

    def forget(self) -> None:
        """Forget all shapes, because the bearer token has changed."""
        self.shapes.clear()

    def _read(self, raw: bytes) -> Head | None:
        """Return the head as httptools parses it, and remember its shape; None if it is not plain."""
        if not raw.startswith(self._starts):
            return None
        found = _Fields()
        parser = httptools.HttpRequestParser(found)
        try:
            parser.feed_data(raw)
        except httptools.HttpParserUpgrade:
            pass  # an offer in a request without a body; `_classify` decides which ones are declined
        except httptools.HttpParserError:
            return None
        route = self._routes.get(found.target)
        if route is None or parser.get_http_version() != "1.1" or len(found.fields) > _MAX_HEADERS:
            return None
        seen = body_length = 0
        values: list[tuple[bytes, bytes, Value]] = []
        for name, value in found.fields:
            line = self._classify(name.lower(), value)
            if line is None or seen & line.kind:
                return None
            seen |= line.kind
            body_length += line.body_length
            if line.kind in _FREE:
                values.append((name, value, self._value(name, line)))
        if seen & self._needed != self._needed or body_length > route.max_body_bytes:
            return None
        shape = shape_of(route, raw, values)
        if shape is not None and shape.body_length(raw) == body_length:
            self._remember(shape)
        return route, body_length

    def _remember(self, shape: Shape) -> None:
        self.shapes.insert(0, shape)
        while len(self.shapes) > MAX_SHAPES or sum(len(each.parts) for each in self.shapes) > MAX_PARTS:
            self.shapes.pop()

    def _value(self, name: bytes, line: _Line) -> Value:
        """Return what may stand in place of the value of a header."""
        if line.kind == _LENGTH:
            return LENGTH
        return UNSAMPLED if self._is_traced and name.lower() == _TRACEPARENT else TEXT

    def _classify(self, name: bytes, value: bytes) -> _Line | None:
        """Return the meaning of a header; None if it makes the head not plain."""
        if name in _NEVER_PLAIN or (self._is_traced and _is_to_be_traced(name, value)):
            return None
        kind = _KINDS.get(name, _NONE)
        if kind == _LENGTH:
            return _Line(kind, int(value)) if value.isdigit() else None
        if kind != _NONE and not value.isascii():
            return None
        text = value.decode("latin-1")
        passes = (
            kind in _ANY_VALUE
            or (kind == _HOST and self._hosts.allows(text))
            or (kind == _TYPE and is_json(text))
            or (kind == _CONNECTION and _has_only_harmless_options(value))
            or (kind == _UPGRADE and value.lower() == _DECLINED_OFFER)
            or (kind == _AUTHORIZATION and (self._bearer is None or self._bearer.matches(text)))
        )
        if not passes:
            return None
        return _Line(kind, 0) if kind else _HARMLESS


def _has_only_harmless_options(connection: bytes) -> bool:
    return all(option.strip(b" \t") in _HARMLESS_OPTIONS for option in connection.lower().split(b","))


def _is_to_be_traced(name: bytes, value: bytes) -> bool:
    return name == _TRACEPARENT and is_sampled(value.strip())


class _Fields:
    """Receives the callbacks of httptools."""

    __slots__ = ("fields", "target")

    def __init__(self) -> None:
        self.target = b""
        self.fields: list[tuple[bytes, bytes]] = []

    def on_url(self, target: bytes) -> None:
        self.target += target

    def on_header(self, name: bytes, value: bytes) -> None:
        self.fields.append((name, value))
