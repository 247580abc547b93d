"""What a run is divided into: a part is read, decrypted and written by one thread or task."""

from dataclasses import dataclass


@dataclass(frozen=True, slots=True, kw_only=True)
class Part:
    """A file of the input or some row groups of one, and the one output file that is made of it. Plain values only.

    Attributes:
        url: path or URL of the input file.
        format: one of `formats.FORMATS`; "" if the file's name does not tell.
        row_groups: of Parquet, which row groups: first and last + 1; None for the whole file.
        first_row: number of the part's first row in the file, from 0.
        size: of the part, in bytes as stored.
        file_size: of the input file, in bytes.
        mtime_ns: when the file was last changed, Unix ns; None where storage does not say.
        name: of the output file, relative to the output directory, with `/`.
        output_format: one of `formats.FORMATS`.
        compression: of the output file: None, or "gzip", "zstd", "bz2" or "lz4". Parquet compresses by itself.
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
