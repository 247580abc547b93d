"""Finds where the requests on a connection begin and end, without I/O.

aiohttp's parser does not tell where a request ends within the bytes that it is given. `RequestFramer` cuts them, so
that aiohttp gets one request at a time: what follows a request is held back until it is answered. It also limits the
size of heads and trailers, of which aiohttp limits only single lines. Its states:

    state     received of the current request     next states
    BETWEEN   nothing but empty lines             HEAD
    HEAD      part of the head                    HEAD; after the empty line as `begin_body` says
    FIXED     the head and part of the body       FIXED, BETWEEN
    SIZE      part of a line with a chunk's size  SIZE, CHUNK, TRAILER, UNKNOWN
    CHUNK     part of a chunk                     CHUNK, SIZE
    TRAILER   part of the trailer                 TRAILER, BETWEEN
    UNKNOWN   something malformed                 UNKNOWN

It judges nothing but size and the number of chunks: in state UNKNOWN all bytes belong to the current request, which
aiohttp refuses.
"""

import re
from enum import IntEnum, auto
from typing import ClassVar

# The limits of a request's head, and of its trailer.
MAX_HEAD_BYTES = 16 * 1024
MAX_HEADERS = 64

_HEAD_END = b"\r\n\r\n"
_LINE_END = b"\r\n"
# Besides the headers, a head has the request line and the empty line.
_MAX_HEAD_LINES = MAX_HEADERS + 2
_MAX_TRAILER_LINES = MAX_HEADERS + 1
# Each chunk takes a few microseconds, whatever its length. So many are allowed in a body of any length, and one more
# for each 64 bytes.
_MAX_SHORT_CHUNKS = 512
_BYTES_PER_CHUNK = 64
_CHUNK_SIZE = re.compile(rb"([0-9A-Fa-f]{1,15})[ \t]*(?:;.*)?")


def parse_length(content_length: str) -> int:
    """Return the value of a Content-Length that an HTTP library has found valid.

    `int` refuses thousands of digits, even if they are zeros.
    """
    return int(content_length.strip().lstrip("0") or "0")


class HeadTooLargeError(Exception):
    """A head, a trailer or the line before a chunk exceeds the limits."""


class TooManyChunksError(Exception):
    """The chunks of a body are too many for its length."""


class FramerState(IntEnum):
    """What has been received of the current request; see the table above."""

    BETWEEN = auto()
    HEAD = auto()
    FIXED = auto()
    SIZE = auto()
    CHUNK = auto()
    TRAILER = auto()
    UNKNOWN = auto()


BETWEEN, HEAD, FIXED, SIZE, CHUNK, TRAILER, UNKNOWN = FramerState


