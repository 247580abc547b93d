"""Logs in CSV, with a header. All columns are text, and no value is guessed: a cell comes out as it came in."""

from collections.abc import Iterator
from typing import BinaryIO

import pyarrow as pa
import pyarrow.compute as pc
from pyarrow import csv, fs

from bidstream_svc.bulk.batch_options import BatchOptions
from bidstream_svc.bulk.column_text import text_bytes, to_cells
from bidstream_svc.bulk.csv_text import CsvText, Run, read_header
from bidstream_svc.bulk.formats import MAX_BATCH_ROWS, Damage
from bidstream_svc.bulk.parts import Part
from bidstream_svc.bulk.text_input import MAX_LINE_BYTES, TextInput
from bidstream_svc.core.errors import DamagedFileError

_NEEDS_QUOTES = '[",\r\n]'


def open_reader(filesystem: fs.FileSystem, path: str, part: Part, options: BatchOptions) -> "CsvReader":
    """Open a file of CSV; see `formats.FormatModule`."""
    del part
    return CsvReader(TextInput(filesystem, path), options)


def open_writer(file: BinaryIO, schema: pa.Schema, part: Part, options: BatchOptions) -> "CsvWriter":
    """Write CSV; see `formats.FormatModule`."""
    del part, options
    return CsvWriter(file, schema)


class CsvReader:
    """Reads CSV with commas, semicolons or tabs between cells, which the header tells.

    An empty cell is an empty text; in the column of the tokens or bid requests it is null. A record that has another
    number of cells than the header, is not UTF-8, or has quotes that do not fit, is a damaged row; a quote that is
    never closed damages only its line.

    Args:
        text: the file.
        options: of the decryption.

    Attributes:
        schema, first_row, damaged: as of `formats.BatchReader`.

    Raises:
        DamagedFileError: there is no header, or it is not CSV in UTF-8.
    """

    def __init__(self, text: TextInput, options: BatchOptions) -> None:
        self._input = text
        self._input_column = options.input_column
        self._numbers_rows = options.bid_request_column is not None
        self.first_row = 0
        self.damaged = Damage()
        self._text, self._is_last = b"", False
        try:
            blank_lines = self._find_header()
            syntax, names, end = read_header(self._text, options.input_column)
        except BaseException:
            self.close()
            raise
        first_line = 1 + blank_lines + self._text.count(b"\n", 0, end)
        self._text = self._text[end:]
        self._records = CsvText(syntax, len(names), self.damaged, first_line)
        self._delimiter = syntax.delimiter.decode()
        self.schema = pa.schema([pa.field(name, pa.string()) for name in names])

    @property
    def done_bytes(self) -> int:
        """As of `formats.BatchReader`."""
        return self._input.done_bytes

    def __iter__(self) -> Iterator[pa.RecordBatch]:
        """The rows, in batches of at most a block of text."""
        while True:
            for first_row, batch in self._read_batches():
                for start in range(0, batch.num_rows, MAX_BATCH_ROWS):
                    self.first_row = first_row + start
                    yield batch.slice(start, MAX_BATCH_ROWS)
            if self._is_last:
                return
            self._add_text(self._records.skip_line(self._read_block()))

    def close(self) -> None:
        """Close the file."""
        self._input.close()

    def _read_block(self) -> bytes:
        block = self._input.read_block()
        self._is_last = not block
        return block

    def _add_text(self, block: bytes) -> None:
        self._text += block
        if self._is_last and self._text and not self._text.endswith(b"\n"):
            self._text += b"\n"

    def _find_header(self) -> int:
        """Read until the text begins with a line that is not blank, and return how many blank ones came before."""
        blank_lines = 0
        while not self._is_last and b"\n" not in self._text and len(self._text) <= MAX_LINE_BYTES:
            self._add_text(self._read_block())
            text = self._text.lstrip(b"\r\n")
            blank_lines += self._text.count(b"\n", 0, len(self._text) - len(text))
            self._text = text
        if not self._text:
            raise DamagedFileError("empty: there is no header")
        return blank_lines

    def _read_batches(self) -> Iterator[tuple[int, pa.RecordBatch]]:
        """Yield the rows of the text that has been read as (number of the first row, batch)."""
        records = self._records
        end = records.split(self._text, is_last=self._is_last)
        if end is None:
            good, runs, end = records.sift(self._text, is_last=self._is_last)
            self._text = self._text[end:]
            yield from self._parse_runs(good, runs)
            return
        plain, self._text = self._text[:end], self._text[end:]
        first_row = records.next_row
        batch = self._parse(plain) if records.is_plain(plain) else None
        if batch is None:
            good, runs, _ = records.sift(plain, is_last=True)
            yield from self._parse_runs(good, runs)
        else:
            records.add_plain(plain, batch.num_rows)
            yield first_row, batch

    def _parse_runs(self, records: bytes, runs: list[Run]) -> Iterator[tuple[int, pa.RecordBatch]]:
        if not runs:
            return
        batch = self._parse(records)
        assert batch is not None  # every record has been checked
        if not self._numbers_rows:
            yield runs[0][0], batch
            return
        start = 0
        for first_row, count in runs:
            yield first_row, batch.slice(start, count)
            start += count

    def _parse(self, records: bytes) -> pa.RecordBatch | None:
        """Parse records that are valid but perhaps for the number of their cells; None if that differs."""
        names = [str(place) for place in range(len(self.schema))]
        has_quotes = b'"' in records
        try:
            table = csv.read_csv(
                pa.BufferReader(records),
                csv.ReadOptions(use_threads=False, block_size=len(records) + 1, column_names=names),
                csv.ParseOptions(
                    delimiter=self._delimiter, quote_char='"' if has_quotes else False, newlines_in_values=has_quotes
                ),
                csv.ConvertOptions(
                    check_utf8=False, strings_can_be_null=False, column_types=dict.fromkeys(names, pa.string())
                ),
            )
        except pa.ArrowInvalid:
            return None
        columns = [column.combine_chunks() for column in table.columns]
        if self._input_column in self.schema.names:
            place = self.schema.get_field_index(self._input_column)
            columns[place] = pc.if_else(pc.not_equal(columns[place], ""), columns[place], pa.scalar(None, pa.string()))
        return pa.record_batch(columns, schema=self.schema)


