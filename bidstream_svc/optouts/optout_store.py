"""The opt-out store: a set of raw ids in LMDB that only grows.

    <directory>/data.mdb, lock.mdb   LMDB
        uid2, euid                   raw id -> times (`optout_records.encode_value`)
        outbox                       number u64 BE -> packed opt-outs that this host received and owes to the stream
        meta                         what is below
    <directory>/control, filter.*    the filter in front; see `filter_file`

Several processes may have a store open, and may write: LMDB's write lock orders them. Whatever else has to be
consistent with the ids (the filter, the position in the stream) changes within a write transaction.

An environment must not be used across a fork, nor be opened twice in a process.
"""

import os
import struct
import uuid
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from types import TracebackType
from typing import NamedTuple, Self

import lmdb

from bidstream_svc.core.errors import OptOutStoreError
from bidstream_svc.core.identity import IdentityScope
from bidstream_svc.optouts.optout_records import OptOut, decode_value, encode_value, pack, unpack

# Address space, not memory, and the same for every process: the map is never resized. Room for 10**9 ids.
MAP_BYTES = 64 * 1024**3
_MAX_READERS = 1024
_MAX_DATABASES = 8
FORMAT_VERSION = 1
_META_VERSION, _META_STORE_ID, _META_POSITION, _META_OUTBOX_SENT = b"version", b"store_id", b"position", b"outbox_sent"
_NUMBER = struct.Struct(">Q")
_POSITION = struct.Struct(">16sQ")


class Position(NamedTuple):
    """A place in the stream: all entries up to it have been applied.

    Attributes:
        epoch: 16 random bytes, that of the stream; another one means another stream.
        sequence: the number of the entry in its epoch, from 1; 0 before the first.
        entry_id: the server's id of the entry, such as `1700000000000-0`.
    """

    epoch: bytes
    sequence: int
    entry_id: str


class OutboxEntry(NamedTuple):
    """Opt-outs that this host owes to the stream."""

    number: int
    optouts: list[OptOut]


