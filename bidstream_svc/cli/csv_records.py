"""Which lines of CSV belong to one record, by RFC 4180; a damaged record takes as few others along as can be told.

A quote that is not closed makes the lines behind it part of its cell. So it matters what a damaged record begins with:

- Its lines may be one record, of which a quote within is not doubled. Then the next quote that can only open or close a
  cell closes one, as in `end of the note",a@example.com`. All lines up to there are one damaged record: read as rows,
  the lines of a note might give people.
- Or its first line lacks a quote. Then the next such quote opens a cell, or there is none near. Only the first line is
  a damaged record, and those behind it are read again.
"""

import csv
import re
from collections import deque
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import islice
from typing import TYPE_CHECKING

from bidstream_svc.cli.line_reader import MAX_LINE_LENGTH, OVERLONG
from bidstream_svc.cli.rows import LINE_TOO_LONG

if TYPE_CHECKING:
    import _csv

MAX_RECORD_LINES = 100  # so that time is linear in the input, whatever its quotes
_QUOTE_PROBLEM = "not CSV: a quote is not closed, or not doubled within quotes"
_NEVER_OPENED = "not CSV: a quote closes a cell and none opens it; lines before it may be of that cell"
_TOO_LONG = f"not CSV: a quote is not closed within {MAX_RECORD_LINES} lines or {MAX_LINE_LENGTH} characters"


@dataclass(frozen=True, slots=True)
class Record:
    """One record of the input, damaged or not.

    Attributes:
        line: the number of its first line, from 1.
        lines: its lines.
        cells: its cells, if it is not damaged.
        problem: what is damaged, without its text; None for a record that is valid CSV.
    """

    line: int
    lines: list[str]
    cells: list[str]
    problem: str | None = None


class Records:
    """An iterator over the records of CSV in their order, empty lines and damaged records included."""

    def __init__(self, lines: Iterable[str], delimiter: str) -> None:
        self._source = _Lines(lines, _Quotes(delimiter))
        self._reader = make_reader(self._source, delimiter, strict=True)

    def __iter__(self) -> Iterator[Record]:
        return self

    def __next__(self) -> Record:
        source = self._source
        source.start_record()
        try:
            cells = next(self._reader)
            problem = source.check_record()
        except csv.Error as error:
            cells, problem = [], source.end_damaged_record(str(error))
        return Record(source.line, source.record, cells, problem)

    def extend_doubtful(self) -> range:
        """Add to the last record the lines that belong to it if a quote is missing, and return the numbers of all."""
        source = self._source
        source.extend_doubtful()
        return range(source.line, source.line + len(source.record))


def make_reader(lines: Iterable[str], delimiter: str, *, strict: bool) -> "_csv.Reader":
    """A reader of the standard library that knows the spaces and the sizes which are accepted."""
    csv.field_size_limit(MAX_LINE_LENGTH)  # the lines of a record are limited to as much
    # After `, ` a quote is a quote, and not a part of the cell.
    return csv.reader(lines, delimiter=delimiter, strict=strict, skipinitialspace=delimiter != " ")


def _has_odd_quotes(line: str) -> bool:
    return line.count('"') % 2 == 1


class _Quotes:
    """Tells quotes that open a cell from those that close one, by the characters beside them."""

    def __init__(self, delimiter: str) -> None:
        edge = re.escape(delimiter)
        padding = "" if delimiter == " " else " *"  # between spaces that delimit, searching it takes quadratic time
        self._quote = re.compile(rf'(?P<start>(?:^|{edge}){padding})?"(?P<end>(?={padding}(?:{edge}|$)))?')
        self._last_quote = re.compile(rf'{edge}{padding}"$')

    def classify(self, line: str, *, is_inside: bool) -> list[bool]:
        """For each quote that can only open or close a cell, in their order: whether it opens one.

        A quote that is all of a cell, or of the cell's part on this line, closes one if `is_inside`, and else opens it.
        """
        if '"' not in line:
            return []
        quotes = []
        for match in self._quote.finditer(line.rstrip("\n").replace('""', "")):
            is_start, is_end = match["start"] is not None, match["end"] is not None
            if is_start or is_end:
                quotes.append(is_start and not (is_end and is_inside))
        return quotes

    def begins_inside(self, line: str) -> bool:
        """Whether the first line of a record closes a cell before it opens one."""
        return self.classify(line, is_inside=False)[:1] == [False]

    def may_end_inside(self, line: str) -> bool:
        """Whether a damaged first line may have opened a cell that goes on behind it."""
        quotes = self.classify(line, is_inside=False)
        return quotes[:1] == [True] and (quotes[-1] or _has_odd_quotes(line))

    def may_end_record(self, quotes: Sequence[bool], line: str) -> bool:
        """Whether a line within a cell, whose quotes are `quotes`, may close the cell for good."""
        return not quotes[0] and (not quotes[-1] or _has_odd_quotes(line))

    def may_open_at_end(self, line: str) -> bool:
        """Whether the quote at the end of a line is all of its last cell."""
        return self._last_quote.search(line.rstrip("\n").replace('""', "")) is not None


