"""Rows of CSV, read strictly: a damaged row never takes those behind it along, and never shifts its cells.

A quote that is not closed makes the following lines part of its cell. So when a record of several lines is damaged,
only its first line counts as a row, and the others are read again.
"""

import csv
import re
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from bidstream_svc.cli.line_reader import MAX_LINE_LENGTH, OVERLONG, InputError
from bidstream_svc.cli.rows import LINE_TOO_LONG, Row
from bidstream_svc.core.errors import ConfigurationError

if TYPE_CHECKING:
    import _csv

_SEPARATOR_LINE = re.compile(r'"?sep=(.)"?\n?', re.IGNORECASE)
_QUOTE_PROBLEM = "not CSV: a quote is not closed, or not doubled within quotes"
_TOO_LONG = f"not CSV: a quote is not closed within {MAX_LINE_LENGTH} characters"
_HIDDEN_ROWS = "not CSV: a quoted cell contains other rows; is a quote missing?"


def read_csv_rows(lines: Iterable[str], column: str, delimiter: str, is_person: Callable[[str], bool]) -> Iterator[Row]:
    """Rows with their number and either a text or a problem; empty rows are left out but counted.

    Args:
        lines: the input; the first that is not empty is the header.
        column: the name in the header of the cells to read, matched without case.
        delimiter: between cells.
        is_person: whether a text is valid in the column.

    Raises:
        ConfigurationError: while iterating, if the header does not have exactly one such column.
        InputError: while iterating, if the header is not CSV.
    """
    source = _Lines(lines)
    reader = _make_reader(source, delimiter, strict=True)
    header = _read_header(reader, source)
    if not header:
        return
    expected = _Expected(_find_column(header, column), len(header), delimiter, is_person)
    number = 0
    while True:
        source.start_record()
        number += 1
        line = source.line if source.line != number + 1 else None
        try:
            cells = next(reader)
            problem = expected.find_problem(cells, source.record)
        except StopIteration:
            return
        except csv.Error as error:
            cells, problem = [], _problem_of(error)
        if problem is not None:
            source.read_again()
            yield Row(number, problem=problem, line=line)
        elif len(cells) == expected.width and (text := cells[expected.index].strip()):
            yield Row(number, text, line=line)
        elif "".join(cells).strip():
            yield Row(number, line=line)  # other cells are filled in


def split_line(line: str, delimiter: str) -> list[str]:
    """The cells of one line, without surrounding whitespace; a quote may be missing."""
    return [cell.strip() for cell in next(_make_reader([line], delimiter, strict=False), [])]


def separator_of(line: str) -> str | None:
    """The delimiter in a first line `sep=;`, with which Excel marks CSV that has another one than its default."""
    match = _SEPARATOR_LINE.fullmatch(line)
    return match and match[1]


def _make_reader(lines: Iterable[str], delimiter: str, *, strict: bool) -> "_csv.Reader":
    csv.field_size_limit(MAX_LINE_LENGTH)  # the lines of a record are limited to as much
    # After `, ` a quote is a quote, and not a part of the cell.
    return csv.reader(lines, delimiter=delimiter, strict=strict, skipinitialspace=delimiter != " ")


def _read_header(reader: "_csv.Reader", source: "_Lines") -> list[str]:
    """The names in the first record that is not empty, a line `sep=;` aside."""
    try:
        for cells in reader:
            if any(cells) and separator_of(source.record[0]) is None:
                return [name.strip().casefold() for name in cells]
            source.start_record()
    except csv.Error as error:
        raise InputError(f"header: {_problem_of(error)}") from None
    return []


def _find_column(header: Sequence[str], column: str) -> int:
    # Names in the header are not quoted: in a file without one, the first line is personal data.
    match header.count(column.casefold()):
        case 0:
            raise ConfigurationError(
                f"no column {column!r} among the {len(header)} of the first line; name another with --column, "
                "or another --delimiter"
            )
        case 1:
            return header.index(column.casefold())
        case count:
            raise ConfigurationError(f"{count} columns of the first line are {column!r}; rename the others")


@dataclass(frozen=True, slots=True)
class _Expected:
    """What the header says about each record.

    Attributes:
        index: of the cell to read.
        width: number of cells.
        delimiter: between cells.
        is_person: whether a text is valid in the cell to read.
    """

    index: int
    width: int
    delimiter: str
    is_person: Callable[[str], bool]

    def find_problem(self, cells: Sequence[str], record: Sequence[str]) -> str | None:
        """The problem of a record with these lines, or None. An empty record has none.

        In a record that has too few or too many cells, a cell is lost or split, perhaps before the one to read, which
        is then that of another column.
        """
        if cells and len(cells) != self.width and "".join(cells).strip():
            return f"{len(cells)} cells, where the header has {self.width}"
        if len(record) > 1:
            people = self._people_in(record)
            if len(people) > 1 or (people and people[0] != cells[self.index].strip()):
                return _HIDDEN_ROWS
        return None

    def _people_in(self, record: Sequence[str]) -> list[str]:
        """The identities in those lines that are rows by themselves when quotes are ignored."""
        rows = (line.replace('"', "").split(self.delimiter) for line in record)
        texts = (cells[self.index].strip() for cells in rows if len(cells) == self.width)
        return [text for text in texts if self.is_person(text)]


def _problem_of(error: csv.Error) -> str:
    message = str(error)
    return message if message in {LINE_TOO_LONG, _TOO_LONG} else _QUOTE_PROBLEM


class _Lines:
    """An iterator over lines that keeps those of the current record, to read them again.

    Attributes:
        line: the number of the next line, from 1.
        record: the lines read since `start_record`.
    """

    def __init__(self, lines: Iterable[str]) -> None:
        self._lines = iter(lines)
        self._again: deque[str] = deque()
        self._length = 0
        self.line = 1
        self.record: list[str] = []

    def __iter__(self) -> "_Lines":
        return self

    def __next__(self) -> str:
        line = self._again.popleft() if self._again else next(self._lines)
        self.line += 1
        self.record.append(line)
        self._length += len(line)
        if line is OVERLONG:
            raise csv.Error(LINE_TOO_LONG)
        if self._length > MAX_LINE_LENGTH:
            raise csv.Error(_TOO_LONG)
        return line

    def start_record(self) -> None:
        """Forget the lines of the record before."""
        self.record.clear()
        self._length = 0

    def read_again(self) -> None:
        """Make all lines of the record but its first the next ones."""
        again = self.record[1:]
        self._again.extendleft(reversed(again))
        self.line -= len(again)
