"""The sketches of failures of all workers, in shared memory that is mapped before the workers are forked.

A worker writes only to its own row; any process reads all rows. A row has one buffer more than there are slots, and a
sketch is written to a buffer whose content is not needed any more. So a reader always finds a whole sketch of each
slot, also if a writer is killed while it writes. By the checksum of a buffer, a reader tells that it is being written.
"""

import time
from collections.abc import Iterator, Sequence
from itertools import chain
from mmap import mmap
from struct import Struct
from typing import Any, NamedTuple
from zlib import crc32

import msgspec

from bidstream_svc.metrics.site_failures import SLOT_S, SLOTS, SitedFailure, SiteFailures, SlotSketch

_BUFFERS = SLOTS + 1
_CHECKSUM = Struct("<I")
_HEAD = Struct("<IQQ")  # length, number of the slot, which write of the row
_START = _CHECKSUM.size + _HEAD.size
# Enough for the largest sketch. The pages of an anonymous map take no memory before they are written to.
BUFFER_BYTES = 352 * 1024
_MAX_READS = 5

_encode = msgspec.msgpack.Encoder().encode
_decode = msgspec.msgpack.Decoder(SlotSketch).decode


class _Written(NamedTuple):
    """A whole sketch in a buffer; `write` counts the writes of the row."""

    write: int
    buffer: int
    number: int
    content: bytes


_NEVER_WRITTEN = _Written(0, 0, 0, b"")


class FailureRow:
    """The sketches of one worker.

    Args:
        memory: its part of the shared memory.
    """

    def __init__(self, memory: memoryview) -> None:
        self.buffers = [memory[start : start + BUFFER_BYTES] for start in range(0, len(memory), BUFFER_BYTES)]

    def read(self) -> Iterator[SlotSketch]:
        """Yield the sketches, the latest of each slot. Each takes up to 0.3 ms to decode."""
        return (_decode(each.content) for each in self.newest().values())

    def newest(self) -> dict[int, _Written]:
        """Return the latest write of each slot."""
        found: list[_Written | None] = [None]
        reads = 0
        # A reader that was interrupted may find two buffers half written, one after the other.
        while None in found and reads < _MAX_READS:
            found = list(map(_read, range(_BUFFERS), self.buffers))
            reads += 1
        return {each.number: each for each in sorted(filter(None, found)) if each.write}


class FailureWriter:
    """Writes the row of a worker, and continues what another process has written to it.

    Args:
        row: which no other process writes to from now on.
        now_s: the monotonic clock, seconds.
    """

    def __init__(self, row: FailureRow, now_s: float) -> None:
        self._row = row
        newest = row.newest()
        self._places = {number: each.buffer for number, each in newest.items()}
        self._writes = max((each.write for each in newest.values()), default=0)
        number = int(now_s // SLOT_S)
        self._sketch = _decode(newest[number].content) if number in newest else SlotSketch(number)

    def add(self, failures: int, sample: Sequence[SitedFailure], now_s: float) -> None:
        """Add a period; see SlotSketch."""
        number = int(now_s // SLOT_S)
        if number != self._sketch.number:
            self._sketch = SlotSketch(number)
        self._sketch.add(failures, sample)
        self._write(self._sketch)

    def _write(self, sketch: SlotSketch) -> None:
        oldest = sketch.number - SLOTS + 1
        self._places = {number: place for number, place in self._places.items() if number >= oldest}
        place = min(set(range(_BUFFERS)) - set(self._places.values()))
        self._writes += 1
        content = _encode(sketch)
        head = _HEAD.pack(len(content), sketch.number, self._writes)
        whole = _CHECKSUM.pack(crc32(content, crc32(head))) + head + content
        self._row.buffers[place][: len(whole)] = whole
        self._places[sketch.number] = place


class FailureSlots:
    """The sketches of all workers.

    Args:
        workers: the number of rows.

    Attributes:
        rows: one for each worker.
        row: the row that this process writes to.
    """

    def __init__(self, workers: int = 1) -> None:
        self._started_s = time.monotonic()
        self._map = mmap(-1, workers * _BUFFERS * BUFFER_BYTES)
        memory = memoryview(self._map)
        row_bytes = _BUFFERS * BUFFER_BYTES
        self.rows = [FailureRow(memory[start : start + row_bytes]) for start in range(0, len(memory), row_bytes)]
        self.row = self.rows[0]

    def read(self) -> Iterator[SlotSketch]:
        """Yield the sketches of all rows."""
        return chain.from_iterable(row.read() for row in self.rows)

    def hour(self, now_s: float) -> "FailureHour":
        """Return the sum of no sketches yet; `now_s` is the monotonic clock."""
        return FailureHour(self._started_s, now_s)


class FailureHour:
    """The sum of sketches over the hour before `now_s`. It begins with a slot, or with the service at `started_s`."""

    def __init__(self, started_s: float, now_s: float) -> None:
        self._oldest = int(now_s // SLOT_S) - SLOTS + 1
        self._window_s = max(0.0, now_s - max(started_s, self._oldest * SLOT_S))
        self._sum = SiteFailures()

    def add(self, sketch: SlotSketch) -> None:
        """Add a sketch, unless it is older."""
        if sketch.number >= self._oldest:
            self._sum.add(sketch)

    def describe(self) -> dict[str, Any]:
        """Return what `GET /failures` answers."""
        return {"window_s": round(self._window_s), **self._sum.describe()}


def _read(place: int, buffer: memoryview) -> _Written | None:
    """Read a buffer. Returns None if it is written at this time, or its writer was killed."""
    start = bytes(buffer[:_START])
    if not any(start):
        return _NEVER_WRITTEN
    (checksum,) = _CHECKSUM.unpack_from(start)
    length, number, write = _HEAD.unpack_from(start, _CHECKSUM.size)
    content = bytes(buffer[_START : _START + length])
    is_whole = crc32(content, crc32(start[_CHECKSUM.size :])) == checksum
    return _Written(write, place, number, content) if is_whole else None
