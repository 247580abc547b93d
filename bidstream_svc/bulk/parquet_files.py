"""Logs in Parquet."""

from collections.abc import Iterator
from typing import BinaryIO

import pyarrow as pa
import pyarrow.compute as pc
from pyarrow import fs, parquet

from bidstream_svc.bulk.batch_options import BatchOptions
from bidstream_svc.bulk.formats import MAX_BATCH_BYTES, MAX_BATCH_ROWS, Damage
from bidstream_svc.bulk.parts import Part
from bidstream_svc.core.errors import DamagedFileError

_GROUP_ROWS = 2**18
_GROUP_BYTES = 128 * 2**20  # of Arrow data
_BUFFER_BYTES = 2**20
_PROBE_ROWS = 256
_MAGIC, _MAGIC_ENCRYPTED = b"PAR1", b"PARE"
_USUAL_CODEC = "snappy"
_UNIQUE = frozenset({"uid", "established"})  # of the output
# A column of which so many values differ, of so many rows, hardly repeats them.
_SAMPLE_ROWS, _DISTINCT_SHARE = 2**14, 0.95
_OUTPUT_CODECS = {"SNAPPY": "snappy", "GZIP": "gzip", "ZSTD": "zstd", "BROTLI": "brotli", "LZ4": "lz4"}
# What codecs pyarrow reports for pages that are not compressed.
_NO_CODEC = "UNCOMPRESSED"


def open_reader(filesystem: fs.FileSystem, path: str, part: Part, options: BatchOptions) -> "ParquetReader":
    """Open a Parquet file; see `formats.FormatModule`. All columns are read."""
    del options
    return ParquetReader(filesystem, path, part)


def open_writer(file: BinaryIO, schema: pa.Schema, part: Part, options: BatchOptions) -> "ParquetWriter":
    """Write Parquet, with the codec of the input if that is Parquet, too; see `formats.FormatModule`."""
    del options
    return ParquetWriter(file, schema, part.compression)


class ParquetReader:
    """Reads row groups through a buffer, so that a row group of any size takes as little memory as a small one.

    Attributes:
        schema, first_row, done_bytes, damaged: as of `formats.BatchReader`. A row group can be read or it cannot, so
            that no row is damaged.
    """

    def __init__(self, filesystem: fs.FileSystem, path: str, part: Part) -> None:
        self.first_row = part.first_row
        self.done_bytes = 0
        self.damaged = Damage()
        self._part = part
        self._file = filesystem.open_input_file(path)
        try:
            _check_ends(self._file)
            self._content = parquet.ParquetFile(self._file, buffer_size=_BUFFER_BYTES, pre_buffer=False)
            self.schema = self._content.schema_arrow
        except (pa.ArrowException, OSError) as error:
            self._file.close()
            raise _damaged(error) from None
        except DamagedFileError:
            self._file.close()
            raise

    def __iter__(self) -> Iterator[pa.RecordBatch]:
        """Batches of one row group each."""
        start, end = self._part.row_groups or (0, self._content.num_row_groups)
        next_row, done_rows, row_bytes = self._part.first_row, 0, self._first_row_bytes(start)
        rows = sum(self._content.metadata.row_group(number).num_rows for number in range(start, end))
        for number in range(start, end):
            row_bytes = max(row_bytes, self._stored_row_bytes(number))
            for batch in self._read(number, int(MAX_BATCH_BYTES / row_bytes)):
                self.first_row = next_row
                next_row += batch.num_rows
                done_rows += batch.num_rows
                self.done_bytes = self._part.size * done_rows // max(1, rows)
                row_bytes = max(row_bytes, batch.nbytes / max(1, batch.num_rows))
                yield batch
        self.done_bytes = self._part.size

    def close(self) -> None:
        """Close the file."""
        self._content.close(force=True)
        self._file.close()

    def _read(self, group: int, batch_rows: int) -> Iterator[pa.RecordBatch]:
        try:
            yield from self._content.iter_batches(
                max(1, min(MAX_BATCH_ROWS, batch_rows)), row_groups=[group], use_threads=False
            )
        except (pa.ArrowException, OSError) as error:
            raise _damaged(error) from None

    def _first_row_bytes(self, group: int) -> float:
        """Bytes of a row as Arrow data, from the first few: a long value in a dictionary is stored once."""
        if group == self._content.num_row_groups:
            return 1.0
        first = next(self._read(group, _PROBE_ROWS), None)
        return 1.0 if first is None else float(max(1.0, first.nbytes / first.num_rows))

    def _stored_row_bytes(self, number: int) -> float:
        """Bytes of a row without compression. It has more as Arrow data where its values come from dictionaries."""
        group = self._content.metadata.row_group(number)
        return float(group.total_byte_size / max(1, group.num_rows))


