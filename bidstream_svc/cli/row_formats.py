"""The format of an input with people: found by the file's name and its first line, or given by options."""

import itertools
import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from bidstream_svc.cli.csv_rows import read_csv_rows, separator_of, split_line
from bidstream_svc.cli.line_reader import OVERLONG, InputError
from bidstream_svc.cli.people import mentions_person
from bidstream_svc.cli.rows import Row, read_ndjson_rows, read_text_rows
from bidstream_svc.core.errors import ConfigurationError
from bidstream_svc.core.identity import IdentityKind

INPUT_FORMATS = ("text", "csv", "ndjson")
_DELIMITERS = (",", ";", "\t", "|")
_DELIMITER_NAMES = {"\t": "tabs", ",": "commas"}
_CSV_SUFFIXES = {".csv", ".tsv", ".tab"}
_TAB_SUFFIXES = {".tsv", ".tab"}
_NDJSON_SUFFIXES = {".ndjson", ".jsonl", ".json"}
_HAS_LETTER = re.compile(r"[^\W\d_]")


@dataclass(frozen=True, slots=True)
class RowOptions:
    """What the user has said about the rows of an input.

    Attributes:
        kind: of the identities.
        name: one of INPUT_FORMATS, or None.
        column: the column of CSV, matched without case, or the field of NDJSON to read; None for the name of the kind.
        delimiter: between the cells of CSV, or None.
    """

    kind: IdentityKind
    name: str | None = None
    column: str | None = None
    delimiter: str | None = None


@dataclass(frozen=True, slots=True)
class RowFormat:
    """How the rows of an input are written.

    Attributes:
        name: one of INPUT_FORMATS.
        column: the column of CSV, matched without case, or the field of NDJSON to read.
        delimiter: between the cells of CSV; "" in other formats.
    """

    name: str
    column: str
    delimiter: str = ""

    def __str__(self) -> str:
        """As in "reading CSV with commas"."""
        match self.name:
            case "csv":
                return f"CSV with {_DELIMITER_NAMES.get(self.delimiter, repr(self.delimiter))} between cells"
            case "ndjson":
                return "NDJSON"
            case _:
                return "text with one identity a line"


def find_format(path: Path | None, first_line: str, options: RowOptions) -> RowFormat:
    """Return the format of an input.

    CSV is recognised by its file's name, or by a first line that has the column or is otherwise a header; NDJSON by its
    file's name, or by an object on the first line.

    Args:
        path: of the file, None for stdin.
        first_line: the first that is not empty; "" if there is none.
        options: from the command line.

    Raises:
        ConfigurationError: an option does not apply to the format.
        InputError: the input is JSON, but not one object a line.
    """
    line = first_line.strip("\n")
    suffix = _suffix(path)
    column = options.column or options.kind.value
    name = options.name or _find_name(suffix, line, options)
    if name == "csv":
        return RowFormat(name, column, options.delimiter or _find_delimiter(suffix, line, column))
    _check_options(name, options, is_empty=not first_line)
    if name == "ndjson" and line.strip() in {"{", "["}:
        raise InputError("the input is JSON with line breaks; one object a line is needed, as `jq -c .` prints them")
    return RowFormat(name, column)


def read_rows(row_format: RowFormat, lines: Iterable[str], kind: IdentityKind) -> Iterator[Row]:
    """Rows with their number and either a text or a problem; empty rows are left out but counted.

    Args:
        row_format: of the lines.
        lines: the input.
        kind: of the identities.

    Raises:
        ConfigurationError, InputError: while iterating; see `read_csv_rows`.
    """
    match row_format.name:
        case "csv":
            return read_csv_rows(lines, row_format.column, row_format.delimiter, partial(mentions_person, kind))
        case "ndjson":
            return read_ndjson_rows(lines, row_format.column)
        case _:
            return read_text_rows(lines)


def take_first_line(lines: Iterator[str]) -> tuple[str, Iterator[str]]:
    """The first line that is not empty, or "", and all lines."""
    seen: list[str] = []
    for line in lines:
        seen.append(line)
        if line.strip():
            break
    first = seen[-1] if seen else ""
    return "" if first is OVERLONG else first, itertools.chain(seen, lines)


def _suffix(path: Path | None) -> str:
    name = "" if path is None else path.name.lower().removesuffix(".gz")
    return Path(name).suffix


def _find_name(suffix: str, line: str, options: RowOptions) -> str:
    if line.lstrip().startswith("["):
        raise InputError("the input is a JSON array; one object a line is needed, as `jq -c '.[]'` prints them")
    if line.lstrip().startswith("{") or suffix in _NDJSON_SUFFIXES:
        return "ndjson"
    if options.delimiter or separator_of(line) or _delimiters_of(line, options.column or options.kind.value):
        return "csv"
    cells = _split(line)
    if suffix in _CSV_SUFFIXES:
        return "text" if len(cells) == 1 and mentions_person(options.kind, line) else "csv"  # without a header
    return "csv" if _is_header(cells) else "text"


def _check_options(name: str, options: RowOptions, *, is_empty: bool) -> None:
    """Raise ConfigurationError if an option does not apply to this format, which is not CSV."""
    if options.delimiter is not None:
        raise ConfigurationError(f"--delimiter is for CSV, and the input is {RowFormat(name, '')}")
    if options.column is not None and name == "text" and not is_empty:
        # The name is not quoted: in a file without a header, the first line is personal data.
        raise ConfigurationError(
            f"--column is for CSV and NDJSON, and the input is {RowFormat(name, '')}: its first line has no column "
            f"{options.column!r}"
        )


def _find_delimiter(suffix: str, line: str, column: str) -> str:
    if separator := separator_of(line):
        return separator
    candidates = _delimiters_of(line, column)
    if not candidates and suffix in _TAB_SUFFIXES:
        return "\t"
    return _most_cells(line, candidates or _DELIMITERS)


def _most_cells(line: str, delimiters: Iterable[str]) -> str:
    """The delimiter that splits the line most; of several, the first."""
    return max(delimiters, key=lambda delimiter: len(split_line(line, delimiter)))


def _split(line: str) -> list[str]:
    return split_line(line, _most_cells(line, _DELIMITERS))


def _delimiters_of(line: str, column: str) -> list[str]:
    """Those delimiters with which the line is a header that has the column."""
    return [
        delimiter
        for delimiter in _DELIMITERS
        if column.casefold() in (cell.casefold() for cell in split_line(line, delimiter))
    ]


def _is_header(cells: list[str]) -> bool:
    """Whether these are the names of several columns: each has a letter, and none is an address."""
    names = [cell for cell in cells if cell]
    return len(names) > 1 and all(_HAS_LETTER.search(name) and "@" not in name for name in names)
