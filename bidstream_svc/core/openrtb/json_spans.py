"""Positions of values in JSON text.

The text is valid JSON, so that a bracket or a quote is enough to find the end of a value.
"""

import re
from collections.abc import Collection, Generator
from typing import NamedTuple

import msgspec

_PER_STEP = 1024  # brackets or values; about 0.5 ms of work

_STRING = rb'"[^"\\]*+(?:\\.[^"\\]*+)*+"'
_SPACE = rb"[ \t\n\r]*+"
_NOT_BRACKETS = rb'[^"\[\]{}]*+'
_NEXT_BRACKET = re.compile(_NOT_BRACKETS + rb"(?:" + _STRING + _NOT_BRACKETS + rb")*+([\[\]{}])", re.DOTALL)
_SKIP_SPACE = re.compile(_SPACE)
_NAME = re.compile(_SPACE + rb"(" + _STRING + rb")" + _SPACE + rb":" + _SPACE, re.DOTALL)
_SCALAR = re.compile(_STRING + rb"|[^,\]} \t\n\r]++", re.DOTALL)
_OPENING = b"[{"

_decode_text = msgspec.json.Decoder(str).decode


class Span(NamedTuple):
    """A value in the text, from `start` to `end`."""

    start: int
    end: int


class Member(NamedTuple):
    """A member of an object.

    Attributes:
        name: its name without escapes, in UTF-8.
        value: its value.
        start: the end of the comma or the bracket before it.
        next_start: the end of the comma or the bracket behind it.
        is_last: whether no later member has the same name.
    """

    name: bytes
    value: Span
    start: int
    next_start: int
    is_last: bool


class JsonSpans:
    """Finds the members and elements of containers.

    Every method that needs long is a generator that yields between short steps.

    Args:
        text: valid JSON without lone surrogates, an object or an array.
    """

    def __init__(self, text: bytes) -> None:
        self.text = text
        self._ends: dict[int, int] = {}  # of the container that begins at a position
        self._done = 0

    def read(self) -> Generator[None, None, Span]:
        """Find the ends of all containers and return the outermost."""
        openings: list[int] = []
        start = 0
        for found in _NEXT_BRACKET.finditer(self.text):
            position = found.start(1)
            if self.text[position] in _OPENING:
                openings.append(position)
            else:
                start = openings.pop()
                self._ends[start] = position + 1
            if self._is_step_done():
                yield
        return Span(start, self._ends[start])  # the outermost ends last

    def members(self, value: Span, names: Collection[bytes]) -> Generator[None, None, list[Member]]:
        """Return the members that have one of these names, in order; none if the value is not an object."""
        text, position = self.text, value.start + 1
        found: list[Member] = []
        seen: dict[bytes, int] = {}  # index of the last member of a name
        while text[value.start] == ord("{") and (name_found := _NAME.match(text, position)):
            span = Span(name_found.end(), self._end_of(name_found.end()))
            next_start = self._behind_comma(span.end)
            name = name_found[1][1:-1]
            if b"\\" in name:
                name = _decode_text(name_found[1]).encode()
            if name in names:
                if name in seen:
                    found[seen[name]] = found[seen[name]]._replace(is_last=False)
                seen[name] = len(found)
                found.append(Member(name, span, position, next_start, is_last=True))
            position = next_start
            if self._is_step_done():
                yield
            if position == value.end:
                break
        return found

    def elements(self, value: Span) -> Generator[None, None, list[Span]]:
        """Return the elements; none if the value is not an array."""
        text, position = self.text, value.start
        found: list[Span] = []
        while text[value.start] == ord("[") and position < value.end:
            position = self._behind_space(position + 1)
            if position < value.end - 1:  # not an empty array
                span = Span(position, self._end_of(position))
                found.append(span)
                position = self._behind_space(span.end)
            if position == value.end - 1:
                break
            if self._is_step_done():
                yield
        return found

    def is_object(self, value: Span) -> bool:
        """Return whether the value is an object."""
        return self.text[value.start] == ord("{")

    def string(self, value: Span) -> str | None:
        """Return the string; None for a value of another type."""
        raw = self.text[value.start : value.end]
        return _decode_text(raw) if raw.startswith(b'"') else None

    def _end_of(self, start: int) -> int:
        if self.text[start] in _OPENING:
            return self._ends[start]
        found = _SCALAR.match(self.text, start)
        assert found is not None
        return found.end()

    def _behind_space(self, position: int) -> int:
        found = _SKIP_SPACE.match(self.text, position)
        assert found is not None
        return found.end()

    def _behind_comma(self, position: int) -> int:
        return self._behind_space(position) + 1

    def _is_step_done(self) -> bool:
        self._done += 1
        return self._done % _PER_STEP == 0