class ParquetWriter:
    """Writes row groups of bounded size; see `formats.BatchWriter`.

    Args:
        file: to write to.
        schema: of the batches. Its metadata are kept.
        codec: of the pages, in Parquet's words; None for Snappy.
    """

    def __init__(self, file: BinaryIO, schema: pa.Schema, codec: str | None) -> None:
        self._file, self._schema = file, schema
        self._compression = "none" if codec == _NO_CODEC else _OUTPUT_CODECS.get(codec or "", _USUAL_CODEC)
        self._writer: _Writer | None = None
        self._batches: list[pa.RecordBatch] = []
        self._rows = self._bytes = 0

    def write(self, batch: pa.RecordBatch) -> None:
        """Collect a batch, and write those that are collected if they make a row group."""
        if self._batches and self._rows + batch.num_rows > _GROUP_ROWS:
            self._flush()
        self._batches.append(batch)
        self._rows += batch.num_rows
        self._bytes += batch.nbytes
        if self._rows >= _GROUP_ROWS or self._bytes >= _GROUP_BYTES:
            self._flush()

    def close(self) -> None:
        """Write the last row group and the footer."""
        self._flush()
        if self._writer is None:
            self._writer = self._open(self._schema.empty_table())
        self._writer.close()

    def _open(self, first: pa.Table) -> "_Writer":
        return _Writer(self._file, self._schema, compression=self._compression, use_dictionary=_repetitive(first))

    def _flush(self) -> None:
        if self._rows:
            group = pa.Table.from_batches(self._batches, self._schema)
            if self._writer is None:
                self._writer = self._open(group)
            self._writer.write_table(group, self._rows)
        self._batches = []
        self._rows = self._bytes = 0


def _repetitive(first: pa.Table) -> list[str]:
    """The paths of columns for which dictionaries are worth trying: not those whose values hardly repeat.

    A tenth of the time of writing would go into the others.

    Args:
        first: the first row group.
    """
    file = pa.BufferOutputStream()
    parquet.write_table(first.schema.empty_table(), file)
    columns = parquet.ParquetFile(file.getvalue()).schema
    sample = first.slice(0, _SAMPLE_ROWS)
    return [column.path for column in columns if column.path not in _UNIQUE and _repeats(sample, column.path)]


def _repeats(sample: pa.Table, path: str) -> bool:
    place = sample.schema.get_field_index(path)
    if place < 0 or len(sample) < _SAMPLE_ROWS:  # a field of a column, or too few to tell
        return True
    try:
        return bool(pc.count_distinct(sample.column(place)).as_py() <= _DISTINCT_SHARE * _SAMPLE_ROWS)
    except pa.ArrowNotImplementedError:
        return True


class _Writer(parquet.ParquetWriter):  # type: ignore[misc]
    """Without `close`, the file is not complete. The library would finish it when the writer is freed."""

    def __del__(self) -> None:
        """Leave the file as it is."""


def _check_ends(file: pa.NativeFile) -> None:
    """Tell apart what the messages of the library do not.

    Raises:
        DamagedFileError: the file is empty, encrypted, truncated, or not Parquet.
    """
    size = file.size()
    head = file.read(len(_MAGIC))
    if not head:
        raise DamagedFileError("empty: not even the footer of Parquet")
    file.seek(max(0, size - len(_MAGIC)))
    tail = file.read(len(_MAGIC))
    file.seek(0)
    if _MAGIC_ENCRYPTED in {head, tail}:
        raise DamagedFileError("encrypted Parquet, which cannot be read")
    if head != _MAGIC:
        raise DamagedFileError("not Parquet")
    if tail != _MAGIC or size < 3 * len(_MAGIC):
        raise DamagedFileError("truncated: the footer of Parquet is missing")


def _damaged(error: Exception) -> Exception:
    """The error to raise for one of the library, whose message may hold values of the file."""
    if isinstance(error, MemoryError) or (isinstance(error, OSError) and error.errno):
        return error  # of this host, not of the file
    text = str(error).lower()
    if "encrypt" in text or "decrypt" in text:
        return DamagedFileError("encrypted Parquet, which cannot be read")
    if isinstance(error, pa.ArrowNotImplementedError):
        return DamagedFileError("Parquet of a kind that cannot be read")
    return DamagedFileError("damaged Parquet")