class _Lines:
    """An iterator over lines that keeps those of the current record.

    Attributes:
        line: the number of the first line of the record, from 1.
        record: the lines of the record.
        quotes: what tells quotes apart.
    """

    def __init__(self, lines: Iterable[str], quotes: _Quotes) -> None:
        self._lines = iter(lines)
        self._ahead: deque[str] = deque()
        self._length = 0
        self.line = 1
        self.record: list[str] = []
        self.quotes = quotes

    def __iter__(self) -> "_Lines":
        return self

    def __next__(self) -> str:
        """The next line of the record.

        Raises:
            csv.Error: the record cannot go on. The lines that end it need not be in `record`.
        """
        if len(self.record) == 1 and self.quotes.begins_inside(self.record[0]):
            raise csv.Error(_NEVER_OPENED)
        if len(self.record) == MAX_RECORD_LINES:
            raise csv.Error(_TOO_LONG)
        line = self._ahead.popleft() if self._ahead else next(self._lines)
        self.record.append(line)
        self._length += len(line)
        if line is OVERLONG:
            raise csv.Error(LINE_TOO_LONG if len(self.record) == 1 else _TOO_LONG)
        if self._length > MAX_LINE_LENGTH:
            raise csv.Error(_TOO_LONG)
        return line

    def start_record(self) -> None:
        """Begin the record behind the current one."""
        self.line += len(self.record)
        self.record = []
        self._length = 0

    def check_record(self) -> str | None:
        """The problem of a record that the reader accepts, or None."""
        line, *others = self.record
        is_damaged = not others and _has_odd_quotes(line) and self.quotes.begins_inside(line)
        return _NEVER_OPENED if is_damaged else None

    def extend_doubtful(self) -> None:
        """Add the lines of a note to a record that may end with the quote which opens the note."""
        if self.quotes.may_open_at_end(self.record[-1]):
            self._set_count(self._find_end(len(self.record)) or len(self.record))

    def end_damaged_record(self, error: str) -> str:
        """Leave in `record` the lines of a damaged record, and return its problem. The others are read again."""
        problem = error if error in {LINE_TOO_LONG, _NEVER_OPENED, _TOO_LONG} else _QUOTE_PROBLEM
        may_go_on = problem is _QUOTE_PROBLEM and self.quotes.may_end_inside(self.record[0])
        self._set_count((self._find_end(1) if may_go_on else None) or 1)
        return problem

    def _set_count(self, count: int) -> None:
        """Give the record as many lines, from its first."""
        self._ahead.extendleft(reversed(self.record))
        self.record = [self._ahead.popleft() for _ in range(count)]

    def _find_end(self, start: int) -> int | None:
        """Up to which line a cell goes on that is open behind `start` lines of the record, if it has an end near."""
        end, length = None, 0
        for count, line in islice(enumerate(self._look_ahead(), 1), start, start + MAX_RECORD_LINES):
            length += len(line)
            if length > MAX_LINE_LENGTH or line is OVERLONG:
                break
            quotes = self.quotes.classify(line, is_inside=True)
            if quotes[:1] == [True]:
                break
            if quotes and self.quotes.may_end_record(quotes, line):
                end = count
                if not self.quotes.may_open_at_end(line):
                    break
        return end

    def _look_ahead(self) -> Iterator[str]:
        """The lines from the start of the record on, without end."""
        yield from self.record
        yield from tuple(self._ahead)
        for line in self._lines:
            self._ahead.append(line)
            yield line
