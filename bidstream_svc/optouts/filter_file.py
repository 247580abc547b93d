"""Filter files: the filter of one generation, in front of an opt-out store.

    header, 4096 bytes               the words below, the key, who it belongs to, checksums
    blocks of 64 bytes               as of `core/kernel/src/optouts.rs`

A filter that lacks an id of its store would let an opted-out id pass. So it is used only if it is certain to have seen
every write transaction of the store, whose ids ascend:

- each writer notes the id of its transaction in the header before it commits (`note`). Within one boot, what has been
  written to the mapping is in memory, whoever died; so the filter is complete if its last noted transaction is not
  older than the store's last one.
- after another boot, only what was synced is certain. A clean close syncs the blocks, and then notes the last
  transaction as synced, with a checksum of the blocks.

A filter that does not belong to the store, is damaged, or was copied does not pass; it is replaced by a new one.
"""

import os
import secrets
import struct
from contextlib import suppress
from functools import cache
from hashlib import blake2b
from mmap import MADV_HUGEPAGE, mmap
from pathlib import Path
from typing import NamedTuple, Self
from zlib import crc32

from bidstream_svc.core.errors import OptOutStoreError

HEADER_BYTES = 4096
BLOCK_BYTES = 64
BITS_AN_ID = 20
_MAGIC = b"optfltr\x01"  # with the version of this layout
# Magic, generation, blocks; key, store id; checksum of these.
_FIXED = struct.Struct("<8sqq16s16sI")
# What changes, in aligned words: the place (16 bytes), noted, synced, checksum of the blocks when they were synced.
_PLACE = slice(64, 80)
_NOTED, _SYNCED, _SYNCED_CHECKSUM = 10, 11, 12
_NAME = "filter.{}"


class FilterIdentity(NamedTuple):
    """What never changes in a filter.

    Attributes:
        generation: its number, from 1.
        blocks: how many it has.
        key: 16 random bytes, the key of its hashes.
        store_id: 16 bytes, those of the store whose ids it has.
    """

    generation: int
    blocks: int
    key: bytes
    store_id: bytes

    def encode(self) -> bytes:
        """Return the beginning of the header."""
        content = struct.pack("<8sqq16s16s", _MAGIC, *self)
        return content + struct.pack("<I", crc32(content))

    @classmethod
    def decode(cls, header: bytes) -> Self:
        """Decode the beginning of a header.

        Raises:
            OptOutStoreError: it is damaged or of another version.
        """
        _, generation, blocks, key, store_id, _ = _FIXED.unpack_from(header)
        identity = cls(generation, blocks, key, store_id)
        if identity.encode() != header[: _FIXED.size]:
            raise OptOutStoreError("its header is damaged, or of another version")
        return identity

    @property
    def capacity(self) -> int:
        """How many ids it has room for."""
        return self.blocks * BLOCK_BYTES * 8 // BITS_AN_ID

    @property
    def file_bytes(self) -> int:
        """The size of its file."""
        return HEADER_BYTES + self.blocks * BLOCK_BYTES


