"""The opt-out store: a set of raw ids in LMDB that only grows.

    <directory>/data.mdb, lock.mdb   LMDB; see `optout_environment`
        uid2.32, uid2.33, euid.32,   the ids of a programme and length, each with its times
            euid.33
        outbox                       number u64 BE -> packed opt-outs that this host received and owes to the stream
        meta                         what is below
    <directory>/control, filter.*    the filter in front; see `filter_file`

Several processes may have a store open, and may write: LMDB's write lock orders them. Whatever else has to be
consistent with the ids (the filter, the position in the stream) changes within a write transaction.

An environment must not be used across a fork, nor be opened twice in a process.
"""

import os
import struct
import time
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager, suppress
from itertools import islice, product
from pathlib import Path
from types import TracebackType
from typing import NamedTuple, Self

import lmdb

from bidstream_svc.core.errors import OptOutStoreError
from bidstream_svc.core.identity import IdentityScope
from bidstream_svc.optouts.filter_writer import FilterWriter
from bidstream_svc.optouts.optout_environment import Environment, one_line, open_environment
from bidstream_svc.optouts.optout_position import Position, decode_position, encode_position
from bidstream_svc.optouts.optout_records import RAW_ID_LENGTHS, OptOut, decode_record, encode_record, pack, unpack
from bidstream_svc.optouts.optout_tables import (
    Records,
    contains,
    count_ids,
    join_pairs,
    only_new,
    pair_bytes,
    put_all,
    read_records,
    split_pairs,
)

_META_POSITION = b"position"
_NOTE_PREFIX = b"note."  # small states of the publisher and the follower
_NUMBER = struct.Struct(">Q")
_CHUNK_IDS = 10_000
_OUTBOX_ENTRY_OPTOUTS = 1_000
_NOTE_STREAM = "stream"  # there once the store has a part in a stream
# Readers that were killed keep pages from being used again until their slots are freed.
_READER_CHECK_INTERVAL_S = 10


class OutboxEntry(NamedTuple):
    """Opt-outs that this host owes to the stream."""

    number: int
    optouts: list[OptOut]


