"""One part: read, decrypted, written aside and renamed. Both engines call this."""

from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from contextlib import closing, contextmanager, suppress
from dataclasses import asdict, dataclass, field, replace

import pyarrow as pa
import pyarrow.compute as pc

from bidstream_svc.bulk.batch_columns import find_column
from bidstream_svc.bulk.batch_decryption import decrypt_in_pieces
from bidstream_svc.bulk.batch_keys import BatchKeys
from bidstream_svc.bulk.batch_options import BatchOptions
from bidstream_svc.bulk.formats import BatchReader, Damage, format_named
from bidstream_svc.bulk.output_directory import OutputDirectory, TemporaryFile
from bidstream_svc.bulk.parts import Part
from bidstream_svc.bulk.storage import describe, describe_unreadable, locate
from bidstream_svc.core.errors import BulkOutputError, ConfigurationError, DamagedFileError


@dataclass(frozen=True, slots=True, kw_only=True)
class PartResult:
    """What became of a part. Plain values only; it is the part's record in JSON, too.

    Attributes:
        name: of the part's output file.
        url: of its input file.
        rows: read, damaged ones included.
        written: rows in the output file.
        statuses: how many of these have each status.
        damaged_rows: rows that could not be read, or have a null status.
        damage: of the first few of these, such as "row 17: its time cannot be read". They contain no values.
        problem: why the file is damaged, in which case there is no output file; None if it is not.
        output_bytes: size of the output file.
        filled_columns: which of the required columns have a value in any row. NDJSON seems to have every column.
    """

    name: str
    url: str
    rows: int = 0
    written: int = 0
    statuses: Mapping[str, int] = field(default_factory=dict)
    damaged_rows: int = 0
    damage: tuple[str, ...] = ()
    problem: str | None = None
    output_bytes: int = 0
    filled_columns: tuple[str, ...] = ()


class StoppedError(Exception):
    """`on_batch` raises it to stop; the part has no output file then."""


# (rows, stored bytes): how much more of a part is done.
OnBatch = Callable[[int, int], None]


def process_part(
    part: Part,
    output: str,
    keys: BatchKeys,
    options: BatchOptions,
    now_ms: int,
    *,
    strict: bool = False,
    on_batch: OnBatch = lambda _rows, _bytes: None,
    on_written: Callable[[], None] = lambda: None,
) -> PartResult:
    """Decrypt a part: writes `output/_bulk/tmp/UNIQUE`, then the part's record, and renames the file to its name.

    May be done again, and by two at once: the later one replaces the file by the same.

    Args:
        part: what to read, and the name of what to write.
        output: path or URL of the output directory, which `run.open_run` has prepared.
        keys: any number of threads may share them.
        options: of the decryption.
        now_ms: Unix ms, the same for all parts of a run.
        strict: whether the first damaged row raises.
        on_batch: called between batches; it may raise StoppedError.
        on_written: called when what is left is to wait for storage, until the file is safe and has its name.

    Returns:
        What became of it. A damaged file is no exception, but a result with a `problem`.

    Raises:
        ConfigurationError: the options do not fit the columns.
        DamagedFileError: under `strict`, a row or the file is damaged.
        StoppedError: from `on_batch`.
        BulkOutputError: storage failed, or is full. There is no output file, and nothing is left aside.
    """
    work = _PartWork(part, keys, options, now_ms, strict=strict, on_batch=on_batch)
    directory = OutputDirectory(output)
    try:
        with directory.temporary_file() as file:
            result = work.run(file)
            on_written()
            result = replace(result, output_bytes=file.finish())
            directory.publish(file, part.name, {"part": asdict(part), "result": asdict(result)})
    except DamagedFileError as error:
        if strict:
            error.add_note(part.url)
            raise
        return PartResult(name=part.name, url=part.url, problem=str(error))
    except ConfigurationError as error:
        error.add_note(part.url)
        raise
    except OSError as error:  # those of the input are DamagedFileError
        raise BulkOutputError(f"cannot write to {output}: {describe(error)}") from None
    return result


