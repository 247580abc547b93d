"""Request heads: which ones are plain, and a memo of the plain ones.

A head is plain if its request is `POST` to a route over HTTP/1.1 with exactly one Host and one Content-Length, if the
request passes all checks (Host, bearer token, content type, length of the body), and if no header changes how the
request is framed or continued. Every other head is left to aiohttp, also to refuse it.

Most clients send the same head with every request, but for Content-Length. Four ways to recognise one, the fastest
first:

1. The reader knows it, by the length of the request: it is an alternative of the head before, from which it differs in
   Content-Length only, or in values of headers that have had several, such as `traceparent`.
2. The whole head is in the memo.
3. Headers that have had several values are cut out, and the rest is in the memo.
4. Each line is in the memo of lines, or is a Content-Length or a header that is ignored here.

Otherwise httptools parses the head, and the memos keep the result if it is plain.
"""

import re
from collections.abc import Iterable, Sequence
from typing import NamedTuple

import httptools

from bidstream_svc.server.auth import BearerToken
from bidstream_svc.server.hosts import HostCheck
from bidstream_svc.server.media_type import is_json
from bidstream_svc.server.routes import ROUTES, Route
from bidstream_svc.tracing import TRACEPARENT, is_sampled

HEAD_END = b"\r\n\r\n"
# Below every limit of aiohttp for one line, so that aiohttp accepts every plain head.
MAX_HEAD_BYTES = 4096
_MAX_HEADERS = 32
_MAX_REMEMBERED = 1024
_MAX_CHANGING = 8

_REQUEST_LINE = b"POST %b HTTP/1.1"
_LINE_END = b"\r\n"
_TRACEPARENT = TRACEPARENT.encode()
_PRINTABLE = bytes(range(ord(" "), ord("~") + 1))
_DIGITS = re.compile(rb"\r\ncontent-length:[ \t]*([0-9]+)", re.IGNORECASE)
_LENGTH_LINE = re.compile(rb"content-length: ([0-9]{1,10})", re.IGNORECASE)
_PLAIN_LINE = re.compile(rb"([A-Za-z0-9-]+): ([!-~](?:[ -~]*[!-~])?)")


class Head:
    """A plain head.

    Not a frozen dataclass or a tuple, because access to their fields is slower in the hot path.

    Attributes:
        raw: the bytes of the head, including the empty line; only those before the first hole, if there is one.
        length: the length of the head.
        route: the route of the request.
        body_length: the value of Content-Length.
        request_length: the length of head and body.
        alternatives: this head, and those that differ from it in Content-Length or have holes, by `request_length`.
        holes: (start, end, what follows up to the next one) of each value that may be any text.
    """

    __slots__ = ("alternatives", "body_length", "holes", "length", "raw", "request_length", "route")

    def __init__(self, raw: bytes, route: Route, body_length: int, places: Sequence[tuple[int, int]] = ()) -> None:
        ends_of_fixed = [*(start for start, _ in places[1:]), len(raw)]
        self.raw = raw[: places[0][0]] if places else raw
        self.holes = tuple((*place, raw[place[1] : end]) for place, end in zip(places, ends_of_fixed, strict=False))
        self.length = len(raw)
        self.route = route
        self.body_length = body_length
        self.request_length = self.length + body_length
        self.alternatives: dict[int, Head] = {}

    def fits_holes(self, data: bytes) -> bool:
        """Return whether the values in the holes are printable, and what is between and behind them is the same."""
        for start, end, fixed in self.holes:
            if data[start:end].translate(None, _PRINTABLE) or not data.startswith(fixed, end):
                return False
        return True


