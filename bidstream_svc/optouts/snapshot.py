"""Snapshots: all opt-outs of a store as they are at one moment, with the position in the stream, for another store.

A magic number, and then frames, little-endian:

    kind u8 | length of the body u32 | CRC-32 of kind, length and body u32 | body

    H   JSON: the position in the stream, the number of opt-outs
    R   programme u8 | length of an id u8 | records (`optout_records`), sorted
    E   number of opt-outs u64; nothing follows

A snapshot that was cut short has no E. It may be merged as it arrives all the same, because what it holds is right.
"""

import struct
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import msgspec

from bidstream_svc.core.errors import OptOutRecordError
from bidstream_svc.core.identity import IdentityScope
from bidstream_svc.optouts.optout_environment import one_line, open_environment
from bidstream_svc.optouts.optout_position import Position
from bidstream_svc.optouts.optout_records import RAW_ID_LENGTHS
from bidstream_svc.optouts.optout_store import OptOutStore, get_position
from bidstream_svc.optouts.optout_tables import count_in, iterate_records, join_pairs

MAGIC = b"OPTOUTS\x01"
_FRAME = struct.Struct("<cII")
_CHECKED = struct.Struct("<cI")
_TABLE = struct.Struct("<BB")
_COUNT = struct.Struct("<Q")
_TIMES_BYTES = 8
_RECORDS_AT_ONCE = 4_000
_MERGED_AT_ONCE = 50_000
_MAX_BODY_BYTES = 64 * 1024 * 1024


class SnapshotHeader(msgspec.Struct, frozen=True):
    """What a snapshot begins with.

    Attributes:
        position: the place in the stream up to which it has everything; None for a store without a stream.
        count: the number of opt-outs.
    """

    position: Position | None
    count: int


class Records(NamedTuple):
    """Records of one programme and length of the id, in order."""

    scope: IdentityScope
    id_length: int
    records: list[bytes]


def write_snapshot(directory: Path) -> Iterator[bytes]:
    """Yield a snapshot of a store, in parts of some 100 kB. Until the last one, freed pages cannot be reused.

    Raises:
        OptOutStoreError: the store cannot be read.
    """
    with (
        open_environment(directory, is_writable=False) as environment,
        one_line(directory),
        environment.lmdb.begin() as transaction,
    ):
        count = count_in(environment, transaction)
        header = SnapshotHeader(get_position(environment, transaction), count)
        yield MAGIC + _frame(b"H", msgspec.json.encode(header))
        for table, records in iterate_records(environment, transaction, _RECORDS_AT_ONCE):
            yield _frame(b"R", b"".join((_TABLE.pack(table.scope, table.id_length), *records)))
        yield _frame(b"E", _COUNT.pack(count))


class SnapshotReader:
    """Reads a snapshot in parts of any size.

    Attributes:
        header: None until it has been read.
    """

    def __init__(self) -> None:
        self.header: SnapshotHeader | None = None
        self._buffer = bytearray()
        self._has_magic = False
        self._has_ended = False
        self._count = 0

    def feed(self, part: bytes) -> list[Records]:
        """Take the next bytes. Returns the records that are complete.

        Raises:
            OptOutRecordError: this is not a snapshot, or it is damaged.
        """
        self._buffer += part
        if not self._has_magic:
            if len(self._buffer) < len(MAGIC):
                return []
            if not self._buffer.startswith(MAGIC):
                raise OptOutRecordError("not a snapshot of opt-outs of this version")
            del self._buffer[: len(MAGIC)]
            self._has_magic = True
        start = 0
        found: list[Records] = []
        view = memoryview(self._buffer)
        try:
            while start + _FRAME.size <= len(view):
                kind, length, checksum = _FRAME.unpack_from(view, start)
                end = start + _FRAME.size + length
                if length > _MAX_BODY_BYTES:
                    raise OptOutRecordError("the snapshot is damaged")
                if end > len(view):
                    break
                found += self._read_frame(kind, bytes(view[start + _FRAME.size : end]), checksum)
                start = end
        finally:
            view.release()
        del self._buffer[:start]
        return found

    def finish(self) -> SnapshotHeader:
        """Return the header at the end.

        Raises:
            OptOutRecordError: the snapshot was cut short.
        """
        if self.header is None or not self._has_ended or self._buffer:
            raise OptOutRecordError("the snapshot was cut short")
        return self.header

    def _read_frame(self, kind: bytes, body: bytes, checksum: int) -> list[Records]:
        if _checksum(kind, body) != checksum or self._has_ended or (kind == b"H") != (self.header is None):
            raise OptOutRecordError("the snapshot is damaged")
        match kind:
            case b"H":
                self.header = _read_header(body)
            case b"R":
                records = _read_records(body)
                self._count += len(records.records)
                return [records]
            case b"E" if body == _COUNT.pack(self._count):
                self._has_ended = True
            case _:
                raise OptOutRecordError("the snapshot is damaged")
        return []


class SnapshotMerger:
    """Merges a snapshot into a store, in short transactions. Everything blocks.

    Args:
        store: gets the opt-outs; not the position.
    """

    def __init__(self, store: OptOutStore) -> None:
        self._store = store
        self._reader = SnapshotReader()
        self._waiting: list[Records] = []
        self._waiting_count = 0

    def feed(self, part: bytes) -> None:
        """Take the next bytes.

        Raises:
            OptOutRecordError: this is not a snapshot, or it is damaged. What was before the damage has been merged.
            OptOutStoreError: the store cannot be written.
        """
        for records in self._reader.feed(part):
            self._waiting.append(records)
            self._waiting_count += len(records.records)
            if self._waiting_count >= _MERGED_AT_ONCE:
                self._merge()

    def finish(self) -> SnapshotHeader:
        """Merge the rest, and return the header.

        Raises:
            OptOutRecordError: the snapshot was cut short.
            OptOutStoreError: the store cannot be written.
        """
        header = self._reader.finish()
        self._merge()
        return header

    def _merge(self) -> None:
        waiting, self._waiting, self._waiting_count = self._waiting, [], 0
        by_table: dict[tuple[IdentityScope, int], list[bytes]] = {}
        for scope, id_length, records in waiting:
            by_table.setdefault((scope, id_length), []).extend(records)
        if by_table:
            self._store.add_records({table: join_pairs(records) for table, records in by_table.items()})


def _frame(kind: bytes, body: bytes) -> bytes:
    return _FRAME.pack(kind, len(body), _checksum(kind, body)) + body


def _checksum(kind: bytes, body: bytes) -> int:
    return zlib.crc32(body, zlib.crc32(_CHECKED.pack(kind, len(body))))


def _read_header(body: bytes) -> SnapshotHeader:
    try:
        return msgspec.json.decode(body, type=SnapshotHeader)
    except msgspec.MsgspecError:
        raise OptOutRecordError("the header of the snapshot cannot be read") from None


def _read_records(body: bytes) -> Records:
    try:
        scope, id_length = _TABLE.unpack_from(body)
        size = id_length + _TIMES_BYTES
        records = [body[start : start + size] for start in range(_TABLE.size, len(body), size)]
        if id_length in RAW_ID_LENGTHS and len(records[-1]) == size:
            return Records(IdentityScope(scope), id_length, records)
    except (IndexError, struct.error, ValueError):
        pass
    raise OptOutRecordError("the snapshot has records that cannot be read")
