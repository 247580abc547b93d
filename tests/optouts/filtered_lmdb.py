"""Ids in LMDB with a filter in front: the least that `filter_growth` needs of a store."""

import os
from collections.abc import Iterator
from contextlib import contextmanager
from hashlib import blake2b
from itertools import islice
from pathlib import Path

import lmdb

from bidstream_svc.core.identity import IdentityScope
from bidstream_svc.core.kernel import IS_NATIVE
from bidstream_svc.optouts.control_words import ControlWords
from bidstream_svc.optouts.filter_reader import FilterReader
from bidstream_svc.optouts.filter_writer import FilterWriter
from bidstream_svc.optouts.optout_environment import TABLE_KEY
from bidstream_svc.optouts.optout_records import TIMES_BYTES

STORE_ID = b"an opt-out store"
CHUNK_IDS = 100


def raw_id(number: int) -> bytes:
    """The raw id with a number: 32 or 33 bytes."""
    return blake2b(b"%d" % number, digest_size=32 + number % 2).digest()


def scope_of(number: int) -> IdentityScope:
    """The programme of the id with a number."""
    return IdentityScope(number // 2 % 2)


class FilteredLmdb:
    """A store for writing: the key of an id is the byte of its programme and the raw id."""

    def __init__(self, directory: Path, *, is_native: bool = IS_NATIVE) -> None:
        self.directory, self.store_id = directory, STORE_ID
        self._env = _environments.open(directory)
        self._is_open = True
        with self._env.begin(write=True) as transaction:
            self.control = ControlWords(directory, create=True)
            self.filter = FilterWriter(directory, STORE_ID, self.control, transaction.id() - 1, is_native=is_native)

    def add(self, *numbers: int) -> None:
        """Add the ids with these numbers in one transaction."""
        with self._env.begin(write=True) as transaction:
            self.filter.begin(transaction.id())
            for number in numbers:
                pair = TABLE_KEY + raw_id(number) + bytes(TIMES_BYTES)
                self.filter.add(scope_of(number), pair, len(pair))
                transaction.put(bytes([scope_of(number)]) + raw_id(number), b"")

    def add_without_filter(self, number: int) -> None:
        """Write as a program would that does not know the filter."""
        with self._env.begin(write=True) as transaction:
            transaction.put(bytes([scope_of(number)]) + raw_id(number), b"")

    def count(self) -> int:
        """Return the number of ids."""
        return int(self._env.stat()["entries"])

    def filter_ids(self) -> Iterator[list[bytes]]:
        """Yield all ids in chunks, each in a transaction of its own."""
        last = b""
        while True:
            with self._env.begin() as transaction, transaction.cursor() as cursor:
                if not cursor.set_range(last + b"\0"):
                    return
                ids = list(islice(cursor.iternext(keys=True, values=False), CHUNK_IDS))
            yield ids
            last = ids[-1]

    @contextmanager
    def filter_transaction(self) -> Iterator[int]:
        """Begin a write transaction."""
        with self._env.begin(write=True) as transaction:
            self.filter.begin(transaction.id())
            yield transaction.id()

    def close(self) -> None:
        """Close it as a process does that ends in order."""
        with self._env.begin(write=True) as transaction:
            self.filter.close(transaction.id() - 1)
        self.die()

    def die(self) -> None:
        """Give up the environment as if the process had been killed."""
        if self._is_open:
            self._is_open = False
            _environments.close(self.directory)


class FilteredReader:
    """The filter of a store, for looking up."""

    def __init__(self, directory: Path, *, withholds: bool = False) -> None:
        self._directory = directory
        self._env = _environments.open(directory)
        self.filter = FilterReader(
            directory,
            STORE_ID,
            ControlWords(directory, create=False),
            lambda: int(self._env.info()["last_txnid"]),
            withholds=withholds,
        )

    def may_contain(self, number: int) -> bool:
        """Whether the id with a number may be in the store."""
        return self.filter.may_contain(scope_of(number), raw_id(number))

    def count(self) -> int:
        """Return the number of ids in the store."""
        return int(self._env.stat()["entries"])

    def close(self) -> None:
        """Close it."""
        self.filter.close()
        _environments.close(self._directory)


class _Environments:
    """Those that this process has open, and how often: LMDB must not open one twice."""

    def __init__(self) -> None:
        self._open: dict[Path, tuple[lmdb.Environment, int]] = {}

    def open(self, directory: Path) -> lmdb.Environment:
        env, users = self._open.get(directory) or (lmdb.open(os.fspath(directory), map_size=2**28, sync=False), 0)
        self._open[directory] = env, users + 1
        return env

    def close(self, directory: Path) -> None:
        env, users = self._open.pop(directory)
        if users > 1:
            self._open[directory] = env, users - 1
        else:
            env.close()


_environments = _Environments()