def blocks_for(capacity: int) -> int:
    """Return how many blocks a filter needs for so many ids."""
    return max(1, -(-capacity * BITS_AN_ID // (BLOCK_BYTES * 8)))


def filter_path(directory: Path, generation: int) -> Path:
    """Return the path of the filter of a generation."""
    return directory / _NAME.format(generation)


def filter_generations(directory: Path) -> list[int]:
    """Return the generations of which there are files."""
    names = (path.name.partition(".")[2] for path in directory.glob(_NAME.format("*")))
    return sorted(int(name) for name in names if name.isascii() and name.isdecimal())


class FilterFile:
    """A filter file, mapped.

    Attributes:
        identity: what never changes in it.
        words: its blocks, as 64-bit integers.
    """

    def __init__(self, descriptor: int, identity: FilterIdentity) -> None:
        self.identity = identity
        self._place = _place(descriptor)
        self._map = mmap(descriptor, identity.file_bytes)
        with suppress(OSError):  # of a kernel without them
            self._map.madvise(MADV_HUGEPAGE)  # a look-up takes half the time
        self._header = memoryview(self._map)[:HEADER_BYTES].cast("q")
        self.words = memoryview(self._map)[HEADER_BYTES:].cast("q")

    @classmethod
    def create(cls, directory: Path, identity: FilterIdentity, last_transaction: int) -> Self:
        """Create an empty filter.

        Args:
            directory: the store.
            identity: of the filter.
            last_transaction: the last one before it is created.

        Raises:
            OSError: there is no room for it, or it exists.
        """
        path = filter_path(directory, identity.generation)
        descriptor = os.open(path, os.O_RDWR | os.O_CLOEXEC | os.O_CREAT | os.O_EXCL, 0o600)
        try:
            # A hole in a file that is mapped ends the process when the disk is full.
            os.posix_fallocate(descriptor, 0, identity.file_bytes)
            created = cls(descriptor, identity)
        except OSError:
            path.unlink()
            raise
        finally:
            os.close(descriptor)
        fixed = identity.encode()
        created._map[: len(fixed)] = fixed
        created._map[_PLACE] = created._place
        created.note(last_transaction)
        return created

    @classmethod
    def open(cls, directory: Path, generation: int, store_id: bytes) -> Self:
        """Open the filter of a generation, complete or not.

        Raises:
            OptOutStoreError: it is damaged, of another version or store.
            OSError: it is missing, or cannot be read.
        """
        descriptor = os.open(filter_path(directory, generation), os.O_RDWR | os.O_CLOEXEC)
        try:
            header = os.pread(descriptor, HEADER_BYTES, 0)
            if len(header) < HEADER_BYTES:
                raise OptOutStoreError("it is truncated")
            identity = FilterIdentity.decode(header)
            if (identity.generation, identity.store_id) != (generation, store_id):
                raise OptOutStoreError("it belongs to another generation or store")
            if identity.blocks < 1 or os.fstat(descriptor).st_size != identity.file_bytes:
                raise OptOutStoreError("it has another size than it says")
            return cls(descriptor, identity)
        finally:
            os.close(descriptor)

    def is_complete(self, last_transaction: int) -> bool:
        """Whether it has all ids of the store.

        Args:
            last_transaction: the store's last one that was committed, read before this is called.
        """
        if self._map[_PLACE] == self._place:
            return self._header[_NOTED] >= last_transaction
        is_synced = self._header[_SYNCED] >= last_transaction > 0
        return is_synced and self._header[_SYNCED_CHECKSUM] == crc32(self.words)

    def adopt(self, last_transaction: int) -> None:
        """Let it count as written in this boot, if it does not yet. Only of a complete one, by who may write.

        Args:
            last_transaction: the last one that was committed.
        """
        if self._map[_PLACE] == self._place:
            return
        self.note(last_transaction)
        self._header[_SYNCED] = 0  # of transactions that a crash undid, whose ids would be used again
        self._map.flush(0, HEADER_BYTES)
        self._map[_PLACE] = self._place

    @property
    def noted(self) -> int:
        """The last write transaction that was noted."""
        return self._header[_NOTED]

    def note(self, transaction: int) -> None:
        """Note a write transaction, before it commits; until then its ids may be added."""
        self._header[_NOTED] = transaction

    def sync(self, last_transaction: int) -> None:
        """Write it to the disk, so that it can be used after another boot. Only within a write transaction.

        Args:
            last_transaction: the last one that was committed. The one that has begun may yet add ids.

        Raises:
            OSError: the disk fails.
        """
        self._header[_SYNCED] = 0
        self._map.flush()
        self._header[_SYNCED_CHECKSUM] = crc32(self.words)
        self._header[_SYNCED] = last_transaction
        self._map.flush(0, HEADER_BYTES)

    def close(self) -> None:
        """Unmap it. A native filter must have released its words."""
        self.words.release()
        self._header.release()
        self._map.close()


def new_identity(generation: int, capacity: int, store_id: bytes) -> FilterIdentity:
    """Return the identity of a new filter, with a random key."""
    return FilterIdentity(generation, blocks_for(capacity), secrets.token_bytes(16), store_id)


def _place(descriptor: int) -> bytes:
    """Return what tells one boot and file from others: a copy of the file has another place."""
    status = os.fstat(descriptor)
    return blake2b(b"%b %d %d" % (_boot_id(), status.st_dev, status.st_ino), digest_size=16).digest()


@cache
def _boot_id() -> bytes:
    try:
        return Path("/proc/sys/kernel/random/boot_id").read_bytes()
    except OSError:
        return secrets.token_bytes(16)  # each process takes itself for another boot
