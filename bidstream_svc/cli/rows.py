"""Rows of `identity map`: read from text, CSV or NDJSON of any size, and written as CSV or NDJSON.

A row that cannot be read becomes a `Row` with a problem, so that it does not stop the others. A problem never contains
text of its row.
"""

import codecs
import csv
import os
import stat
import sys
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import BinaryIO

import click
import msgspec
import orjson

from bidstream_svc.cli.inputs import InputError
from bidstream_svc.core.errors import ConfigurationError, IdentityError
from bidstream_svc.core.identity import Identity, IdentityKind
from bidstream_svc.operator import IdentityMapResult, IdentityMapV3Result, UnmappedIdentity

INPUT_FORMATS = ("text", "csv", "ndjson")
OUTPUT_FORMATS = ("ndjson", "csv")
MAX_LINE_BYTES = 256 * 1024
_MAX_PROBLEMS_SHOWN = 20
_INVALID = UnmappedIdentity("invalid identifier")  # in the operator's words
# For each version of the endpoint: the row's number, and the attributes of its results in the order of the output.
_FIELDS = {
    "2": ("row", "raw_uid", "bucket_id", "reason"),
    "3": ("row", "raw_uid", "previous_raw_uid", "refresh_from_s", "reason"),
}
_FORMAT_OF_SUFFIX = {".csv": "csv", ".ndjson": "ndjson", ".jsonl": "ndjson"}


@dataclass(slots=True)
class Row:
    """One row of the input, filled in until it is a row of the output.

    Attributes:
        number: from 1; in CSV, row 1 is the first below the header.
        text: an address, a number or a hash, as read.
        problem: why the row is invalid, without its text; None in a valid row.
        identity: the identity to look up; None before `identify`, and in an invalid row.
        result: the operator's answer; None before it has arrived, and in an invalid row.
    """

    number: int
    text: str = field(default="", repr=False)
    problem: str | None = None
    identity: Identity | None = None
    result: IdentityMapResult | IdentityMapV3Result | None = None

    def identify(self, kind: IdentityKind) -> None:
        """Set `identity`, or `problem` if the text is malformed for this kind."""
        if self.problem is None:
            try:
                self.identity = Identity.parse(kind, self.text)
            except IdentityError as error:
                self.problem = str(error)


class LineReader:
    """Iterates over the lines of a file, as text with their line ends, and counts the bytes read.

    Invalid UTF-8 is decoded to lone surrogates, which no identity may contain. So it makes its row invalid, and not the
    whole file.

    Attributes:
        size_bytes: of the file, or None for a pipe or a terminal.
        done_bytes: read so far.

    Raises:
        InputError: while iterating, if the input is UTF-16, or a line has MAX_LINE_BYTES or more.
    """

    def __init__(self, file: BinaryIO) -> None:
        self._file = file
        status = os.fstat(file.fileno())
        self.size_bytes = status.st_size if stat.S_ISREG(status.st_mode) else None
        self.done_bytes = 0

    def __iter__(self) -> Iterator[str]:
        number = 0
        while line := self._file.readline(MAX_LINE_BYTES):
            number += 1
            self.done_bytes += len(line)
            if number == 1:
                if line.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)):
                    raise InputError("input is UTF-16; UTF-8 is needed")
                line = line.removeprefix(codecs.BOM_UTF8)
            if len(line) == MAX_LINE_BYTES:
                raise InputError(f"line {number} is longer than {MAX_LINE_BYTES} bytes")
            yield line.decode("utf-8", "surrogateescape")


def format_of(path: Path | None) -> str:
    """The format for the suffix of a file's name; `text` for other suffixes and for stdin (None)."""
    return _FORMAT_OF_SUFFIX.get(path.suffix.lower(), "text") if path is not None else "text"


def read_rows(file_format: str, lines: Iterable[str], column: str, delimiter: str) -> Iterator[Row]:
    """Rows with their number and either a text or a problem; empty rows are left out but counted.

    Args:
        file_format: one of INPUT_FORMATS.
        lines: the input.
        column: the column of CSV, matched without case, or the field of NDJSON that holds the text.
        delimiter: between the cells of CSV.

    Raises:
        ConfigurationError: while iterating, if the CSV header lacks the column.
    """
    match file_format:
        case "csv":
            return _csv_rows(lines, column, delimiter)
        case "ndjson":
            return _ndjson_rows(lines, column)
        case _:
            return _text_rows(lines)


