"""Lines of text from files as people have them: any Unicode encoding, any line ends, compressed or not."""

import codecs
import gzip
import io
import os
import stat
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from typing import BinaryIO, TextIO

from bidstream_svc.core.errors import BidstreamError

MAX_LINE_LENGTH = 256 * 1024
# Stands for a line of `max_line_length` or more characters. Compared by identity; its text is valid in no input.
OVERLONG = "\N{REPLACEMENT CHARACTER}\n"
_BUFFER_BYTES = 64 * 1024
_HEAD_BYTES = 4
_MARK = "\N{ZERO WIDTH NO-BREAK SPACE}"
_GZIP = b"\x1f\x8b"
# UTF-32 first: its little-endian mark begins with that of UTF-16.
_ENCODING_OF_MARK = {
    codecs.BOM_UTF32_LE: "utf-32",
    codecs.BOM_UTF32_BE: "utf-32",
    codecs.BOM_UTF16_LE: "utf-16",
    codecs.BOM_UTF16_BE: "utf-16",
}
_BINARY_FORMATS = {
    b"PK\x03\x04": "an Excel workbook or a zip archive",
    b"\xd0\xcf\x11\xe0": "an Excel workbook",
    b"PAR1": "Parquet",
    b"Obj\x01": "Avro",
    b"\x28\xb5\x2f\xfd": "compressed with zstd",
    b"BZh": "compressed with bzip2",
    b"\xfd7zX": "compressed with xz",
    b"%PDF": "PDF",
}


class InputError(BidstreamError):
    """The input of a command is malformed or cannot be read; the message does not repeat it."""


class LineReader:
    r"""Iterates over the lines of a file; each ends with `\n`, except perhaps the last.

    The text may be in UTF-8, or in UTF-16 or UTF-32 with a byte order mark, and compressed with gzip. UTF-16 without a
    mark is recognised if its first characters are ASCII. Lines may end with LF, CRLF or CR. What is invalid in the
    encoding becomes U+FFFD, which no identity and no token contains. So it makes its line invalid, and not the file.
    Byte order marks at the start are skipped, also if there are several.

    Args:
        file: the file.
        max_line_length: lines of so many characters are OVERLONG.
        errors: what becomes of invalid bytes, as in `bytes.decode`.

    Attributes:
        encoding: of the text, known once the first line has been read.
        is_gzip: whether the file is compressed, known then as well.

    Raises:
        InputError: while iterating, if the file is binary, or cannot be read or decompressed.
    """

    def __init__(self, file: BinaryIO, *, max_line_length: int = MAX_LINE_LENGTH, errors: str = "replace") -> None:
        self._raw = _CountedInput(file)
        self._max_line_length = max_line_length
        self._errors = errors
        self._text: TextIO | None = None
        self.encoding = "utf-8"
        self.is_gzip = False

    @property
    def has_mixed_line_ends(self) -> bool:
        """Whether some lines read so far end with CR alone, and others do not."""
        line_ends = None if self._text is None else self._text.newlines
        return isinstance(line_ends, tuple) and "\r" in line_ends

    @property
    def size_bytes(self) -> int | None:
        """The size of the file, or None for a pipe or a terminal."""
        status = os.fstat(self._raw.file.fileno())
        return status.st_size if stat.S_ISREG(status.st_mode) else None

    @property
    def done_bytes(self) -> int:
        """How much of the file has been read."""
        return self._raw.done_bytes

    def __iter__(self) -> Iterator[str]:
        with _input_errors():
            text = self._open()
            is_first = True
            while line := text.readline(self._max_line_length):
                if len(line) == self._max_line_length:
                    while not line.endswith("\n") and (line := text.readline(self._max_line_length)):
                        pass
                    line = OVERLONG
                elif is_first:
                    line = line.lstrip(_MARK)
                is_first = False
                yield line

    def read(self) -> str:
        """All of the text, however long its lines are.

        Raises:
            InputError: as while iterating.
        """
        with _input_errors():
            return self._open().read().lstrip(_MARK)

    def _open(self) -> TextIO:
        buffered = io.BufferedReader(self._raw, _BUFFER_BYTES)
        head = self._raw.read_head()
        if head.startswith(_GZIP):
            self.is_gzip = True
            buffered = io.BufferedReader(gzip.GzipFile(fileobj=buffered), _BUFFER_BYTES)  # type: ignore[arg-type]
            head = buffered.peek(_HEAD_BYTES)[:_HEAD_BYTES]
        self.encoding = _encoding_of(head)
        self._text = io.TextIOWrapper(buffered, self.encoding, self._errors)
        return self._text


@contextmanager
def _input_errors() -> Iterator[None]:
    """Turn the errors of reading and decompressing into InputError."""
    try:
        yield
    except OSError as error:
        raise InputError(f"cannot read the input: {error.strerror or 'not valid gzip'}") from None
    except (EOFError, zlib.error):
        raise InputError("cannot read the input: the gzip data is damaged or incomplete") from None


def _encoding_of(head: bytes) -> str:
    """The encoding of a text that begins with these bytes.

    Raises:
        InputError: it is not a text.
    """
    for mark, encoding in _ENCODING_OF_MARK.items():
        if head.startswith(mark):
            return encoding
    for magic, name in _BINARY_FORMATS.items():
        if head.startswith(magic):
            raise InputError(f"the input is {name}; plain text is needed")
    if b"\0" not in head:
        return "utf-8"
    match [byte == 0 for byte in head]:
        case [False, True, False, True]:
            return "utf-16-le"
        case [True, False, True, False]:
            return "utf-16-be"
    raise InputError("the input is binary; plain text is needed")


class _CountedInput(io.RawIOBase):
    """The bytes of `file`, counted. The first few can be read ahead of the others."""

    def __init__(self, file: BinaryIO) -> None:
        self.file = file
        self.done_bytes = 0
        self._head = b""

    def read_head(self) -> bytes:
        """Return the first bytes, fewer only if there are no more. The next read returns them again."""
        self._head = self.file.read(_HEAD_BYTES)
        return self._head

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: "memoryview[int]") -> int:  # type: ignore[override]
        data = self._head or self.file.read1(len(buffer))  # type: ignore[attr-defined]
        self._head = b""
        buffer[: len(data)] = data
        self.done_bytes += len(data)
        return len(data)