class RequestFramer:
    """Cuts the bytes of one connection.

    Attributes:
        state: see the table above.
        has_head: True once a head is complete, until `begin_body` is called; the caller must call it before `cut`.
    """

    __slots__ = ("_bytes", "_chunked_bytes", "_chunks", "_lines", "_missing_bytes", "_tail", "has_head", "state")

    def __init__(self) -> None:
        self.state = BETWEEN
        self.has_head = False
        self._bytes = 0  # of the head or trailer so far
        self._lines = 0  # of the head or trailer so far
        self._tail = b""  # in HEAD the last bytes, in SIZE and TRAILER the beginning of the line
        self._missing_bytes = 0  # in FIXED and CHUNK
        self._chunks = 0  # of the body so far
        self._chunked_bytes = 0  # in them

    def cut(self, data: bytes, start: int) -> int:
        """Return the end of the part of `data` from `start` on that belongs to the current request.

        It ends with the head, with the request, or with `data`.

        Raises:
            HeadTooLargeError: a head or trailer exceeds the limits.
            TooManyChunksError: the chunks of a body are too many for its length.
        """
        end = start
        while end < len(data):
            end = self._CUTTERS[self.state](self, data, end)
            if self.has_head or self.state is BETWEEN:
                break
        return end

    def begin_body(self, length_bytes: int | None) -> None:
        """Continue after a head with a body of this length; None for a chunked one."""
        self.has_head = False
        self._bytes, self._lines, self._tail = 0, 0, b""
        if length_bytes is None:
            self._chunks = self._chunked_bytes = 0
            self.state = SIZE
        else:
            self._missing_bytes = length_bytes
            self.state = FIXED if length_bytes else BETWEEN

    def give_up(self) -> None:
        """Count all further bytes as part of the current request, because aiohttp reads it otherwise or refuses it."""
        self.has_head = False
        self.state = UNKNOWN

    # One method per state. It reads `data` from `start` on and returns where it stopped.

    def _cut_between(self, data: bytes, start: int) -> int:
        while start < len(data) and data[start] in _LINE_END:
            start += 1
        if start < len(data):
            self._bytes = self._lines = 0
            self._tail = b""
            self.state = HEAD
        return start

    def _cut_head(self, data: bytes, start: int) -> int:
        limit = start + MAX_HEAD_BYTES - self._bytes
        kept = len(self._tail)
        window = self._tail + data[start : limit + 1]
        found = window.find(_HEAD_END)
        end = start + (len(window) if found < 0 else found + len(_HEAD_END)) - kept
        self._bytes += end - start
        self._lines += data.count(b"\n", start, end)
        if self._bytes > MAX_HEAD_BYTES or self._lines > _MAX_HEAD_LINES:
            raise HeadTooLargeError
        self._tail = window[1 - len(_HEAD_END) :]
        self.has_head = found >= 0
        return end

    def _cut_fixed(self, data: bytes, start: int) -> int:
        end = min(len(data), start + self._missing_bytes)
        self._missing_bytes -= end - start
        if not self._missing_bytes:
            self.state = BETWEEN
        return end

    def _cut_size(self, data: bytes, start: int) -> int:
        end = self._end_of_line(data, start)
        if self._tail.endswith(_LINE_END):
            size = _CHUNK_SIZE.fullmatch(self._tail, 0, len(self._tail) - len(_LINE_END))
            self._tail = b""
            if size is None:
                self.state = UNKNOWN
            elif number := int(size[1], 16):
                self._chunks += 1
                if self._chunks > _MAX_SHORT_CHUNKS + self._chunked_bytes // _BYTES_PER_CHUNK:
                    raise TooManyChunksError
                self._chunked_bytes += number
                self._missing_bytes = number + len(_LINE_END)
                self.state = CHUNK
            else:
                self.state = TRAILER
        return end

    def _cut_chunk(self, data: bytes, start: int) -> int:
        end = min(len(data), start + self._missing_bytes)
        self._missing_bytes -= end - start
        if not self._missing_bytes:
            self.state = SIZE
        return end

    def _cut_trailer(self, data: bytes, start: int) -> int:
        end = self._end_of_line(data, start)
        self._bytes += end - start
        self._lines += self._tail.endswith(b"\n")
        if self._bytes > MAX_HEAD_BYTES or self._lines > _MAX_TRAILER_LINES:
            raise HeadTooLargeError
        if self._tail.endswith(_LINE_END):
            self.state = BETWEEN if self._tail == _LINE_END else TRAILER
            self._tail = b""
        return end

    def _cut_unknown(self, data: bytes, _start: int) -> int:
        return len(data)

    def _end_of_line(self, data: bytes, start: int) -> int:
        """Return the end of the line, and keep what there is of it in `_tail`."""
        found = data.find(b"\n", start)
        end = len(data) if found < 0 else found + 1
        if len(self._tail) + end - start > MAX_HEAD_BYTES:
            raise HeadTooLargeError
        self._tail += data[start:end]
        if found >= 0 and not self._tail.endswith(_LINE_END):
            self.state = UNKNOWN  # a bare line feed
        return end

    _CUTTERS: ClassVar = {
        BETWEEN: _cut_between,
        HEAD: _cut_head,
        FIXED: _cut_fixed,
        SIZE: _cut_size,
        CHUNK: _cut_chunk,
        TRAILER: _cut_trailer,
        UNKNOWN: _cut_unknown,
    }
