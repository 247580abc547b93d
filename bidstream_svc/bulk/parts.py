"""What a run is divided into: a part is read, decrypted and written by one thread or task."""

import os
import posixpath
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace

import pyarrow as pa
from pyarrow import fs, parquet

from bidstream_svc.bulk.storage import Place, absolute, locate
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
_IGNORED = ("_", ".")  # as Hive, Spark and Arrow do


@dataclass(frozen=True, slots=True, kw_only=True)
class Part:
    """A file of the input or some row groups of one, and the one output file that is made of it. Plain values only.

    Attributes:
        url: path or URL of the input file.
        format: one of `formats.FORMATS`; "" if the file's name does not tell, or it is not a regular file.
        row_groups: of Parquet, which row groups: first and last + 1; None for the whole file.
        first_row: number of the part's first row in the file, from 0.
        size: of the part, in bytes as stored.
        file_size: of the input file, in bytes.
        mtime_ns: when the file was last changed, Unix ns; None where storage does not say.
        name: of the output file, relative to the output directory, with `/`.
        output_format: one of `formats.FORMATS`.
        compression: of the output file: None, or "gzip", "zstd", "bz2" or "lz4". Of Parquet, a codec of its pages in
            Parquet's words; None for the usual one.
    """

    url: str
    format: str
    row_groups: tuple[int, int] | None = None
    first_row: int = 0
    size: int
    file_size: int
    mtime_ns: int | None
    name: str
    output_format: str
    compression: str | None = None


def find_parts(inputs: Sequence[str], output_format: str | None = None) -> list[Part]:
    """Find the parts of files and directories, in order.

    Directories are walked, without names that begin with `_` or `.`; the paths below them are those of the output.

    Args:
        inputs: paths and URLs.
        output_format: one of `formats.FORMATS`; None for that of each input.

    Raises:
        ConfigurationError: an input is missing, a symbolic link leads back into an input, or two files would have the
            same output file.
    """
    parts = [part for url in inputs for file, name in _files(url) for part in _parts_of(file, name, output_format)]
    owners: dict[str, str] = {}
    for part in parts:
        if (other := owners.get(part.name)) == part.url:
            raise ConfigurationError(f"{part.url} is given twice")
        if other is not None:
            raise ConfigurationError(
                f"{other} and {part.url} would both be written to {part.name}; give the directory above them, or run "
                "them one by one"
            )
        owners[part.name] = part.url
    return parts


@dataclass(frozen=True, slots=True)
class _File:
    url: str
    place: Place
    info: fs.FileInfo


def _files(url: str) -> Iterator[tuple[_File, str]]:
    """The files of an input, and their names relative to it."""
    root = locate(url)
    try:
        info = root.find()
        if info.type == fs.FileType.File:
            yield _File(absolute(url), root, info), info.base_name
            return
        if info.type != fs.FileType.Directory:
            raise ConfigurationError(f"{url}: no such file or directory")
        found = root.filesystem.get_file_info(fs.FileSelector(root.path, recursive=True))
        found.sort(key=lambda each: each.path)
        if root.is_local:
            _check_links(root.path, [each.path for each in found if each.type == fs.FileType.Directory])
    except UnicodeDecodeError:
        raise ConfigurationError(f"a name below {url} is not in UTF-8; rename it") from None
    except OSError as error:
        raise ConfigurationError(f"cannot read {url}: {error.strerror or type(error).__name__}") from None
    start = len(root.path.rstrip("/")) + 1
    for each in found:
        name = each.path[start:]
        if each.type != fs.FileType.Directory and not any(part.startswith(_IGNORED) for part in name.split("/")):
            place = Place(root.filesystem, each.path)
            yield _File(f"{absolute(url).rstrip('/')}/{name}", place, each), name


def _check_links(root: str, directories: Sequence[str]) -> None:
    """Refuse symbolic links by which a directory would be read twice, or again and again.

    Raises:
        ConfigurationError: there is one.
    """
    paths: dict[str, str] = {}
    for directory in [root, *directories]:
        other = paths.setdefault(os.path.realpath(directory), directory)
        if other != directory:
            raise ConfigurationError(f"{directory} is {other} by a symbolic link, and would be read twice")


def _parts_of(file: _File, name: str, output_format: str | None) -> Iterator[Part]:
    stem, suffix = posixpath.splitext(name)
    compression = _COMPRESSIONS.get(suffix.lower())
    if compression is not None:
        stem, suffix = posixpath.splitext(stem)
    is_special = file.info.type == fs.FileType.Unknown  # a FIFO or a device, which could be waited for without end
    input_format = "" if is_special else _FORMATS.get(suffix.lower(), "")
    written = output_format or input_format or "parquet"
    if written != input_format:
        suffix = f".{written}"
    if written == "parquet":
        compression = None
    if compression is not None:
        suffix += _SUFFIX_OF_COMPRESSION[compression]
    whole = Part(
        url=file.url,
        format=input_format,
        size=file.info.size or 0,  # None for a FIFO
        file_size=file.info.size or 0,
        mtime_ns=file.info.mtime_ns,
        name=stem + suffix,
        output_format=written,
        compression=compression,
    )
    yield from _split(whole, file.place, stem, suffix) if input_format == "parquet" else [whole]


def _split(whole: Part, place: Place, stem: str, suffix: str) -> Iterator[Part]:
    """Divide a Parquet file at its row groups."""
    try:
        with place.filesystem.open_input_file(place.path) as file:
            metadata = parquet.read_metadata(file)
            groups = [metadata.row_group(number) for number in range(metadata.num_row_groups)]
            codec = groups[0].column(0).compression if groups and metadata.num_columns else None
    except (pa.ArrowException, OSError):  # it is named when it is read
        yield whole
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