# The last head of a new connection. No request has its length.
NO_HEAD = Head(b"", ROUTES[0], -1)


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
    """Recognises plain heads; one for each listener. Its memos are bounded and cleared when they are full.

    Args:
        routes: the route table.
        bearer: the bearer token that requests must carry; None for none.
        hosts: checks the `Host` header.
        is_traced: if True, the heads of sampled requests are not plain.
    """

    def __init__(
        self, routes: Iterable[Route], bearer: BearerToken | None, hosts: HostCheck, *, is_traced: bool = False
    ) -> None:
        self._routes = {route.path.encode(): route for route in routes}
        self._route_of_line = {_REQUEST_LINE % path: route for path, route in self._routes.items()}
        self._starts = tuple(b"POST " + path for path in self._routes)
        self._bearer = bearer
        self._hosts = hosts
        self._is_traced = is_traced
        self._is_harmless = _is_harmless_if_traced if is_traced else _is_harmless
        self._heads: dict[bytes, Head] = {}
        self._alternatives: dict[bytes, dict[int, Head]] = {}  # by the head without Content-Length
        self._kept_with_holes = 0
        self._lines: dict[bytes, _Line] = {}
        self._names: set[bytes] = set()  # of ignored headers that have occurred, each as CRLF, name, colon, space
        self._changing: list[bytes] = []  # those of them that have had several values
        self._needed = _HOST | _LENGTH | (_NONE if bearer is None else _AUTHORIZATION)

    def find(self, raw: bytes) -> Head | None:
        """Return the head with these bytes, which include the empty line; None if it is not plain.

        The result may lack lines of ignored headers. Its `route`, `body_length` and `alternatives` are right; its
        `raw`, `length` and `request_length` may be those of the shorter head.
        """
        known = self._heads.get(raw)
        if known is not None or len(raw) > MAX_HEAD_BYTES:
            return known
        return self._find_rest(raw) or self._assemble(raw) or self._read(raw)

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
        """Clear the memos, because the bearer token has changed."""
        self._forget_heads()
        self._lines.clear()
        self._names.clear()
        self._changing.clear()

    def _find_rest(self, raw: bytes) -> Head | None:
        """Return the head without the headers that vary.

        None if it has none of them, if a value is empty or not printable ASCII, or if the rest is not recognised.
        """
        places: list[tuple[int, int]] = []
        for name in self._changing:
            found = raw.find(name)
            if found >= 0:
                start = found + len(name)
                end = raw.find(_LINE_END, start)
                if start == end or raw[start:end].translate(None, _PRINTABLE):
                    return None
                places.append((start, end))
        # Besides one per header, there are two line ends: after the request line, and the empty line.
        if not places or raw.count(_LINE_END) > _MAX_HEADERS + 2:
            return None
        places.sort()
        rest = b""
        behind = 0
        for start, end in places:
            rest += raw[behind : raw.rindex(_LINE_END, 0, start)]
            behind = end
        rest += raw[behind:]
        head = self._heads.get(rest)
        if head is None:
            return self._assemble(rest)
        self._keep_with_holes(Head(raw, head.route, head.body_length, places), head.alternatives)
        return head

    def _assemble(self, raw: bytes) -> Head | None:
        """Return the head if each of its lines is known or ignored; None otherwise."""
        lines = raw.split(_LINE_END)
        route = self._route_of_line.get(lines[0])
        # Besides the headers: the request line, the empty line, and the empty string after it.
        if route is None or len(lines) > _MAX_HEADERS + 3:
            return None
        seen = body_length = 0
        is_repeatable = True
        known = self._lines
        for line in lines[1:-2]:
            found = known.get(line) or _read_length(line)
            if found is None:
                if not self._is_harmless(line):
                    return None
                is_repeatable = is_repeatable and not self._is_changing(line)
            elif found is not _HARMLESS:
                kind, length = found
                if seen & kind:
                    return None
                seen |= kind
                body_length += length
        if seen & self._needed != self._needed or body_length > route.max_body_bytes:
            return None
        head = Head(raw, route, body_length)
        if is_repeatable:
            self._keep(head)
        return head

    def _read(self, raw: bytes) -> Head | None:
        """Return the head as httptools parses it; None if it is not plain."""
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
        for name, value in found.fields:
            line = self._classify(name.lower(), value)
            if line is None or seen & line.kind:
                return None
            seen |= line.kind
            body_length += line.body_length
            self._keep_line(name, value, line)
        if seen & self._needed != self._needed or body_length > route.max_body_bytes:
            return None
        head = Head(raw, route, body_length)
        self._keep(head)
        return head

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

    def _keep(self, head: Head) -> None:
        if len(self._heads) >= _MAX_REMEMBERED:
            self._forget_heads()
        self._heads[head.raw] = head
        head.alternatives = self._alternatives.setdefault(_DIGITS.sub(b"", head.raw), head.alternatives)
        head.alternatives[head.request_length] = head

    def _keep_with_holes(self, head: Head, alternatives: dict[int, Head]) -> None:
        if head.request_length not in alternatives:
            self._kept_with_holes += 1
            if self._kept_with_holes > _MAX_REMEMBERED:
                self._forget_heads()
                return
        alternatives[head.request_length] = head

    def _forget_heads(self) -> None:
        for alternatives in self._alternatives.values():
            alternatives.clear()  # readers refer to them
        self._alternatives.clear()
        self._heads.clear()
        self._kept_with_holes = 0

    def _keep_line(self, name: bytes, value: bytes, line: _Line) -> None:
        if len(self._lines) >= _MAX_REMEMBERED:
            self._lines.clear()
            self._names.clear()
            self._changing.clear()
        self._lines[b"%b: %b" % (name, value)] = line
        if line is _HARMLESS:
            self._names.add(b"\r\n%b: " % name)

    def _is_changing(self, harmless_line: bytes) -> bool:
        """Return whether this header has had another value before.

        If so, its name is remembered as changing, unless tracing has to read it. If not, the line is remembered.
        """
        name, _, value = harmless_line.partition(b": ")
        marked_name = b"\r\n%b: " % name
        if marked_name not in self._names:
            self._keep_line(name, value, _HARMLESS)
            return False
        must_be_read = self._is_traced and name.lower() == _TRACEPARENT
        if not must_be_read and marked_name not in self._changing:
            if len(self._changing) >= _MAX_CHANGING:
                self._changing.clear()
            self._changing.append(marked_name)
        return True


def _read_length(line: bytes) -> _Line | None:
    match = _LENGTH_LINE.fullmatch(line)
    return None if match is None else _Line(_LENGTH, int(match[1]))


def _has_only_harmless_options(connection: bytes) -> bool:
    return all(option.strip(b" \t") in _HARMLESS_OPTIONS for option in connection.lower().split(b","))


def _is_harmless(line: bytes) -> bool:
    """Return whether a line is an ignored header in a spelling that every HTTP parser reads alike."""
    match = _PLAIN_LINE.fullmatch(line)
    if match is None:
        return False
    name = match[1].lower()
    return name not in _KINDS and name not in _NEVER_PLAIN


def _is_harmless_if_traced(line: bytes) -> bool:
    name, _, value = line.partition(b": ")
    return _is_harmless(line) and not _is_to_be_traced(name.lower(), value)


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
