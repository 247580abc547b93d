"""Positions of values in JSON text.

The text is valid JSON, so that a bracket or a quote is enough to find the end of a value.
"""

import re
from array import array
from collections.abc import Collection, Generator, Iterator
from typing import NamedTuple, TypeAlias

import msgspec

from bidstream_svc.core.openrtb.json_check import MAX_DEPTH, refuse_depth

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


# Where a value starts and ends in the text. A plain tuple: the garbage collector does not track one of two numbers.
Span: TypeAlias = tuple[int, int]


class Spans:
    """A list of spans that takes 8 bytes for each. A body may have hundreds of thousands."""

    __slots__ = ("_positions",)

    def __init__(self) -> None:
        self._positions = array("I")

    def __len__(self) -> int:
        """How many there are."""
        return len(self._positions) // 2

    def __getitem__(self, index: int) -> Span:
        """The span at an index that is not negative."""
        return self._positions[2 * index], self._positions[2 * index + 1]

    def __iter__(self) -> Iterator[Span]:
        """All of them, in order."""
        positions = iter(self._positions)
        return zip(positions, positions, strict=True)

    def append(self, span: Span) -> None:
        """Add a span behind the others."""
        self._positions.extend(span)


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

    Attributes:
        overridden: (start, next_start) of the members that the last call of `members` has left out, adjacent ones in
            one piece.
    """

    def __init__(self, text: bytes) -> None:
        self.text = text
        # Of the container that begins at a position. A dictionary would take twenty times as much for many containers.
        self._ends = array("I", bytes(len(text) * array("I").itemsize))
        self._done = 0
        self.overridden: list[tuple[int, int]] = []

    def read(self) -> Generator[None, None, Span]:
        """Find the ends of all containers and return the outermost.

        Raises:
            BidRequestError: there are more than MAX_DEPTH levels.
        """
        openings: list[int] = []
        start = 0
        for found in _NEXT_BRACKET.finditer(self.text):
            position = found.start(1)
            if self.text[position] in _OPENING:
                openings.append(position)
                if len(openings) > MAX_DEPTH:
                    refuse_depth()
            else:
                start = openings.pop()
                self._ends[start] = position + 1
                if not openings:
                    break  # to search what follows would take time quadratic in its length
            if self._is_step_done():
                yield
        return start, self._ends[start]

    def members(self, value: Span, names: Collection[bytes]) -> Generator[None, None, list[Member]]:
        """Return the members that have one of these names, in order; none if the value is not an object.

        A member that is not a container is left out if a later one of the same name overrides it.
        """
        text, position = self.text, value[0] + 1
        found: list[Member] = []
        seen: dict[bytes, int] = {}  # index of the last member of a name
        self.overridden = []
        if self._is_step_done():
            yield
        while self.is_object(value) and (name_found := _NAME.match(text, position)):
            start = name_found.end()
            span = start, self._end_of(start)
            next_start = self._behind_space(span[1]) + 1
            name = name_found[1][1:-1]
            if b"\\" in name:
                name = _decode_text(name_found[1]).encode()
            if name in names:
                member = Member(name, span, position, next_start, is_last=True)
                if name in seen and not self._override(found, seen[name]):
                    found[seen[name]] = member
                else:
                    seen[name] = len(found)
                    found.append(member)
            position = next_start
            if self._is_step_done():
                yield
            if position == value[1]:
                break
        return found

    def elements(self, value: Span) -> Generator[None, None, Spans]:
        """Return the elements; none if the value is not an array."""
        position, end = value[0], value[1] - 1  # `end` is that of the content
        found = Spans()
        while self.text[value[0]] == ord("[") and position < end:
            position = self._behind_space(position + 1)
            if position < end:  # not an empty array
                start = position
                position = self._end_of(start)
                found.append((start, position))
                position = self._behind_space(position)
            if self._is_step_done():
                yield
        return found

    def is_object(self, value: Span) -> bool:
        """Return whether the value is an object."""
        return self.text[value[0]] == ord("{")

    def string(self, value: Span) -> str | None:
        """Return the string; None for a value of another type."""
        raw = self.text[slice(*value)]
        return _decode_text(raw) if raw.startswith(b'"') else None

    def _override(self, found: list[Member], index: int) -> bool:
        """Note that a later member overrides this one. Returns whether it stays in the list."""
        member = found[index]
        if self.text[member.value[0]] in _OPENING:
            found[index] = member._replace(is_last=False)
            return True
        if self.overridden and self.overridden[-1][1] == member.start:
            self.overridden[-1] = self.overridden[-1][0], member.next_start
        else:
            self.overridden.append((member.start, member.next_start))
        return False

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

    def _is_step_done(self) -> bool:
        self._done += 1
        return self._done % _PER_STEP == 0
