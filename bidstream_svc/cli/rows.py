"""Rows of `identity map`, and how they are read from text and NDJSON.

A row that cannot be read becomes a `Row` with a problem, so that it does not stop the others. A problem never contains
text of its row.
"""

import json
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from typing import Any

import msgspec

from bidstream_svc.cli.line_reader import MAX_LINE_LENGTH, OVERLONG
from bidstream_svc.cli.people import parse_person
from bidstream_svc.core.errors import IdentityError
from bidstream_svc.core.identity import Identity, IdentityKind
from bidstream_svc.operator import IdentityMapResult, IdentityMapV3Result

LINE_TOO_LONG = f"line has {MAX_LINE_LENGTH} characters or more"


@dataclass(slots=True)
class Row:
    """One row of the input, filled in until it is a row of the output.

    Attributes:
        number: from 1; in CSV, row 1 is the first below the header.
        text: an address, a number or a hash, as read.
        problem: why the row is invalid, without its text; None in a valid row.
        lines: the numbers of its lines, from 1; None for a single line that follows from `number`.
        identity: the identity to look up; None before `identify`, and in an invalid row.
        result: the operator's answer; None before it has arrived, and in an invalid row.
    """

    number: int
    text: str = field(default="", repr=False)
    problem: str | None = None
    lines: range | None = None
    identity: Identity | None = None
    result: IdentityMapResult | IdentityMapV3Result | None = None

    def identify(self, kind: IdentityKind) -> None:
        """Set `identity`, or `problem` if the text is malformed for this kind."""
        if self.problem is None:
            try:
                self.identity = parse_person(kind, self.text)
            except IdentityError as error:
                self.problem = str(error)

    @property
    def has_several_lines(self) -> bool:
        """Whether it has a quoted cell with a line break, or was read as if it had."""
        return self.lines is not None and len(self.lines) > 1

    @property
    def place(self) -> str:
        """The row's number, and its lines if they do not follow from the number."""
        if self.lines is None:
            return f"row {self.number}"
        first, last = self.lines[0], self.lines[-1]
        return f"row {self.number} (line{f' {first}' if first == last else f's {first} to {last}'})"


def read_text_rows(lines: Iterable[str]) -> Iterator[Row]:
    """Each line is an address, a number or a hash. Empty lines are left out but counted."""
    for number, line in enumerate(lines, 1):
        if line is OVERLONG:
            yield Row(number, problem=LINE_TOO_LONG)
        elif text := line.strip():
            yield Row(number, text)


def read_ndjson_rows(lines: Iterable[str], field_name: str) -> Iterator[Row]:
    """Each line is a string, or an object that has a string in the field. Empty lines are left out but counted."""
    quoted_name = f'"{field_name}"'
    for row in read_text_rows(lines):
        if row.problem is None:
            _read_json(row, field_name, is_doubtful=row.text.count(quoted_name) > 1 or "\\" in row.text)
        yield row


def _read_json(row: Row, field_name: str, *, is_doubtful: bool) -> None:
    """Replace the JSON in `text` by the value of the field, or set `problem`."""
    try:
        # msgspec takes the last of several fields with one name.
        value = json.loads(row.text, object_pairs_hook=_Pairs) if is_doubtful else msgspec.json.decode(row.text)
    except (msgspec.MsgspecError, ValueError, RecursionError):
        row.problem = "not JSON"
        return
    if isinstance(value, _Pairs):
        values = [field_value for name, field_value in value if name == field_name]
        if len(values) > 1:
            row.problem = f"more than one field {field_name!r}"
            return
        value = dict(value)
    text = value.get(field_name) if isinstance(value, dict) else value
    if isinstance(text, str):
        row.text = text.strip()
    else:
        row.problem = f"no text in field {field_name!r}"


class _Pairs(list[tuple[str, Any]]):
    """The fields of a JSON object in their order, duplicates included."""