class OptOutStore:
    """The opt-out store, open for reading and writing. Thread-safe.

    Args:
        directory: created if it does not exist.
        is_synced: False does without fsync, for imports that can be repeated.

    Raises:
        OptOutStoreError: the store is damaged, of another version, or cannot be opened or created.
    """

    def __init__(self, directory: Path, *, is_synced: bool = True) -> None:
        self.directory = directory
        with _one_line(directory):
            directory.mkdir(mode=0o700, parents=True, exist_ok=True)
            old_mask = os.umask(0o077)
            try:
                self._env = open_environment(directory, readonly=False, is_synced=is_synced)
            finally:
                os.umask(old_mask)
            self.ids = {scope: self._env.open_db(scope.name.lower().encode()) for scope in IdentityScope}
            self._outbox = self._env.open_db(b"outbox")
            self._meta = self._env.open_db(b"meta")
            self.store_id = self._check_format()

    def close(self) -> None:
        """Close the environment."""
        self._env.close()

    def __enter__(self) -> Self:
        """Return the store."""
        return self

    def __exit__(
        self, exc_type: type[BaseException] | None, exc: BaseException | None, traceback: TracebackType | None
    ) -> None:
        """Close the environment."""
        self.close()

    def add(self, optouts: Iterable[OptOut], *, position: Position | None = None, is_owed: bool = False) -> int:
        """Add opt-outs in one transaction, which is on disk on return. The first record of an id is kept.

        Args:
            optouts: any number.
            position: the place in the stream up to which all has been applied by this.
            is_owed: whether new ones are put into the outbox, too.

        Returns:
            The number of ids that are new.

        Raises:
            OptOutStoreError: nothing has been added, because the disk is full or the store is damaged.
        """
        new: list[OptOut] = []
        with _one_line(self.directory), self._env.begin(write=True) as transaction:
            new.extend(
                optout
                for optout in sorted(optouts)
                if transaction.put(optout.raw_id, encode_value(optout), overwrite=False, db=self.ids[optout.scope])
            )
            if is_owed and new:
                last = self._last_outbox_number(transaction)
                transaction.put(_NUMBER.pack(last + 1), pack(new), db=self._outbox)
            if position is not None:
                transaction.put(_META_POSITION, _encode_position(position), db=self._meta)
        return len(new)

    def contains(self, scope: IdentityScope, raw_id: bytes) -> bool:
        """Whether an id is in the store."""
        with _one_line(self.directory), self._env.begin(db=self.ids[scope], buffers=True) as transaction:
            return transaction.get(raw_id) is not None

    def count(self, scope: IdentityScope | None = None) -> int:
        """Return the number of ids, of one programme or of all."""
        with _one_line(self.directory), self._env.begin() as transaction:
            scopes = IdentityScope if scope is None else (scope,)
            return sum(transaction.stat(self.ids[each])["entries"] for each in scopes)

    @property
    def position(self) -> Position | None:
        """The place in the stream up to which all has been applied; None before the first entry or snapshot."""
        with _one_line(self.directory), self._env.begin(db=self._meta) as transaction:
            found = transaction.get(_META_POSITION)
        return None if found is None else _decode_position(found)

    def read_outbox(self, after: int, maximum: int) -> list[OutboxEntry]:
        """Return up to `maximum` entries of the outbox with larger numbers than `after`, in order."""
        entries: list[OutboxEntry] = []
        with _one_line(self.directory), self._env.begin(db=self._outbox) as transaction, transaction.cursor() as cursor:
            if cursor.set_range(_NUMBER.pack(after + 1)):
                for key, value in cursor:
                    if len(entries) == maximum:
                        break
                    entries.append(OutboxEntry(_NUMBER.unpack(key)[0], unpack(value)))
        return entries

    def iterate(self, scope: IdentityScope, after: bytes = b"", maximum: int = 100_000) -> list[OptOut]:
        """Return up to `maximum` opt-outs of a programme behind the id `after`, in the order of their ids."""
        found: list[OptOut] = []
        with _one_line(self.directory), self._env.begin(db=self.ids[scope]) as transaction:
            found.extend(_read_range(transaction, scope, after, maximum))
        return found

    def _last_outbox_number(self, transaction: lmdb.Transaction) -> int:
        with transaction.cursor(self._outbox) as cursor:
            return _NUMBER.unpack(cursor.key())[0] if cursor.last() else 0

    def _check_format(self) -> bytes:
        """Check the version, or write it into a new store. Returns the id of the store."""
        with self._env.begin(write=True, db=self._meta) as transaction:
            version = transaction.get(_META_VERSION)
            if version is None:
                transaction.put(_META_VERSION, str(FORMAT_VERSION).encode())
                transaction.put(_META_STORE_ID, uuid.uuid4().bytes)
            elif version != str(FORMAT_VERSION).encode():
                raise OptOutStoreError(
                    f"the store has format {version.decode('ascii', 'replace')}, this version needs {FORMAT_VERSION}"
                )
            return transaction.get(_META_STORE_ID, b"")


def open_environment(directory: Path, *, readonly: bool, is_synced: bool = True) -> lmdb.Environment:
    """Open LMDB as every process must: see the module."""
    environment = lmdb.open(
        os.fspath(directory),
        map_size=MAP_BYTES,
        readonly=readonly,
        create=not readonly,
        mode=0o600,
        max_readers=_MAX_READERS,
        max_dbs=_MAX_DATABASES,
        sync=is_synced,
        metasync=is_synced,
        readahead=False,
    )
    # LMDB would read behind the end of a file that was cut short, and the kernel would end the process.
    pages = environment.info()["last_pgno"] + 1
    if (directory / "data.mdb").stat().st_size < pages * environment.stat()["psize"]:
        environment.close()
        raise OptOutStoreError("data.mdb is shorter than it says")
    return environment


def _read_range(transaction: lmdb.Transaction, scope: IdentityScope, after: bytes, maximum: int) -> Iterator[OptOut]:
    with transaction.cursor() as cursor:
        if not cursor.set_range(after + b"\0" if after else b""):
            return
        for place, (raw_id, value) in enumerate(cursor):
            if place == maximum:
                return
            yield decode_value(scope, bytes(raw_id), bytes(value))


def _encode_position(position: Position) -> bytes:
    return _POSITION.pack(position.epoch, position.sequence) + position.entry_id.encode()


def _decode_position(encoded: bytes) -> Position:
    epoch, sequence = _POSITION.unpack_from(encoded)
    return Position(epoch, sequence, encoded[_POSITION.size :].decode())


@contextmanager
def _one_line(directory: Path) -> Iterator[None]:
    """Turn errors of LMDB and of the file system into one line."""
    try:
        yield
    except (lmdb.Error, OSError, struct.error) as error:
        raise OptOutStoreError(f"opt-out store {directory}: {error}") from error
    except OptOutStoreError as error:
        raise OptOutStoreError(f"opt-out store {directory}: {error}") from None
