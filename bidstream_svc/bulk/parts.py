"""What a run is divided into: a part is read, decrypted and written by one thread or task."""

import posixpath
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace

import pyarrow as pa
from pyarrow import parquet

from bidstream_svc.bulk.input_files import InputFile, find_files
from bidstream_svc.bulk.storage import Place, describe_unreadable
from bidstream_svc.core.errors import ConfigurationError

# Of Parquet; a larger file is divided at its row groups.
MAX_PART_ROWS = 2**19
_FORMATS = {
    **dict.fromkeys((".parquet", ".pq"), "parquet"),
    **dict.fromkeys((".ndjson", ".jsonl", ".json"), "ndjson"),
    **dict.fromkeys((".csv", ".tsv"), "csv"),
}
_COMPRESSIONS = {".gz": "gzip", ".zst": "zstd", ".bz2": "bz2", ".lz4": "lz4"}
_SUFFIX_OF_COMPRESSION = {compression: suffix for suffix, compression in _COMPRESSIONS.items()}
_UNKNOWN = "not a file of a known format; names end in .parquet, .ndjson or .csv"


@dataclass(frozen=True, slots=True, kw_only=True)
class Part:
    """A file of the input or some row groups of one, and the one output file that is made of it. Plain values only.

    Attributes:
        url: path or URL of the input file.
        problem: why the file cannot be read, in which case there is no output file; None if it may be readable.
        format: one of `formats.FORMATS`; "" if the file's name does not tell.
        row_groups: of Parquet, which row groups: first and last + 1; None for the whole file.
        first_row: number of the part's first row in the file, from 0.
        size: of the part, in bytes as stored.
        file_size: of the input file, in bytes.
        mtime_ns: when the file was last changed, Unix ns; None where storage does not say.
        name: of the output file, relative to the output directory, with `/`; the URL if there is none.
        output_format: one of `formats.FORMATS`.
        compression: of the output file: None, or "gzip", "zstd", "bz2" or "lz4". Of Parquet, a codec of its pages in
            Parquet's words; None for the usual one.
    """

    url: str
    problem: str | None = None
    format: str
    row_groups: tuple[int, int] | None = None
    first_row: int = 0
    size: int
    file_size: int
    mtime_ns: int | None
    name: str
    output_format: str
    compression: str | None = None


def find_parts(inputs: Sequence[str], output_format: str | None = None, output: str | None = None) -> list[Part]:
    """Find the parts of files and directories, in order; the paths below directories are those of the output.

    Args:
        inputs: paths and URLs.
        output_format: one of `formats.FORMATS`; None for that of each input.
        output: path or URL of the output directory.

    Raises:
        ConfigurationError: as for `find_files`; or two files would have the same output file.
    """
    parts = [part for file in find_files(inputs, output) for part in _parts_of(file, output_format)]
    owners: dict[str, str] = {}
    for part in parts:
        if (other := owners.setdefault(part.name, part.url)) != part.url:
            raise ConfigurationError(
                f"{other} and {part.url} would both be written to {part.name}; give the directory above them, or run "
                "them one by one"
            )
    return parts


def largest_first(parts: Iterable[Part]) -> list[Part]:
    """Order parts so that no large one is left to one thread in the end. Those that cannot be read come first."""
    return sorted(parts, key=lambda part: (part.problem is None, -part.size))


def _parts_of(file: InputFile, output_format: str | None) -> Iterator[Part]:
    stem, suffix = posixpath.splitext(file.name)
    compression = _COMPRESSIONS.get(suffix.lower())
    if compression is not None:
        stem, suffix = posixpath.splitext(stem)
    input_format = _FORMATS.get(suffix.lower(), "")
    problem = file.problem or (None if input_format else _UNKNOWN)
    written = output_format or input_format or "parquet"
    if written != input_format:
        suffix = f".{written}"
    if written == "parquet":
        compression = None
    if compression is not None:
        suffix += _SUFFIX_OF_COMPRESSION[compression]
    whole = Part(
        url=file.url,
        problem=problem,
        format=input_format,
        size=file.size,
        file_size=file.size,
        mtime_ns=file.mtime_ns,
        name=stem + suffix if problem is None else file.url,
        output_format=written,
        compression=compression,
    )
    is_divided = input_format == "parquet" and problem is None
    yield from _split(whole, file.place, stem, suffix) if is_divided else [whole]


def _split(whole: Part, place: Place, stem: str, suffix: str) -> Iterator[Part]:
    """Divide a Parquet file at its row groups."""
    try:
        with place.filesystem.open_input_file(place.path) as file:
            metadata = parquet.read_metadata(file)
            groups = [metadata.row_group(number) for number in range(metadata.num_row_groups)]
            codec = groups[0].column(0).compression if groups and metadata.num_columns else None
    except (pa.ArrowException, OSError) as error:
        if isinstance(error, OSError) and error.errno:  # of storage: nothing is known of the parts, so they stay
            whole = replace(whole, problem=describe_unreadable(error), name=whole.url)
        yield whole  # what is wrong with its content is named when it is read
        return
    if whole.output_format == "parquet":
        whole = replace(whole, compression=codec)
    if metadata.num_rows <= MAX_PART_ROWS or len(groups) == 1:
        yield whole
        return
    first_row = 0
    rows = [group.num_rows for group in groups]
    for number, (start, end) in enumerate(_pack(rows)):
        yield replace(
            whole,
            row_groups=(start, end),
            first_row=first_row,
            size=sum(_stored_bytes(group) for group in groups[start:end]),
            name=f"{stem}.part-{number:05}{suffix}",
        )
        first_row += sum(rows[start:end])


def _pack(rows: Sequence[int]) -> Iterator[tuple[int, int]]:
    """Ranges of row groups of at most MAX_PART_ROWS together, or of one."""
    start = total = 0
    for number, count in enumerate(rows):
        if number > start and total + count > MAX_PART_ROWS:
            yield start, number
            start, total = number, 0
        total += count
    yield start, len(rows)


def _stored_bytes(group: parquet.RowGroupMetaData) -> int:
    return sum(group.column(number).total_compressed_size for number in range(group.num_columns))
