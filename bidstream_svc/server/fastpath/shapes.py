"""Shapes of plain heads: a head's bytes, but for the values that may be any text.

The heads of one client differ in the value of Content-Length and in those of headers that are ignored, such as
`traceparent`. So the parts between these values recognise all of them, and their rules are checked only once.
"""

from collections.abc import Sequence
from enum import IntEnum

from bidstream_svc.server.routes import Route
from bidstream_svc.tracing import is_sampled


class Value(IntEnum):
    """What stands between two parts of a shape: `core/kernel/src/shape.rs` has the same numbers."""

    LENGTH = 0  # the value of Content-Length: digits
    TEXT = 1  # printable ASCII
    UNSAMPLED = 2  # printable ASCII, and not the `traceparent` of a sampled request


LENGTH, TEXT, UNSAMPLED = Value  # module globals are faster than attributes of the class

_MAX_DIGITS = 10
_LINE_END = b"\r"
_PRINTABLE = bytes(range(ord(" "), ord("~") + 1))


class Shape:
    """The shape of a plain head.

    Args:
        route: the route of the request.
        parts: (bytes, value behind them), in order; one of the values is LENGTH.
        end: the bytes behind the last value, up to and including the empty line.
    """

    __slots__ = ("end", "parts", "route")

    def __init__(self, route: Route, parts: Sequence[tuple[bytes, Value]], end: bytes) -> None:
        self.route = route
        self.parts = tuple(parts)
        self.end = end

    def body_length(self, raw: bytes) -> int:
        """Return the Content-Length of a head, from its request line to the empty line; -1 if the shape is another."""
        position = 0
        length = -1
        for fixed, kind in self.parts:
            if not raw.startswith(fixed, position):
                return -1
            position += len(fixed)
            end = raw.find(_LINE_END, position)
            value = raw[position:end]
            if kind is LENGTH:
                if not value.isdigit() or len(value) > _MAX_DIGITS:
                    return -1
                length = int(value)
                if length > self.route.max_body_bytes:
                    return -1
            elif value.translate(None, _PRINTABLE) or (kind is UNSAMPLED and is_sampled(value.strip())):
                return -1
            position = end
        return length if raw[position:] == self.end else -1


def shape_of(route: Route, raw: bytes, values: Sequence[tuple[bytes, bytes, Value]]) -> Shape | None:
    """Return the shape of a plain head; None if Content-Length is not written as `name: value`.

    Args:
        route: the route of the request.
        raw: the head.
        values: (name, value, kind) of the headers whose value may be another one, in order.
    """
    parts: list[tuple[bytes, Value]] = []
    position = 0
    for name, value, kind in values:
        marked_name = b"\r\n%b: " % name
        start = raw.find(marked_name, position) + len(marked_name)
        if start < len(marked_name) or not raw.startswith(value + _LINE_END, start):
            if kind is LENGTH:
                return None
            continue
        if value.translate(None, _PRINTABLE):
            continue
        parts.append((raw[position:start], kind))
        position = start + len(value)
    return Shape(route, parts, raw[position:])
