"""Files of opt-outs: text with a raw uid per line, CSV and Parquet, as lines for `OptOutImport`."""

import csv
import gzip
import io
import os
import stat
import zlib
from collections.abc import Iterable, Iterator
from itertools import chain, islice
from pathlib import Path
from typing import Any, BinaryIO, NamedTuple

from bidstream_svc.cli.line_reader import InputError, LineReader
from bidstream_svc.core.errors import ConfigurationError
from bidstream_svc.core.identity import IdentityScope

FORMATS = ("text", "csv", "parquet")
_BLOCK_BYTES = 1024**2
_BLOCK_ROWS = 20_000
_MAX_LINE_BYTES = 64 * 1024
_GZIP, _PARQUET, _BYTE_ORDER_MARK = b"\x1f\x8b", b"PAR1", b"\xef\xbb\xbf"
_SUFFIXES = {".csv": "csv", ".tsv": "csv", ".parquet": "parquet"}
_DELIMITERS = ",;\t"
_MALFORMED = "?"  # stands for a cell that is no opt-out, and is none either


class Columns(NamedTuple):
    """The names of columns of CSV and Parquet. The last two need not exist if they are not named by the user."""

    identity: str
    time: str
    scope: str
    is_time_named: bool


class Block(NamedTuple):
    """Whole lines, for each programme; None is of lines that do not name one.

    All have the same number of lines: those of another programme are empty. So line numbers are those of the input.
    """

    lines: dict[IdentityScope | None, bytes]
    done_bytes: int


def find_format(path: Path | None, file: BinaryIO, columns: Columns) -> str:
    """Return the format of a file, by its name or its first bytes."""
    head = _peek(file)
    if head.startswith(_PARQUET):
        return "parquet"
    name = "" if path is None else path.name.lower().removesuffix(".gz")
    if found := _SUFFIXES.get(Path(name).suffix):
        return found
    first_line = head.removeprefix(_BYTE_ORDER_MARK).partition(b"\n")[0].decode("utf-8", "replace")
    return "text" if _find_delimiter(first_line, columns) is None else "csv"


def size_of(file: BinaryIO) -> int | None:
    """Return the size of a file in bytes, None for a pipe or a terminal."""
    try:
        status = os.fstat(file.fileno())
    except OSError:  # it has no descriptor
        return None
    return status.st_size if stat.S_ISREG(status.st_mode) else None


def read_blocks(file: BinaryIO, file_format: str, columns: Columns) -> Iterator[Block]:
    """Yield the opt-outs of a file as blocks of lines.

    Raises:
        ConfigurationError: a column is missing, or Parquet cannot be read without a package.
        InputError: the file cannot be read.
    """
    match file_format:
        case "parquet":
            return _read_parquet(file, columns)
        case "csv":
            return _read_csv(file, columns)
        case _:
            return _read_text(file)


def _read_text(file: BinaryIO) -> Iterator[Block]:
    source: Any = gzip.GzipFile(fileobj=file) if _peek(file).startswith(_GZIP) else file
    rest, is_first = b"", True
    while data := _read(source):
        if is_first:
            data, is_first = data.removeprefix(_BYTE_ORDER_MARK), False
        lines, line_end, rest = (rest + data).rpartition(b"\n")
        if len(rest) > _MAX_LINE_BYTES:
            rest = rest[:_MAX_LINE_BYTES]  # malformed as it is
        if line_end:
            yield Block({None: lines + line_end}, file.tell() if file.seekable() else 0)
    if rest:
        yield Block({None: rest + b"\n"}, 0)


def _read(source: Any) -> bytes:
    try:
        data: bytes = source.read(_BLOCK_BYTES)
    except (OSError, EOFError, zlib.error) as error:
        raise InputError(f"cannot read the input: {getattr(error, 'strerror', None) or 'not valid gzip'}") from None
    return data


def _read_csv(file: BinaryIO, columns: Columns) -> Iterator[Block]:
    csv.field_size_limit(_MAX_LINE_BYTES)
    reader = LineReader(file)
    lines = iter(reader)
    first_line = next(lines, "")
    delimiter = _find_delimiter(first_line, columns) or ","
    rows = _rows(csv.reader(chain([first_line], lines), strict=False, delimiter=delimiter))
    header = [cell.strip() for cell in next(rows, [])]
    identity, time, scope = _places(header, columns)
    while block := list(islice(rows, _BLOCK_ROWS)):
        entries = ((_cell(row, identity), _cell(row, time), _cell(row, scope)) for row in block)
        yield Block(_to_lines(entries), reader.done_bytes)