class _PartWork:
    """The rows of one part on their way."""

    def __init__(
        self,
        part: Part,
        keys: BatchKeys,
        options: BatchOptions,
        now_ms: int,
        *,
        strict: bool,
        on_batch: OnBatch,
    ) -> None:
        self._part = part
        self._keys = keys
        self._options = options
        self._now_ms = now_ms
        self._strict = strict
        self._on_batch = on_batch
        self._rows = self._written = 0
        self._statuses: Counter[str] = Counter()
        self._damage = Damage()
        self._unfilled_columns = set(options.required_columns)

    def run(self, file: TemporaryFile) -> PartResult:
        with closing(self._open_reader()) as reader:
            with self._output_stream(file) as stream:
                self._write(reader, stream)
            damage = Damage.joined(reader.damaged, self._damage)
            return PartResult(
                name=self._part.name,
                url=self._part.url,
                rows=self._rows + reader.damaged.count,
                written=self._written,
                statuses=dict(self._statuses),
                damaged_rows=damage.count,
                damage=tuple(damage.examples),
                filled_columns=tuple(sorted({*self._options.required_columns} - self._unfilled_columns)),
            )

    @contextmanager
    def _output_stream(self, file: TemporaryFile) -> Iterator[pa.NativeFile]:
        if self._part.output_format == "parquet" or self._part.compression is None:
            yield file.stream
            return
        stream = pa.CompressedOutputStream(file.stream, self._part.compression)
        try:
            yield stream
            stream.close()
        finally:
            # Freed without, it would complain on stderr that the file below is closed.
            with suppress(OSError, pa.ArrowException):
                stream.close()

    def _open_reader(self) -> BatchReader:
        if self._part.problem is not None:
            raise DamagedFileError(self._part.problem)
        try:
            place = locate(self._part.url)
            module = format_named(self._part.format)
            return module.open_reader(place.filesystem, place.path, self._part, self._options)
        except OSError as error:
            raise DamagedFileError(describe_unreadable(error)) from None

    def _write(self, reader: BatchReader, stream: pa.NativeFile) -> None:
        # Of no rows, because a file without rows has columns, too.
        (nothing,) = self._decrypt(pa.RecordBatch.from_pylist([], reader.schema), 0)
        try:
            writer = format_named(self._part.output_format).open_writer(
                stream, nothing.schema, self._part, self._options
            )
            done_bytes = 0
            for batch in _read(reader):
                self._rows += batch.num_rows
                self._note_values(batch)
                for decrypted in self._decrypt(batch, reader.first_row):
                    self._count(decrypted, reader.first_row)
                    writer.write(decrypted)
                self._check(reader.damaged)
                self._on_batch(batch.num_rows, reader.done_bytes - done_bytes)
                done_bytes = reader.done_bytes
            self._check(reader.damaged)
            self._on_batch(0, self._part.size - done_bytes)
            writer.close()
        except pa.ArrowNotImplementedError:
            raise ConfigurationError(f"a column has a type that {self._part.output_format} does not have") from None

    def _decrypt(self, batch: pa.RecordBatch, first_row: int) -> Iterator[pa.RecordBatch]:
        return decrypt_in_pieces(batch, self._keys, self._options, now_ms=self._now_ms, first_row=first_row)

    def _note_values(self, batch: pa.RecordBatch) -> None:
        self._unfilled_columns -= {
            name for name in self._unfilled_columns if find_column(batch, name).null_count < batch.num_rows
        }

    def _count(self, decrypted: pa.RecordBatch, first_row: int) -> None:
        self._written += decrypted.num_rows
        statuses = decrypted.column(decrypted.schema.get_field_index("status"))
        for each in pc.value_counts(statuses).to_pylist():
            if each["values"] is not None:
                self._statuses[each["values"]] += each["counts"]
        if statuses.null_count:
            place = pc.index(pc.is_null(statuses), value=True).as_py()
            if self._options.bid_request_column is None:
                example = f"row {first_row + place}: its time or programme cannot be read"
            else:
                example = f"row {decrypted.column('row')[place]}: its bid request or time cannot be read"
            self._damage.add(example, statuses.null_count)
            self._check(self._damage)

    def _check(self, damage: Damage) -> None:
        if self._strict and damage.count:
            raise DamagedFileError(damage.examples[0])


def _read(reader: BatchReader) -> Iterator[pa.RecordBatch]:
    """The batches of a reader; what it cannot read is a fault of the file."""
    batches = iter(reader)
    while True:
        try:
            batch = next(batches, None)
        except OSError as error:
            raise DamagedFileError(describe_unreadable(error)) from None
        if batch is None:
            return
        yield batch
