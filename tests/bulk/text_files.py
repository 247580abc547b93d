"""Reads and writes files of text as `process_part` does, without its directories."""

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pyarrow as pa
from pyarrow import fs

from bidstream_svc.bulk import BatchKeys, BatchOptions, decrypt_batch
from bidstream_svc.bulk.formats import BatchReader, format_named
from bidstream_svc.bulk.parts import Part
from tests.core.openrtb_compare import KEYS
from tests.vectors.inputs import NOW_MS

BATCH_KEYS = BatchKeys(KEYS)
TOKEN_ONLY = BatchOptions()
FILESYSTEM = fs.LocalFileSystem()


@dataclass
class Decrypted:
    """What becomes of a file.

    Attributes:
        content: of the output file.
        batches: what was written: number of the first row, and the rows.
        damaged: how many rows were not read.
        examples: what is said of them.
    """

    content: bytes
    batches: list[tuple[int, list[dict[str, Any]]]] = field(default_factory=list)
    damaged: int = 0
    examples: list[str] = field(default_factory=list)

    @property
    def lines(self) -> list[bytes]:
        """Of the output file; each has an end."""
        assert not self.content or self.content.endswith(b"\n")
        return self.content.split(b"\n")[:-1]


def part_of(path: Path, name: str, output: str) -> Part:
    size = path.stat().st_size
    return Part(
        url=str(path), format=name, size=size, file_size=size, mtime_ns=None, name=path.name, output_format=output
    )


def open_reader(path: Path, name: str, output: str, options: BatchOptions = TOKEN_ONLY) -> BatchReader:
    return format_named(name).open_reader(FILESYSTEM, str(path), part_of(path, name, output), options)


def decrypt_file(path: Path, name: str, output: str = "", options: BatchOptions = TOKEN_ONLY) -> Decrypted:
    """Decrypt a file of the format `name` into one of the format `output`, by default the same."""
    output = output or name
    reader = open_reader(path, name, output, options)
    sink = pa.BufferOutputStream()
    found = Decrypted(b"")
    try:
        empty = pa.RecordBatch.from_pylist([], reader.schema)
        schema = decrypt_batch(empty, BATCH_KEYS, options, now_ms=NOW_MS).schema
        writer = format_named(output).open_writer(sink, schema, part_of(path, name, output), options)
        for batch in reader:
            out = decrypt_batch(batch, BATCH_KEYS, options, now_ms=NOW_MS, first_row=reader.first_row)
            found.batches.append((reader.first_row, out.to_pylist()))
            writer.write(out)
        writer.close()
    finally:
        reader.close()
    found.content = sink.getvalue().to_pybytes()
    found.damaged, found.examples = reader.damaged.count, reader.damaged.examples
    return found
