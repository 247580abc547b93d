"""Rows of CSV, read strictly: a damaged row takes no other along in silence, and its cells are never shifted."""

import re
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass

from bidstream_svc.cli.csv_records import Record, Records, make_reader
from bidstream_svc.cli.line_reader import InputError
from bidstream_svc.cli.rows import Row
from bidstream_svc.core.errors import ConfigurationError

_SEPARATOR_LINE = re.compile(r'"?sep=([^"\r\n])"?\n?', re.IGNORECASE)
_HIDDEN_ROWS = "a quoted cell contains what may be other rows; is a quote missing?"


def read_csv_rows(
    lines: Iterable[str], column: str, delimiter: str, mentions_person: Callable[[str], bool]
) -> Iterator[Row]:
    """Rows with their number and either a text or a problem; empty rows are left out but counted.

    Args:
        lines: the input; the first that is not empty is the header.
        column: the name in the header of the cells to read, matched without case.
        delimiter: between cells.
        mentions_person: whether a text may contain something like the texts of the column.

    Raises:
        ConfigurationError: while iterating, if the header does not have exactly one such column, or another header with
            the columns in another order follows.
        InputError: while iterating, if the header is not CSV.
    """
    records = Records(lines, delimiter)
    header = _read_header(records, mentions_person)
    if not header:
        return
    expected = _Expected(_find_column(header, column), tuple(header), delimiter, mentions_person)
    for number, record in enumerate(records, 1):
        problem = record.problem or expected.find_problem(record)
        place = _place_of(record, number)
        if problem is not None:
            if place is not None and len(place) > 1:
                place = records.extend_doubtful()
            yield Row(number, problem=problem, lines=place)
        elif len(record.cells) == expected.width and (text := record.cells[expected.index].strip()):
            expected.check_order(record, number)
            yield Row(number, text, lines=place)
        elif not _is_empty(record.cells):
            yield Row(number, lines=place)  # other cells are filled in


def split_line(line: str, delimiter: str) -> list[str]:
    """The cells of one line, without surrounding whitespace; a quote may be missing."""
    return [cell.strip() for cell in next(make_reader([line], delimiter, strict=False), [])]


def separator_of(line: str) -> str | None:
    """The delimiter in a first line `sep=;`, with which Excel marks CSV that has another one than its default."""
    match = _SEPARATOR_LINE.fullmatch(line)
    return match and match[1]


def _place_of(record: Record, number: int) -> range | None:
    """The numbers of the lines, or None for a single one that follows from the number of the row."""
    if len(record.lines) == 1 and record.line == number + 1:
        return None
    return range(record.line, record.line + len(record.lines))


def _is_empty(cells: Sequence[str]) -> bool:
    return not "".join(cells).strip()


def _read_header(records: Iterator[Record], mentions_person: Callable[[str], bool]) -> list[str]:
    """The names in the first record that is not empty, a line `sep=;` aside."""
    for record in records:
        if record.problem is not None:
            raise InputError(f"header: {record.problem}")
        if any(record.cells) and separator_of(record.lines[0]) is None:
            if any(mentions_person(cell) for cell in record.cells if "\n" in cell):
                raise InputError(f"header: {_HIDDEN_ROWS}")
            return _names_of(record.cells)
    return []


def _names_of(cells: Iterable[str]) -> list[str]:
    return [name.strip().casefold() for name in cells]


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
        header: the names of all cells.
        delimiter: between cells.
        mentions_person: whether a text may contain something like the texts of the column.
    """

    index: int
    header: tuple[str, ...]
    delimiter: str
    mentions_person: Callable[[str], bool]

    @property
    def width(self) -> int:
        """Number of cells."""
        return len(self.header)

    def check_order(self, record: Record, number: int) -> None:
        """Raise ConfigurationError for another header, of an export put behind the first, in another order.

        Of the rows behind it, the cell to read is that of another column, and may hold other people.
        """
        name = record.cells[self.index].strip().casefold()
        if name not in self.header or name == self.header[self.index]:
            return
        if sorted(_names_of(record.cells)) == sorted(self.header):
            raise ConfigurationError(
                f"row {number} is another header, with the columns in another order; map what begins there by itself"
            )

    def find_problem(self, record: Record) -> str | None:
        """The problem of a record that is valid CSV, or None. An empty record has none.

        In a record that has too few or too many cells, a cell is lost or split, perhaps before the one to read, which
        is then that of another column.
        """
        if len(record.cells) != self.width and not _is_empty(record.cells):
            return f"{len(record.cells)} cells, where the header has {self.width}"
        if len(record.lines) > 1 and self._may_hide_rows(record):
            return _HIDDEN_ROWS
        return None

    def _may_hide_rows(self, record: Record) -> bool:
        """Whether the lines of a record may be rows, between two that lack a quote each."""
        notes = (cell for index, cell in enumerate(record.cells) if "\n" in cell and index != self.index)
        return any(map(self.mentions_person, notes)) or (
            self.width > 1 and all(line.count(self.delimiter) + 1 == self.width for line in record.lines)
        )