class OptOutStore:
    """The opt-out store, open for reading and writing. Thread-safe.

    Args:
        directory: the store.
        creates: whether to create it if it does not exist. Otherwise that is an error, because a store whose volume is
            gone must not be replaced by an empty one.

    Attributes:
        directory: the store.
        store_id: 16 bytes.
        control: the words by which processes agree.
        filter: the filters in front, to which new ids are added before they are committed.
        last_write_s: how long the last write transaction kept others from writing.

    Raises:
        OptOutStoreError: the store is damaged, of another version, or cannot be opened or created.
    """

    def __init__(self, directory: Path, *, creates: bool = True) -> None:
        self.directory = directory
        self._is_open = True
        self.last_write_s = 0.0
        self._next_reader_check = 0.0
        opened = open_environment(directory, is_writable=True, creates=creates)
        self._environment: Environment | None = opened
        self.store_id = opened.store_id
        self.control = opened.control
        with one_line(directory), opened.lmdb.begin(write=True) as transaction:
            self.filter = FilterWriter(directory, self.store_id, self.control, transaction.id() - 1)

    def close(self) -> None:
        """Close the store, and sync the filter, so that it can be used after another boot."""
        if self._environment is not None:
            with suppress(OptOutStoreError), self._opened() as environment, environment.lmdb.begin(write=True) as last:
                self.filter.close(last.id() - 1)
        self._is_open = False
        opened, self._environment = self._environment, None
        if opened is not None:
            opened.close()

    def __enter__(self) -> Self:
        """Return the store."""
        return self

    def __exit__(
        self, exc_type: type[BaseException] | None, exc: BaseException | None, traceback: TracebackType | None
    ) -> None:
        """Close the store."""
        self.close()

    def add(
        self,
        optouts: Iterable[OptOut],
        *,
        position: Position | None = None,
        is_owed: bool = False,
        notes: Mapping[str, bytes] | None = None,
    ) -> int:
        """Add opt-outs in one transaction, which is on disk on return. The first record of an id is kept.

        Nothing is written if none of them is new and there is no position and no note. What is not new costs no time
        under the write lock.

        Args:
            optouts: any number.
            position: the place in the stream up to which all has been applied by this.
            is_owed: whether new ones are put into the outbox, too.
            notes: what `read_note` returns by name afterwards.

        Returns:
            The number of ids that are new.

        Raises:
            OptOutStoreError: nothing has been added, because the disk is full or the store is damaged.
        """
        by_table: dict[tuple[IdentityScope, int], dict[bytes, bytes]] = {}
        for optout in optouts:
            records = by_table.setdefault((optout.scope, len(optout.raw_id)), {})
            if optout.raw_id not in records:
                records[optout.raw_id] = encode_record(optout)
        return self.add_records(
            {key: join_pairs(sorted(records.values())) for key, records in by_table.items()},
            position=position,
            is_owed=is_owed,
            notes=notes,
        )

    def add_records(
        self,
        records: Records,
        *,
        position: Position | None = None,
        is_owed: bool = False,
        notes: Mapping[str, bytes] | None = None,
    ) -> int:
        """As `add`, with pairs (`optout_tables`) by programme and length of the id, sorted and no id twice."""
        with self._opened() as environment, environment.lmdb.begin() as transaction:
            new = only_new(environment, transaction, records)
            seen = transaction.id()
        if not new and position is None and not notes:
            return 0
        with self._write() as (environment, transaction):
            if transaction.id() != seen + 1:  # another transaction came between
                new = only_new(environment, transaction, new)
            count = sum(len(pairs) // pair_bytes(length) for (_, length), pairs in new.items())
            environment.extend_file(2 * count)
            for (scope, length), pairs in new.items():
                # Before the commit, and so before anybody relies on them.
                self.filter.add(scope, pairs, pair_bytes(length))
                put_all(transaction, environment.tables[scope, length], pairs)
            if is_owed and new:
                _put_into_outbox(transaction, environment, new)
            if position is not None:
                transaction.put(_META_POSITION, encode_position(position), db=environment.meta)
            _put_notes(transaction, environment, notes or {})
        return count

    @contextmanager
    def filter_transaction(self) -> Iterator[int]:
        """Begin a write transaction for a change of the filter alone, and commit it at the end; its number."""
        with self._write() as (_, transaction):
            yield transaction.id()

    def contains(self, scope: IdentityScope, raw_id: bytes) -> bool:
        """Whether an id is in the store."""
        with self._opened() as environment:
            return contains(environment, scope, raw_id)

    def count(self, scope: IdentityScope | None = None) -> int:
        """Return the number of ids, of one programme or of all."""
        with self._opened() as environment:
            return count_ids(environment, scope)

    @property
    def position(self) -> Position | None:
        """The place in the stream up to which all has been applied; None before the first entry or snapshot."""
        with self._opened() as environment:
            return read_position(environment)

    def read_outbox(self, after: int, maximum: int) -> list[OutboxEntry]:
        """Return up to `maximum` entries of the outbox with larger numbers than `after`, in order."""
        entries: list[OutboxEntry] = []
        with (
            self._opened() as environment,
            environment.lmdb.begin(db=environment.outbox) as transaction,
            transaction.cursor() as cursor,
        ):
            if cursor.set_range(_NUMBER.pack(after + 1)):
                entries.extend(
                    OutboxEntry(_NUMBER.unpack(key)[0], unpack(value)) for key, value in islice(cursor, maximum)
                )
        return entries

    @property
    def is_in_stream(self) -> bool:
        """Whether the store has a part in a stream, to which it then owes whatever does not come from there."""
        return self.read_note(_NOTE_STREAM) is not None

    def join_stream(self) -> None:
        """Put all that the store has into the outbox, unless it has joined before: other hosts may not have it."""
        if self.is_in_stream:
            return
        for scope, length in product(IdentityScope, sorted(RAW_ID_LENGTHS)):
            after = b""
            while records := self._read_records(scope, length, after):
                with self._write() as (environment, transaction):
                    _put_into_outbox(transaction, environment, {(scope, length): join_pairs(records)})
                after = records[-1][:length]
        self.write_notes({_NOTE_STREAM: b""})

    def write_notes(self, notes: Mapping[str, bytes], *, trim_outbox_up_to: int = 0) -> None:
        """Write notes, and remove the entries of the outbox with numbers up to one, in one transaction."""
        with self._write() as (environment, transaction):
            _put_notes(transaction, environment, notes)
            with transaction.cursor(environment.outbox) as cursor:
                # The last one stays: the next number is one larger.
                up_to = min(trim_outbox_up_to, _last_number(cursor) - 1)
                is_left = cursor.first()
                while is_left and _NUMBER.unpack(cursor.key())[0] <= up_to:
                    is_left = cursor.delete()

    def read_note(self, name: str) -> bytes | None:
        """Return a note; None if there is none of this name."""
        with self._opened() as environment, environment.lmdb.begin(db=environment.meta) as transaction:
            return transaction.get(_NOTE_PREFIX + name.encode())

    def iterate(self, scope: IdentityScope, after: bytes = b"", maximum: int = 100_000) -> list[OptOut]:
        """Return up to `maximum` opt-outs of a programme behind the id `after`: short ids first, then by id."""
        with self._opened() as environment:
            found: list[OptOut] = []
            for (of_scope, length), table in environment.tables.items():
                if of_scope is scope and length >= len(after):
                    behind = after if length == len(after) else b""
                    records = read_records(environment, table, behind, maximum - len(found))
                    found.extend(decode_record(scope, record) for record in records)
            return found

    def filter_ids(self) -> Iterator[list[bytes]]:
        """Yield all ids that were committed before, each the byte of the programme and the raw id, in chunks.

        What is committed meanwhile may be among them. No transaction is open between two chunks.
        """
        for scope, length in product(IdentityScope, sorted(RAW_ID_LENGTHS)):
            after = b""
            while records := self._read_records(scope, length, after):
                prefix = bytes((scope,))
                yield [prefix + record[:length] for record in records]
                after = records[-1][:length]

    def _read_records(self, scope: IdentityScope, length: int, after: bytes) -> list[bytes]:
        with self._opened() as environment:
            return read_records(environment, environment.tables[scope, length], after, _CHUNK_IDS)

    @property
    def is_alone(self) -> bool:
        """Whether no other process has looked into the store since it was started, and still runs."""
        with self._opened() as environment:
            environment.lmdb.reader_check()
            slots = environment.lmdb.readers().splitlines()
        own = str(os.getpid())
        return all(slot.split()[0] == own for slot in slots if slot.split()[0].isdecimal())

    @contextmanager
    def _write(self) -> Iterator[tuple[Environment, lmdb.Transaction]]:
        """A write transaction. All writing goes through this."""
        with self._opened() as environment:
            self._check_readers(environment)
            with environment.lmdb.begin(write=True) as transaction:
                begun = time.monotonic()
                self.filter.begin(transaction.id())
                yield environment, transaction
            self.last_write_s = time.monotonic() - begun

    @contextmanager
    def _opened(self) -> Iterator[Environment]:
        """The environment, unless its file has been removed or replaced, because what is written then would be lost."""
        environment = self._environment
        if environment is None and self._is_open:
            environment = self._environment = open_environment(self.directory, is_writable=True)
        with one_line(self.directory):
            if environment is None:
                raise OptOutStoreError("it is closed")
            try:
                with environment:
                    if problem := environment.find_problem():
                        raise OptOutStoreError(problem)
                    yield environment
            except lmdb.PanicError:  # the disk failed while LMDB wrote its last page; it has to be opened again
                self._environment = None
                environment.close()
                raise

    def _check_readers(self, environment: Environment) -> None:
        if (now := time.monotonic()) >= self._next_reader_check:
            self._next_reader_check = now + _READER_CHECK_INTERVAL_S
            environment.lmdb.reader_check()


def check_store(directory: Path) -> None:
    """Open the store, which is created if it does not exist, and close it again.

    Raises:
        OptOutStoreError: it is damaged, of another version, or cannot be created.
    """
    OptOutStore(directory).close()


def read_position(environment: Environment) -> Position | None:
    """Return the place in the stream up to which all has been applied; None before the first entry or snapshot."""
    with environment.lmdb.begin() as transaction:
        return get_position(environment, transaction)


def get_position(environment: Environment, transaction: lmdb.Transaction) -> Position | None:
    """As `read_position`, in a transaction."""
    found = transaction.get(_META_POSITION, db=environment.meta)
    return None if found is None else decode_position(bytes(found))


def _put_into_outbox(transaction: lmdb.Transaction, environment: Environment, new: Records) -> None:
    optouts = (
        decode_record(scope, record) for (scope, length), pairs in new.items() for record in split_pairs(pairs, length)
    )
    with transaction.cursor(environment.outbox) as cursor:
        number = _last_number(cursor)
        while part := list(islice(optouts, _OUTBOX_ENTRY_OPTOUTS)):
            number += 1
            cursor.put(_NUMBER.pack(number), pack(part), append=True)


def _put_notes(transaction: lmdb.Transaction, environment: Environment, notes: Mapping[str, bytes]) -> None:
    for name, note in notes.items():
        transaction.put(_NOTE_PREFIX + name.encode(), note, db=environment.meta)


def _last_number(outbox: lmdb.Cursor) -> int:
    """Return the number of the last entry; 0 if there is none."""
    return int(_NUMBER.unpack(outbox.key())[0]) if outbox.last() else 0
