"""Logs in NDJSON: an object a line.

From NDJSON to NDJSON, an object stays as it came, byte for byte: the batches have only the columns that are needed to
decrypt, and its text in a hidden column, to which the writer adds members. For other formats each member becomes a
column, whose types are found before in a first pass over the file.
"""

from collections.abc import Iterator
from typing import Any, BinaryIO

import pyarrow as pa
import pyarrow.compute as pc
from pyarrow import fs

from bidstream_svc.bulk.added_columns import added_fields
from bidstream_svc.bulk.batch_options import BatchOptions
from bidstream_svc.bulk.column_text import encode_text, join, text_bytes, to_json
from bidstream_svc.bulk.formats import Damage
from bidstream_svc.bulk.json_members import text_of
from bidstream_svc.bulk.ndjson_rows import RowReader, Rows
from bidstream_svc.bulk.ndjson_schema import find_schema, parse_objects
from bidstream_svc.bulk.parts import Part
from bidstream_svc.bulk.text_input import TextInput, read_lines
from bidstream_svc.bulk.time_columns import to_unix_ms

# Each object without its closing bracket, behind a comma if it has members. It is binary, which no member is.
_OBJECT = pa.field("\0object", pa.binary())
_TIME = pa.timestamp("ms", "UTC")
_NUMBER_STARTS = b"-0123456789"


def open_reader(filesystem: fs.FileSystem, path: str, part: Part, options: BatchOptions) -> "NdjsonReader":
    """Open a file of NDJSON; see `formats.FormatModule`."""
    own = None if part.output_format == "ndjson" else _find_own_schema(filesystem, path, options)
    return NdjsonReader(TextInput(filesystem, path), options, own)


def open_writer(file: BinaryIO, schema: pa.Schema, part: Part, options: BatchOptions) -> "NdjsonWriter":
    """Write NDJSON; see `formats.FormatModule`."""
    del part
    return NdjsonWriter(file, schema, options)


class NdjsonReader:
    """Reads NDJSON.

    A line that is not a JSON object is a damaged row. A token that is not text is null, and so is a domain; a scope or
    a time that cannot be read makes the row damaged, as everywhere.

    Args:
        text: the file.
        options: of the decryption.
        own: the columns of the rows' own members but the input column; None to keep them as they came.

    Attributes:
        schema, first_row, damaged: as of `formats.BatchReader`.
    """

    def __init__(self, text: TextInput, options: BatchOptions, own: pa.Schema | None) -> None:
        self._text = text
        self._options = options
        self._own = own
        self.first_row = 0
        self.damaged = Damage()
        self._rows = RowReader(options, self.damaged, keeps_text=own is None)
        self.schema = self._find_schema()

    @property
    def done_bytes(self) -> int:
        """As of `formats.BatchReader`."""
        return self._text.done_bytes

    def __iter__(self) -> Iterator[pa.RecordBatch]:
        """The rows, in batches of at most a block of text."""
        for lines in read_lines(self._text.read_block):
            for rows in self._rows.read(lines):
                yield from self._batches(rows)

    def close(self) -> None:
        """Close the file."""
        self._text.close()

    def _find_schema(self) -> pa.Schema:
        names = self._rows.columns
        if self._own is not None:
            return pa.schema([pa.field(names[0], pa.string()), *self._own])
        kinds = [_TIME if name == self._options.time_column else pa.string() for name in names]
        return pa.schema([*map(pa.field, names, kinds), _OBJECT])

    def _batches(self, rows: Rows) -> Iterator[pa.RecordBatch]:
        columns = list(zip(*rows.values, strict=True))
        inputs = self._read_input(columns[0])
        if self._own is None:
            others = map(self._read_column, self._rows.columns[1:], columns[1:])
            objects = [text[:-1].rstrip() for text in rows.objects]
            opened = pa.array([text if text == b"{" else text + b"," for text in objects], pa.binary())
            yield from self._number(rows.numbers, pa.record_batch([inputs, *others, opened], schema=self.schema))
            return
        unread = set(range(len(rows.objects)))
        for indices, batch in parse_objects(rows.objects, self._own):
            unread.difference_update(indices)
            whole = pa.record_batch([inputs.take(pa.array(indices)), *batch.columns], schema=self.schema)
            yield from self._number([rows.numbers[index] for index in indices], whole)
        if unread:
            problem = "two members have one name, or a number is too large"
            self.damaged.add(f"row {rows.numbers[min(unread)]}: {problem}", len(unread))

    def _number(self, numbers: list[int], batch: pa.RecordBatch) -> Iterator[pa.RecordBatch]:
        """Yield rows with their numbers; those of bid requests are adjacent in a batch."""
        start = 0
        for place in range(1, len(numbers) + 1):
            is_end = place == len(numbers)
            if is_end or (numbers[place] != numbers[place - 1] + 1 and self._options.bid_request_column is not None):
                self.first_row = numbers[start]
                yield batch.slice(start, place - start)
                start = place

    def _read_input(self, values: tuple[bytes, ...]) -> pa.StringArray:
        if self._options.bid_request_column is None:
            return pa.array(map(text_of, values), pa.string())
        return pa.array([value if value.startswith(b"{") else text_of(value) for value in values], pa.string())

    def _read_column(self, name: str, values: tuple[bytes, ...]) -> Any:
        if name == self._options.time_column:
            return _read_times(values)
        if name == self._options.scope_column:  # another value is the name of no programme
            return pa.array([text_of(value) if value[:1] in b'"n' else value for value in values], pa.string())
        return pa.array(map(text_of, values), pa.string())


def _read_times(values: tuple[bytes, ...]) -> Any:
    """Return times: each may be a number or text."""
    texts = to_unix_ms(pa.array(map(text_of, values), pa.string()), "")
    numbers = [float(value) if value[:1] and value[:1] in _NUMBER_STARTS else None for value in values]
    return pc.coalesce(to_unix_ms(pa.array(numbers, pa.float64()), ""), texts).cast(_TIME)


def _find_own_schema(filesystem: fs.FileSystem, path: str, options: BatchOptions) -> pa.Schema:
    """Find the columns of all members but the input column, which may have values of any type."""
    text = TextInput(filesystem, path)
    reader = RowReader(options, Damage(), keeps_text=False)
    try:
        return find_schema(rows.objects for lines in read_lines(text.read_block) for rows in reader.read(lines))
    finally:
        text.close()


class NdjsonWriter:
    """Writes an object a line. Objects that were kept as they came get the members that are added.

    Args:
        file: to write to.
        schema: of the batches.
        options: of the decryption.
    """

    def __init__(self, file: BinaryIO, schema: pa.Schema, options: BatchOptions) -> None:
        self._file = file
        self._object = schema.get_field_index(_OBJECT.name)
        added = len(added_fields(options))
        self._first = 0 if self._object < 0 else len(schema) - added
        # Before each value.
        self._names = [f"{encode_text(name)}:" for name in schema.names[self._first :]]

    def write(self, batch: pa.RecordBatch) -> None:
        """Write the rows of a batch."""
        if not batch.num_rows:
            return
        parts: list[Any] = ["{"]
        if self._object >= 0:
            parts = [batch.column(self._object).cast(pa.string())]
        for index, name in enumerate(self._names):
            parts += [f",{name}" if index else name, to_json(batch.column(self._first + index))]
        self._file.write(text_bytes(join(*parts, "}\n")))

    def close(self) -> None:
        """Nothing is left to write."""