def _text_rows(lines: Iterable[str]) -> Iterator[Row]:
    for number, line in enumerate(lines, 1):
        if text := line.strip():
            yield Row(number, text)


def _ndjson_rows(lines: Iterable[str], field_name: str) -> Iterator[Row]:
    """Each line is a string, or an object that has a string in the field."""
    for row in _text_rows(lines):
        try:
            value = msgspec.json.decode(row.text)
        except (msgspec.MsgspecError, ValueError, RecursionError):
            row.problem = "not JSON"
        else:
            text = value.get(field_name) if isinstance(value, dict) else value
            if isinstance(text, str):
                row.text = text.strip()
            else:
                row.problem = f"no text in field {field_name!r}"
        yield row


def _csv_rows(lines: Iterable[str], column: str, delimiter: str) -> Iterator[Row]:
    reader = csv.reader(lines, delimiter=delimiter)
    header = [name.strip().casefold() for name in next(reader, [])]
    if not header:
        return
    if column.casefold() not in header:
        # The header is not quoted: in a file without one, the first line is personal data.
        raise ConfigurationError(
            f"no column {column!r} among the {len(header)} of the first line; name another with --column, "
            "or another --delimiter"
        )
    index = header.index(column.casefold())
    number = 0
    while True:
        number += 1
        try:
            cells = next(reader)
        except StopIteration:
            return
        except csv.Error:
            yield Row(number, problem="not CSV: a field is too long; is a quote missing?")
            continue
        if index < len(cells):
            yield Row(number, cells[index].strip())
        elif cells:
            yield Row(number, problem=f"no column {column!r}")


class RowWriter:
    """Writes rows to stdout, and counts the invalid ones.

    Args:
        output_format: one of OUTPUT_FORMATS.
        api: version of the endpoint that the results are from, "2" or "3".
        start_row: number of the first row; CSV has a header only if it is 1, as others continue an earlier output.

    Attributes:
        total: rows written.
        last_row: number of the last row written, or of the row before `start_row`.
    """

    def __init__(self, output_format: str, api: str, start_row: int) -> None:
        self._fields = _FIELDS[api]
        self._csv = csv.writer(sys.stdout, lineterminator="\n") if output_format == "csv" else None
        self._needs_header = self._csv is not None and start_row == 1
        self._invalid = 0
        self._problems: list[str] = []
        self.total = 0
        self.last_row = start_row - 1

    @property
    def resume_hint(self) -> str:
        """The option that continues behind the last row written."""
        return f"go on with --start-row {self.last_row + 1}"

    def write_header(self) -> None:
        """Write the CSV header if there is one and it has not been written."""
        if self._csv is not None and self._needs_header:
            self._csv.writerow(self._fields)
            self._needs_header = False

    def write(self, rows: list[Row]) -> None:
        """Write rows, with the header before the first, and flush stdout."""
        if not rows:
            return
        self.write_header()
        for row in rows:
            self._write_row(row)
        sys.stdout.flush()
        self.last_row = rows[-1].number
        self.total += len(rows)
        for row in rows:
            if row.problem is not None:
                self._invalid += 1
                if self._invalid <= _MAX_PROBLEMS_SHOWN:
                    self._problems.append(f"row {row.number}: {row.problem}")

    def _write_row(self, row: Row) -> None:
        result = _INVALID if row.result is None else row.result
        values = [row.number, *[getattr(result, name, None) for name in self._fields[1:]]]
        if self._csv is not None:
            self._csv.writerow(values)
        else:
            sys.stdout.write(orjson.dumps(dict(zip(self._fields, values, strict=True))).decode() + "\n")

    def report_invalid(self) -> None:
        """Print the first `_MAX_PROBLEMS_SHOWN` problems and the number of invalid rows on stderr."""
        for problem in self._problems:
            click.echo(f"bidstream-svc: {problem}", err=True)
        if self._invalid:
            click.echo(
                f"bidstream-svc: {self._invalid} of {self.total} rows are invalid and were not looked up", err=True
            )
