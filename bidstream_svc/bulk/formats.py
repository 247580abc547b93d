"""The formats of logs: what reads and writes them, found by name.

A format is a module of this package, `NAME_files.py`, with the functions of `FormatModule`.
"""

import importlib
from collections.abc import Iterator
from typing import BinaryIO, Protocol, Self, cast

import pyarrow as pa
from pyarrow import fs

from bidstream_svc.bulk.batch_options import BatchOptions
from bidstream_svc.bulk.parts import Part

FORMATS = ("parquet", "ndjson", "csv")
MAX_BATCH_ROWS = 2**16
MAX_BATCH_BYTES = 64 * 2**20  # of Arrow data, except where a single row has more
_MAX_EXAMPLES = 5


class Damage:
    """Damaged rows of a part: how many, and what is wrong with the first few.

    Attributes:
        count: how many.
        examples: of the first few, such as "line 17: not a JSON object". They contain no values.
    """

    def __init__(self) -> None:
        self.count = 0
        self.examples: list[str] = []

    @classmethod
    def joined(cls, *parts: Self) -> Self:
        """Return the sum, with the first few examples."""
        whole = cls()
        whole.count = sum(part.count for part in parts)
        whole.examples = [example for part in parts for example in part.examples][:_MAX_EXAMPLES]
        return whole

    def add(self, example: str, count: int = 1) -> None:
        """Count damaged rows; `example` names the first of them and what is wrong with it."""
        self.count += count
        if len(self.examples) < _MAX_EXAMPLES:
            self.examples.append(example)


class BatchReader(Protocol):
    """Reads the rows of a part, in order.

    Opening or iterating raises DamagedFileError if the part cannot be read any further, OSError if storage fails.

    Attributes:
        schema: of all batches.
        first_row: of the last batch, the number of its first row in the file, from 0. Damaged rows have numbers, too:
            where a batch of bid requests, whose numbers are in the output, would leave some out, it ends.
        done_bytes: how many of the part's `size` bytes are read, for progress.
        damaged: rows that could not be read, which are in no batch.
    """

    @property
    def schema(self) -> pa.Schema: ...  # noqa: D102

    @property
    def first_row(self) -> int: ...  # noqa: D102

    @property
    def done_bytes(self) -> int: ...  # noqa: D102

    @property
    def damaged(self) -> Damage: ...  # noqa: D102

    def __iter__(self) -> Iterator[pa.RecordBatch]:
        """Batches of at most MAX_BATCH_ROWS rows and about MAX_BATCH_BYTES."""

    def close(self) -> None:
        """Close the file. May be called twice."""


class BatchWriter(Protocol):
    """Writes batches of one schema to a file, which it does not close.

    Where a part fails, its writer is dropped without `close`.
    """

    def write(self, batch: pa.RecordBatch) -> None:
        """Write the rows of a batch behind those before."""

    def close(self) -> None:
        """Write what is left. A file is not complete without."""


class FormatModule(Protocol):
    """What a module of a format provides."""

    def open_reader(self, filesystem: fs.FileSystem, path: str, part: Part, options: BatchOptions) -> BatchReader:
        """Open a part to read it.

        Args:
            filesystem: that has the part's file.
            path: of the file there.
            part: which rows to read. Its `output_format` is that of the writer.
            options: say which columns are needed.

        Raises:
            DamagedFileError: the file is not of the format, truncated, or encrypted.
            ConfigurationError: a column that is needed is missing.
        """

    def open_writer(self, file: BinaryIO, schema: pa.Schema, part: Part, options: BatchOptions) -> BatchWriter:
        """Write to an open file.

        Args:
            file: takes bytes, or what has a buffer, in order; it compresses them where `part.compression` is set. A
                `pyarrow.NativeFile`.
            schema: of what `decrypt_batch` returns for the reader's batches.
            part: whose rows are written.
            options: of the decryption.
        """


def format_named(name: str) -> FormatModule:
    """Return the module of one of FORMATS."""
    return cast("FormatModule", importlib.import_module(f"{__package__}.{name}_files"))