class CsvWriter:
    """Writes CSV as of RFC 4180, but with LF: a cell that needs quotes has them, and no other. Null is an empty cell.

    Args:
        file: to write to.
        schema: of the batches.
    """

    def __init__(self, file: BinaryIO, schema: pa.Schema) -> None:
        self._file = file
        self._write([pa.array([name], pa.string()) for name in schema.names])

    def write(self, batch: pa.RecordBatch) -> None:
        """Write the rows of a batch."""
        if batch.num_rows:
            self._write([to_cells(column).fill_null("") for column in batch.columns])

    def close(self) -> None:
        """Nothing is left to write."""

    def _write(self, columns: list[pa.StringArray]) -> None:
        if len(columns) == 1:  # an empty line is no row
            columns = [pc.if_else(pc.equal(columns[0], ""), '""', _quote(columns[0]))]
        else:
            columns = [_quote(column) for column in columns]
        lines = pc.binary_join_element_wise(*columns, ",")
        self._file.write(text_bytes(pc.binary_join_element_wise(lines, "\n", "")))


def _quote(cells: pa.StringArray) -> pa.StringArray:
    """Put quotes around the cells that need them."""
    needs_quotes = pc.match_substring_regex(cells, _NEEDS_QUOTES)
    if not needs_quotes.true_count:
        return cells
    quoted = pc.binary_join_element_wise('"', pc.replace_substring(cells, '"', '""'), '"', "")
    return pc.if_else(needs_quotes, quoted, cells)
