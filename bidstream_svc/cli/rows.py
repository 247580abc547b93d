"""Rows out of a file of any size, one at a time: plain lines, CSV with a header, NDJSON.

A row that will not do is a row with a problem, so that one bad row does not stop a million. No problem repeats what the
row holds.
"""

import csv
import os
import stat
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import BinaryIO, NamedTuple

import msgspec

from bidstream_svc.cli.inputs import InputError
from bidstream_svc.core.errors import ConfigurationError

MAX_LINE_BYTES = 256 * 1024
_UTF8_BOM = b"\xef\xbb\xbf"
_UTF16_BOMS = (b"\xff\xfe", b"\xfe\xff")
_FORMAT_OF_SUFFIX = {".csv": "csv", ".ndjson": "ndjson", ".jsonl": "ndjson"}


class Row(NamedTuple):
    """A row: its number from 1 (in CSV, the first below the header), its text, or what is wrong with it."""

    number: int
    text: str
    problem: str | None = None


class LineReader:
    """Iterates over the lines of a file, as text with their ends, and tells how far it is.

    Bytes that are no UTF-8 come as lone surrogates, which no identity may hold: they make a row bad, not the file.

    Attributes:
        size_bytes: of the whole file, or None for a pipe or a terminal.
        done_bytes: read so far.

    Raises:
        InputError: while iterating: UTF-16, or a line of more than MAX_LINE_BYTES.
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
                if line.startswith(_UTF16_BOMS):
                    raise InputError("input is UTF-16; UTF-8 is needed")
                line = line.removeprefix(_UTF8_BOM)
            if len(line) == MAX_LINE_BYTES:
                raise InputError(f"line {number} is longer than {MAX_LINE_BYTES} bytes")
            yield line.decode("utf-8", "surrogateescape")


def format_of(path: Path | None) -> str:
    """The format that a file's name says it has; text for others and for stdin."""
    return _FORMAT_OF_SUFFIX.get(path.suffix.lower(), "text") if path is not None else "text"


def read_rows(file_format: str, lines: Iterable[str], field: str, delimiter: str) -> Iterator[Row]:
    """The rows of an input, empty ones left out but counted.

    Args:
        file_format: one of FORMATS.
        lines: the input.
        field: the column or JSON field to take, upper and lower case alike in CSV.
        delimiter: between the cells of CSV.

    Raises:
        ConfigurationError: CSV whose header lacks the column.
    """
    return FORMATS[file_format](lines, field, delimiter)


def _text_rows(lines: Iterable[str], _field: str, _delimiter: str) -> Iterator[Row]:
    for number, line in enumerate(lines, 1):
        if text := line.strip():
            yield Row(number, text)


def _ndjson_rows(lines: Iterable[str], field: str, _delimiter: str) -> Iterator[Row]:
    """A row is a text, or an object that has one in `field`."""
    for row in _text_rows(lines, "", ""):
        try:
            value = msgspec.json.decode(row.text)
        except (msgspec.MsgspecError, ValueError, RecursionError):
            yield Row(row.number, "", "not JSON")
            continue
        text = value.get(field) if isinstance(value, dict) else value
        if isinstance(text, str):
            yield Row(row.number, text.strip())
        else:
            yield Row(row.number, "", f"no text in field {field!r}")


def _csv_rows(lines: Iterable[str], column: str, delimiter: str) -> Iterator[Row]:
    reader = csv.reader(lines, delimiter=delimiter)
    header = [name.strip().casefold() for name in next(reader, [])]
    if not header:
        return
    if column.casefold() not in header:
        # The header is not quoted: in a file without one, its first line is somebody's data.
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
            yield Row(number, "", "not CSV: a field is too long; is a quote missing?")
            continue
        if index < len(cells):
            yield Row(number, cells[index].strip())
        elif cells:
            yield Row(number, "", f"no column {column!r}")


FORMATS: dict[str, Callable[[Iterable[str], str, str], Iterator[Row]]] = {
    "text": _text_rows,
    "csv": _csv_rows,
    "ndjson": _ndjson_rows,
}
