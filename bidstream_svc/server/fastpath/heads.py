"""Request heads: which ones are plain, and a memo of those that have been read.

A plain head is one that aiohttp would not treat in a special way: POST to a route, HTTP/1.1, one Host and one
Content-Length, and no header that changes how a request is framed or continued.

A client sends the same head again and again. httptools parses it once; after that its bytes are recognised as a whole.
Where a head differs from request to request, its lines are recognised one by one: lines that httptools has accepted
before, and lines that cannot be anything but a header without a meaning here. Headers that have come with several
values, such as `traceparent`, are cut out, and the rest of the head is recognised as a whole.
"""

import re
from collections.abc import Iterable
from typing import NamedTuple

import httptools

from bidstream_svc.server.auth import BearerToken
from bidstream_svc.server.hosts import HostCheck
from bidstream_svc.server.media_type import is_json
from bidstream_svc.server.routes import ROUTES, Route
from bidstream_svc.tracing import TRACEPARENT, is_sampled

HEAD_END = b"\r\n\r\n"
# Below every limit that aiohttp has for a line, so that what is plain, aiohttp takes.
MAX_HEAD_BYTES = 4096
_MAX_HEADERS = 32
_MAX_REMEMBERED = 1024
_MAX_CHANGING = 8

_REQUEST_LINE = b"POST %b HTTP/1.1"
_LINE_END = b"\r\n"
_TRACEPARENT = TRACEPARENT.encode()
_PRINTABLE = bytes(range(ord(" "), ord("~") + 1))
_PLAIN_LINE = re.compile(rb"([A-Za-z0-9-]+): ([!-~](?:[ -~]*[!-~])?)")


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


# A connection's last head before it has one. Its route does not matter: no request has a length of -1.
NO_HEAD = Head(b"", ROUTES[0], -1)


# The headers that matter; each may come once. Bits, and no IntFlag: its operators cost more than all the rest.
_NONE, _HOST, _LENGTH, _TYPE, _AUTHORIZATION, _CONNECTION, _USER_AGENT = 0, 1, 2, 4, 8, 16, 32
_KINDS = {
    b"host": _HOST,
    b"content-length": _LENGTH,
    b"content-type": _TYPE,
    b"authorization": _AUTHORIZATION,
    b"connection": _CONNECTION,
    b"user-agent": _USER_AGENT,
}
# The first line's change how a request is framed or continued, and aiohttp knows how; the second's have no place in a
# request, and aiohttp refuses some that come twice.
_NEVER = frozenset(
    {b"transfer-encoding", b"expect", b"upgrade", b"content-encoding", b"trailer", b"te", b"proxy-connection"}
    | {b"content-location", b"content-range", b"etag", b"max-forwards", b"server", b"sec-websocket-key1"}
)


class _Line(NamedTuple):
    """A header line that passed: what it is, and the body's length if it says that."""

    kind: int
    body_length: int


_HARMLESS = _Line(_NONE, 0)