def _find_delimiter(header: str, columns: Columns) -> str | None:
    """Return what separates the cells of a header with the column of raw uids; None if there is no such column."""
    cells = {delimiter: {cell.strip().strip('"') for cell in header.split(delimiter)} for delimiter in _DELIMITERS}
    return next((delimiter for delimiter, names in cells.items() if columns.identity in names), None)


def _rows(rows: Iterator[list[str]]) -> Iterator[list[str]]:
    try:
        yield from rows
    except csv.Error:  # a quotation mark that nothing closes takes in all lines behind it
        raise InputError("the input is not valid CSV: a cell is too long; is a quotation mark not closed?") from None


def _read_parquet(file: BinaryIO, columns: Columns) -> Iterator[Block]:
    try:
        import pyarrow as pa  # noqa: PLC0415 - an extra
        from pyarrow import parquet  # noqa: PLC0415
    except ModuleNotFoundError:
        raise ConfigurationError("Parquet needs the extra `parquet`: pip install 'bidstream-svc[parquet]'") from None
    try:
        content = parquet.ParquetFile(file if file.seekable() else io.BytesIO(file.read()))
        names = content.schema_arrow.names
        wanted = [names[place] for place in _places(names, columns) if place is not None]
        for batch in content.iter_batches(_BLOCK_ROWS, columns=wanted):
            cells = [
                _to_seconds(pa, batch.column(name)).to_pylist() if name in wanted else [None] * len(batch)
                for name in columns[:3]
            ]
            yield Block(_to_lines((_text(one), _time_text(two), _text(three)) for one, two, three in zip(*cells)), 0)  # noqa: B905
    except (pa.ArrowException, OSError):
        raise InputError("the input is not valid Parquet") from None


def _to_seconds(pa: Any, column: Any) -> Any:
    """Return a column of times as Unix seconds, by UTC where it names no zone, and any other one as it is.

    As objects of Python, those of the years beyond 9999 and those in nanoseconds would raise.
    """
    if pa.types.is_date(column.type):
        column = column.cast(pa.timestamp("s"))
    if not pa.types.is_timestamp(column.type):
        return column
    return column.cast(pa.timestamp("s", column.type.tz), safe=False).cast(pa.int64())


def _places(header: list[str], columns: Columns) -> tuple[int | None, int | None, int | None]:
    for name, is_required in ((columns.identity, True), (columns.time, columns.is_time_named)):
        if is_required and name not in header:
            raise ConfigurationError(f"the input has no column {name!r}")
    for name in columns[:3]:
        if header.count(name) > 1:
            raise ConfigurationError(f"the input has several columns {name!r}")
    found = tuple(header.index(name) if name in header else None for name in columns[:3])
    return found[0], found[1], found[2]


def _cell(row: list[str], place: int | None) -> str:
    return row[place].strip() if place is not None and place < len(row) else ""


def _text(value: object) -> str:
    if value is None:
        return ""
    if isinstance(value, bytes):
        return value.decode("utf-8", "replace")
    return value if isinstance(value, str) else _MALFORMED


def _time_text(value: Any) -> str:
    return str(value) if isinstance(value, int) else _text(value)


def _to_lines(entries: Iterable[tuple[str, str, str]]) -> dict[IdentityScope | None, bytes]:
    lines: dict[IdentityScope | None, list[str]] = {}
    for place, (identity, time, name) in enumerate(entries):
        line = f"{identity},{time}" if time else identity
        is_malformed = "\n" in line or (name and name not in IdentityScope.__members__)
        of_scope = lines.setdefault(IdentityScope[name] if name and not is_malformed else None, [])
        of_scope.extend([""] * (place - len(of_scope)))
        of_scope.append(_MALFORMED if is_malformed else line)
    return {scope: "".join(f"{line}\n" for line in of_scope).encode() for scope, of_scope in lines.items()}


def _peek(file: BinaryIO) -> bytes:
    head: bytes = file.peek(_MAX_LINE_BYTES)  # type: ignore[attr-defined]
    return head
