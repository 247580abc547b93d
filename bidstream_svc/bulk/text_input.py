"""Opens files of text, compressed or not, and reads them in blocks and in lines. Memory is bounded."""

from codecs import BOM_UTF8
from collections.abc import Callable, Iterator

import pyarrow as pa
from pyarrow import fs

from bidstream_svc.core.errors import DamagedFileError

BLOCK_BYTES = 2**22
MAX_LINE_BYTES = 2**24
# Stands for a line of more than MAX_LINE_BYTES: it is neither JSON nor UTF-8. To be compared by identity.
OVERLONG = b"\xff overlong"

_HEAD_BYTES = 10
_BZ2_MAGIC = (b"BZh%d\x31\x41\x59\x26\x53\x59", b"BZh%d\x17\x72\x45\x38\x50\x90")  # the latter if it is empty
_MAGIC = {
    "gzip": (b"\x1f\x8b",),
    "zstd": (b"\x28\xb5\x2f\xfd", *(bytes([0x50 + digit, 0x2A, 0x4D, 0x18]) for digit in range(16))),
    "bz2": tuple(magic % level for magic in _BZ2_MAGIC for level in range(1, 10)),
    "lz4": (b"\x04\x22\x4d\x18",),
}
_SUFFIXES = {".gz": "gzip", ".gzip": "gzip", ".zst": "zstd", ".zstd": "zstd", ".bz2": "bz2", ".lz4": "lz4"}


class TextInput:
    """A file of text, decompressed by its content. A byte order mark is skipped.

    Args:
        filesystem: that has the file.
        path: of the file there.

    Raises:
        DamagedFileError: the file's name says how it is compressed, and its content is not.
    """

    def __init__(self, filesystem: fs.FileSystem, path: str) -> None:
        with filesystem.open_input_stream(path, compression=None) as file:
            self._compression = _compression_of(path, file.read(_HEAD_BYTES))
        self._stored = _StoredBytes(filesystem.open_input_stream(path, compression=None))
        self._text = (
            self._stored if not self._compression else pa.CompressedInputStream(self._stored, self._compression)
        )
        self._is_begun = False

    @property
    def done_bytes(self) -> int:
        """How many bytes of the file are read."""
        return self._stored.done_bytes

    def read_block(self) -> bytes:
        """Return the next BLOCK_BYTES of text or a few less; none behind the end.

        Raises:
            DamagedFileError: the compressed data is damaged or truncated.
        """
        try:
            block: bytes = self._text.read(BLOCK_BYTES)
        except OSError:
            if self._stored.is_broken:
                raise
            raise DamagedFileError(f"the {self._compression} data is damaged or truncated") from None
        if not self._is_begun:
            self._is_begun = True
            block = block.removeprefix(BOM_UTF8) or self._text.read(BLOCK_BYTES)
        return block

    def close(self) -> None:
        """Close the file. May be called twice."""
        self._text.close()
        self._stored.close()


class _StoredBytes:
    """The bytes of a file as stored, counted: what `pa.CompressedInputStream` needs of a file.

    Attributes:
        done_bytes: how many are read.
        is_broken: whether storage has failed.
    """

    def __init__(self, file: pa.NativeFile) -> None:
        self._file = file
        self.done_bytes = 0
        self.is_broken = False

    @property
    def closed(self) -> bool:
        return bool(self._file.closed)

    def readable(self) -> bool:
        return True

    def writable(self) -> bool:
        return False

    def seekable(self) -> bool:
        return False

    def read(self, size: int) -> bytes:
        try:
            data: bytes = self._file.read(size)
        except OSError:
            self.is_broken = True
            raise
        self.done_bytes += len(data)
        return data

    def close(self) -> None:
        self._file.close()


def _compression_of(path: str, head: bytes) -> str | None:
    by_name = next((name for suffix, name in _SUFFIXES.items() if path.lower().endswith(suffix)), None)
    by_content = next((name for name, magics in _MAGIC.items() if head.startswith(magics)), None)
    if by_name is not None and by_content is None:
        raise DamagedFileError(f"the name says {by_name}, and the content is not")
    return by_content


def read_lines(read_block: Callable[[], bytes]) -> Iterator[list[bytes]]:
    """Yield the lines of a text, without their line feeds, in lists of about a block each.

    Args:
        read_block: returns the next bytes, none behind the end.
    """
    pieces: list[bytes] = []  # of a line that goes on
    length = 0
    while block := read_block():
        first, *others = block.split(b"\n")
        length += len(first)
        if length <= MAX_LINE_BYTES:
            pieces.append(first)
        else:
            pieces.clear()
        if not others:
            continue
        last = others.pop()
        yield [b"".join(pieces) if length <= MAX_LINE_BYTES else OVERLONG, *others]
        pieces, length = [last], len(last)
    if length:
        yield [b"".join(pieces) if length <= MAX_LINE_BYTES else OVERLONG]
