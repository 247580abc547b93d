"""Compressed text: known by its content, with several members; what is damaged is never half of a file."""

import bz2
import gzip
import tracemalloc
from pathlib import Path

import pyarrow as pa
import pytest

from bidstream_svc.bulk.text_input import MAX_LINE_BYTES, OVERLONG, TextInput, read_lines
from bidstream_svc.core.errors import DamagedFileError
from tests.bulk.text_files import FILESYSTEM, decrypt_file

SUFFIXES = {"gzip": ".gz", "zstd": ".zst", "bz2": ".bz2", "lz4": ".lz4"}
CONTENT = b"".join(b'{"n":%d,"x":"%x"}\n' % (n, n * 2654435761) for n in range(20_000))


def compress(content: bytes, compression: str) -> bytes:
    sink = pa.BufferOutputStream()
    with pa.CompressedOutputStream(sink, compression) as stream:
        stream.write(content)
    compressed: bytes = sink.getvalue().to_pybytes()
    return compressed


def read(path: Path) -> bytes:
    text = TextInput(FILESYSTEM, str(path))
    try:
        blocks = list(iter(text.read_block, b""))
        assert text.done_bytes == path.stat().st_size
        return b"".join(blocks)
    finally:
        text.close()
        text.close()


@pytest.mark.parametrize("compression", SUFFIXES)
@pytest.mark.parametrize("is_named", [True, False])
def test_compression_is_told_by_content(tmp_path: Path, compression: str, is_named: bool) -> None:  # noqa: FBT001
    path = tmp_path / ("log" + (SUFFIXES[compression] if is_named else ".ndjson"))
    compressed = compress(CONTENT, compression)
    for content, expected in (
        (compressed, CONTENT),
        (compressed * 2, CONTENT * 2),
        (compress(b"", compression), b""),
        (compress(b"\xef\xbb\xbf{}", compression), b"{}"),
    ):
        path.write_bytes(content)
        assert read(path) == expected


def test_other_writers(tmp_path: Path) -> None:
    path = tmp_path / "log"
    for content in (gzip.compress(CONTENT) * 2, bz2.compress(CONTENT, 1) + bz2.compress(CONTENT)):
        path.write_bytes(content)
        assert read(path) == CONTENT * 2


@pytest.mark.parametrize("compression", SUFFIXES)
def test_damaged_files_have_no_output(tmp_path: Path, compression: str) -> None:
    path = tmp_path / f"log{SUFFIXES[compression]}"
    compressed = compress(CONTENT, compression)
    for content in (compressed[: len(compressed) // 2], compressed[:-1], compressed[:30], compressed + b"rest of it"):
        path.write_bytes(content)
        for name in ("ndjson", "csv"):
            with pytest.raises(DamagedFileError, match=f"the {compression} data is damaged or truncated"):
                decrypt_file(path, name, name)
    for content in (b"", CONTENT, compressed[:2], b"\0" + compressed):
        path.write_bytes(content)
        if content == compressed[:2] and compression == "gzip":
            continue  # it has the two bytes of gzip
        with pytest.raises(DamagedFileError, match=f"the name says {compression}"):
            decrypt_file(path, "ndjson")


def test_flipped_bits(tmp_path: Path) -> None:
    path = tmp_path / "log.gz"
    compressed = bytearray(compress(CONTENT, "gzip"))
    compressed[len(compressed) // 2] ^= 1
    path.write_bytes(compressed)
    with pytest.raises(DamagedFileError):
        decrypt_file(path, "ndjson")


def test_text_that_begins_like_another(tmp_path: Path) -> None:
    path = tmp_path / "log.csv"
    path.write_bytes(b"BZh9,token\n1,x\n")
    assert decrypt_file(path, "csv").lines[1] == b"1,INVALID_PAYLOAD,,"


@pytest.mark.parametrize("line", [b"%1023d\n" % 0, b""], ids=["lines", "one line"])
def test_memory_is_bounded(tmp_path: Path, line: bytes) -> None:
    """A file of a few kilobytes, which is 128 MiB when it is decompressed."""
    path = tmp_path / "log.zst"
    piece = (line or b" ") * (2**20 // len(line or b" "))
    sink = pa.OSFile(str(path), "wb")
    with pa.CompressedOutputStream(sink, "zstd") as stream:
        for _ in range(128):
            stream.write(piece)
    text = TextInput(FILESYSTEM, str(path))
    tracemalloc.start()
    try:
        for lines in read_lines(text.read_block):
            assert line or lines == [OVERLONG]
        assert tracemalloc.get_traced_memory()[1] < 3 * MAX_LINE_BYTES
    finally:
        tracemalloc.stop()
        text.close()


def test_lines_over_blocks() -> None:
    for text in (b"a\nbb\n\nccc", b"a\n", b"\n", b"", b"abc"):
        for size in range(1, 6):
            blocks = iter([*(text[start : start + size] for start in range(0, len(text), size)), b""])
            lines = [line for some in read_lines(blocks.__next__) for line in some]
            assert lines == text.removesuffix(b"\n").split(b"\n") if text else lines == []