class PlainHeads:
    """Tells which heads are plain; a bounded memo of heads and lines by their bytes, forgotten as a whole when full.

    Args:
        routes: where a plain request may go.
        bearer: what requests must show, if anything; a head that it does not admit is not plain.
        hosts: what their `Host` header may say; likewise.
        is_traced: leaves requests that are sampled to aiohttp, where spans are made.
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
        self._lines: dict[bytes, _Line] = {}
        self._names: set[bytes] = set()  # of harmless lines, with what stands around them: CRLF, name, colon, blank
        self._changing: list[bytes] = []  # those of them that have come with several values
        self._needed = _HOST | _LENGTH | (_NONE if bearer is None else _AUTHORIZATION)

    def find(self, raw: bytes) -> Head | None:
        """The head of these bytes, up to and with the empty line; None if it is not plain.

        What is returned may be the head without some lines that do not matter: look at its route and its body's
        length, not at its own.
        """
        known = self._heads.get(raw)
        if known is not None or len(raw) > MAX_HEAD_BYTES:
            return known
        return self._find_rest(raw) or self._assemble(raw) or self._read(raw)

    def may_begin(self, beginning: bytes) -> bool:
        """Whether a plain head may begin with these bytes, which hold no whole head."""
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
        """Forget all, because the bearer token changed."""
        self._heads.clear()
        self._lines.clear()
        self._names.clear()
        self._changing.clear()

    def _find_rest(self, raw: bytes) -> Head | None:
        """The head without the lines that change, if they are harmless; None if that does not do."""
        rest = raw
        for name in self._changing:
            start = rest.find(name)
            if start >= 0:
                value_start = start + len(name)
                end = rest.find(_LINE_END, value_start)
                if value_start == end or rest[value_start:end].translate(None, _PRINTABLE):
                    return None
                rest = rest[:start] + rest[end:]
        # Behind the request line and the last header stand two line ends.
        if rest is raw or raw.count(_LINE_END) > _MAX_HEADERS + 2:
            return None
        return self._heads.get(rest) or self._assemble(rest)

    def _assemble(self, raw: bytes) -> Head | None:
        """A head out of lines that are known, or harmless; None if that does not do."""
        lines = raw.split(_LINE_END)
        route = self._route_of_line.get(lines[0])
        # Behind the last header stands the empty line, and nothing behind that.
        if route is None or len(lines) > _MAX_HEADERS + 3:
            return None
        seen = body_length = 0
        comes_again = True
        known = self._lines
        for line in lines[1:-2]:
            found = known.get(line)
            if found is None:
                if not self._is_harmless(line):
                    return None
                comes_again = comes_again and not self._is_changing(line)
            elif found is not _HARMLESS:
                kind, length = found
                if seen & kind:
                    return None
                seen |= kind
                body_length += length
        if seen & self._needed != self._needed or body_length > route.max_body_bytes:
            return None
        head = Head(raw, route, body_length)
        if comes_again:
            self._keep(head)
        return head

    def _read(self, raw: bytes) -> Head | None:
        """A head as httptools reads it."""
        if not raw.startswith(self._starts):
            return None
        found = _Fields()
        parser = httptools.HttpRequestParser(found)
        try:
            parser.feed_data(raw)
        except (httptools.HttpParserError, httptools.HttpParserUpgrade):
            return None
        route = self._routes.get(found.target)
        if route is None or parser.get_http_version() != "1.1" or len(found.fields) > _MAX_HEADERS:
            return None
        seen = body_length = 0
        for name, value in found.fields:
            line = self._judge(name.lower(), value)
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

    def _judge(self, name: bytes, value: bytes) -> _Line | None:
        """What a header means here; None if it is not plain, or not admitted."""
        if name in _NEVER or (self._is_traced and _is_to_be_traced(name, value)):
            return None
        kind = _KINDS.get(name, _NONE)
        if kind == _LENGTH:
            return _Line(kind, int(value)) if value.isdigit() else None
        if kind != _NONE and not value.isascii():
            return None
        text = value.decode("latin-1")
        passes = (
            kind in {_NONE, _USER_AGENT}
            or (kind == _HOST and self._hosts.admits(text))
            or (kind == _TYPE and is_json(text))
            or (kind == _CONNECTION and value == b"keep-alive")
            or (kind == _AUTHORIZATION and (self._bearer is None or self._bearer.admits(text)))
        )
        if not passes:
            return None
        return _Line(kind, 0) if kind else _HARMLESS

    def _keep(self, head: Head) -> None:
        if len(self._heads) >= _MAX_REMEMBERED:
            self._heads.clear()
        self._heads[head.raw] = head

    def _keep_line(self, name: bytes, value: bytes, line: _Line) -> None:
        if len(self._lines) >= _MAX_REMEMBERED:
            self._lines.clear()
            self._names.clear()
            self._changing.clear()
        self._lines[b"%b: %b" % (name, value)] = line
        if line is _HARMLESS:
            self._names.add(b"\r\n%b: " % name)

    def _is_changing(self, harmless_line: bytes) -> bool:
        """Whether this header came with another value before; it is cut out in future then, and else remembered."""
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


def _is_harmless(line: bytes) -> bool:
    """Whether a line can be nothing but a header that does not matter here, in the plainest spelling."""
    match = _PLAIN_LINE.fullmatch(line)
    if match is None:
        return False
    name = match[1].lower()
    return name not in _KINDS and name not in _NEVER


def _is_harmless_if_traced(line: bytes) -> bool:
    name, _, value = line.partition(b": ")
    return _is_harmless(line) and not _is_to_be_traced(name.lower(), value)


def _is_to_be_traced(name: bytes, value: bytes) -> bool:
    return name == _TRACEPARENT and is_sampled(value.strip())


class _Fields:
    """Collects what httptools finds."""

    __slots__ = ("fields", "target")

    def __init__(self) -> None:
        self.target = b""
        self.fields: list[tuple[bytes, bytes]] = []

    def on_url(self, target: bytes) -> None:
        self.target += target

    def on_header(self, name: bytes, value: bytes) -> None:
        self.fields.append((name, value))
