"""The LMDB environment of an opt-out store: where its files are, how they are opened, and whether they still do.

Ids are in a database for each programme and length, all under one key, as sorted values of a fixed size
(`optout_records`). LMDB stores such values without any overhead: 41 bytes an id, where a key and a value would take 51.

LMDB maps the file, and a page behind its end would kill the process. So the file is kept longer than LMDB needs it,
by a hole that takes no disk space, and a file that is shorter than LMDB needs it is a truncated one.
"""

import errno
import os
import struct
import threading
import uuid
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from types import TracebackType
from typing import Any, NamedTuple, Self
from weakref import WeakValueDictionary

import lmdb

from bidstream_svc.core.errors import OptOutStoreError
from bidstream_svc.core.identity import IdentityScope
from bidstream_svc.files import sync
from bidstream_svc.optouts.control_words import CONTROL_FILE, ControlWords
from bidstream_svc.optouts.optout_records import RAW_ID_LENGTHS

# Address space, not memory, and the same for every process: the map is never resized. Room for 10**9 ids.
MAP_BYTES = 64 * 1024**3
FORMAT_VERSION = 1
TABLE_KEY = b"\0"  # all values of a table are under this key
META_VERSION, META_STORE_ID = b"version", b"store_id"
_MAX_READERS = 1024
_READER_BYTES = 64
_MAX_DATABASES = 8
_HOLE_BYTES = 64 * 1024**2
_DATA_FILE, _LOCK_FILE = "data.mdb", "lock.mdb"


class Table(NamedTuple):
    """A database of the ids of one programme and length."""

    scope: IdentityScope
    id_length: int
    db: Any  # LMDB's handle


class Environment:
    """An open environment. It is used within a `with`, and closed when nothing uses it any more.

    LMDB crashes if an environment is closed under an operation of another thread.

    Attributes:
        lmdb: the environment.
        tables: that of each programme and length.
        outbox, meta: the handles of the other databases.
        store_id: 16 random bytes.
        control: the words by which processes agree.
        is_writable: whether it is open for writing.
        is_closed: whether it has been closed, which changes.
    """

    def __init__(self, directory: Path, *, is_writable: bool, creates: bool) -> None:
        self.is_writable = is_writable
        self.is_closed = False
        self._uses: list[None] = []  # one for each use: appending and removing are atomic, and faster than a lock
        self._ended = threading.Event()  # that it ends, once it is closed
        self._data_file = directory / _DATA_FILE
        self.lmdb = lmdb.open(
            str(directory),
            map_size=MAP_BYTES,
            max_dbs=_MAX_DATABASES,
            max_readers=_MAX_READERS,
            max_spare_txns=16,
            readonly=not is_writable,
            create=creates,
            mode=0o700,
        )
        try:
            self._file_ids = {self._data_file: _file_id(self._data_file)}
            self._require_good_file()
            if creates:
                self._create_databases(directory)
            self.store_id = self._check_format()
            self.tables = {
                (scope, length): Table(scope, length, self._open_database(_table_name(scope, length)))
                for scope in IdentityScope
                for length in sorted(RAW_ID_LENGTHS)
            }
            self.outbox, self.meta = self._open_database(b"outbox"), self._open_database(b"meta")
            self.control = self._open_control(directory)
            self._file_ids[directory / CONTROL_FILE] = _file_id(directory / CONTROL_FILE)
        except BaseException:
            self.lmdb.close()
            raise

    def __enter__(self) -> Self:
        """Begin to use it.

        Raises:
            OptOutStoreError: it is closed.
        """
        self._uses.append(None)
        if self.is_closed:  # only now, because `close` looks at the uses after it has set this
            self._end_use()
            raise OptOutStoreError("it is closed")
        return self

    def __exit__(
        self, exc_type: type[BaseException] | None, exc: BaseException | None, traceback: TracebackType | None
    ) -> None:
        """End the use."""
        self._end_use()

    def close(self, timeout_s: float | None = None) -> None:
        """Close it, for all of this process that share it; leave it open if it is still in use after a time."""
        self._ended.clear()
        self.is_closed = True
        if self._uses and not self._ended.wait(timeout_s):
            self.is_closed = False
            return
        self.lmdb.close()

    def _end_use(self) -> None:
        self._uses.pop()
        if self.is_closed and not self._uses:
            self._ended.set()

    def find_problem(self) -> str | None:
        """Return why the environment cannot be used, None if its files are those that were opened, and whole."""
        for path, file_id in self._file_ids.items():
            try:
                if _file_id(path) != file_id:
                    return f"{path.name} has been replaced"
            except OSError as error:
                return f"{path.name}: {error.strerror}"
        if (size := self._data_file.stat().st_size) < self._used_bytes():
            return f"{_DATA_FILE} is truncated: it has {size} of {self._used_bytes()} bytes"
        return None

    def read_last_transaction(self) -> int:
        """Return the id of the last write transaction that was committed."""
        return int(self.lmdb.info()["last_txnid"])

    def extend_file(self, pages: int) -> None:
        """Within a write transaction, make the file longer than a transaction that changes so many pages needs it."""
        needed = self._used_bytes() + pages * self._page_bytes() + _HOLE_BYTES // 4
        if self._data_file.stat().st_size < needed:
            os.truncate(self._data_file, needed + _HOLE_BYTES)

    def _require_good_file(self) -> None:
        if problem := self.find_problem():
            raise OptOutStoreError(problem)

    def _used_bytes(self) -> int:
        return int(self.lmdb.info()["last_pgno"] + 1) * self._page_bytes()

    def _page_bytes(self) -> int:
        return int(self.lmdb.stat()["psize"])

    def _create_databases(self, directory: Path) -> None:
        """In one transaction, create what a new store needs; nothing happens to one that is not new."""
        if self.lmdb.stat()["entries"]:
            return
        with self.lmdb.begin(write=True) as transaction:
            if self.lmdb.stat()["entries"]:
                return
            self.extend_file(0)
            for scope in IdentityScope:
                for length in RAW_ID_LENGTHS:
                    name = _table_name(scope, length)
                    self.lmdb.open_db(name, txn=transaction, dupsort=True, dupfixed=True)
            self.lmdb.open_db(b"outbox", txn=transaction)
            meta = self.lmdb.open_db(b"meta", txn=transaction)
            transaction.put(META_VERSION, str(FORMAT_VERSION).encode(), db=meta)
            transaction.put(META_STORE_ID, uuid.uuid4().bytes, db=meta)
        for path in (directory, directory.parent):
            sync(path)

    def _open_control(self, directory: Path) -> ControlWords:
        if not self.is_writable:
            return ControlWords(directory, create=False)
        with self.lmdb.begin(write=True):
            return ControlWords(directory, create=True)

    def _check_format(self) -> bytes:
        """Return the id of the store."""
        meta = self._open_database(b"meta")
        with self.lmdb.begin(db=meta) as transaction:
            version = transaction.get(META_VERSION, b"").decode("ascii", "replace")
            store_id = transaction.get(META_STORE_ID, b"")
        if version != str(FORMAT_VERSION):
            raise OptOutStoreError(f"it has format {version or 'unknown'}, and this program knows {FORMAT_VERSION}")
        return store_id

    def _open_database(self, name: bytes) -> Any:
        try:
            return self.lmdb.open_db(name, create=False)
        except lmdb.NotFoundError:
            raise OptOutStoreError(f"{_DATA_FILE} is not an opt-out store: it has no {name.decode()}") from None


# By process, because a child has its parent's objects but must not use them.
_environments: "WeakValueDictionary[tuple[int, tuple[int, int]], Environment]" = WeakValueDictionary()
_opening = threading.RLock()  # a handler of a signal may fork while its thread has it
_FORK_TIMEOUT_S = 1.0  # a look-up takes microseconds


def open_environment(directory: Path, *, is_writable: bool, creates: bool = False) -> Environment:
    """Open a store; for reading, one that this process has open is shared.

    Args:
        directory: the store.
        is_writable: whether it can be written to.
        creates: whether to create a store that does not exist, which has to be writable.

    Raises:
        OptOutStoreError: it is damaged, of another version, or cannot be opened.
    """
    with one_line(directory), _opening:
        if creates:
            directory.mkdir(mode=0o700, parents=True, exist_ok=True)
        if not is_writable:
            environment = _environments.get((os.getpid(), _file_id(directory / _DATA_FILE)))
            if environment is not None and not environment.is_closed:
                with environment:
                    if problem := environment.find_problem():
                        raise OptOutStoreError(problem)
                return environment
        _allocate_lock_file(directory)
        environment = Environment(directory, is_writable=is_writable, creates=creates)
        _environments[os.getpid(), _file_id(directory / _DATA_FILE)] = environment
        return environment


def _close_before_fork() -> None:
    """Close what is open for reading; whoever needs it opens it again, in the parent and in the child.

    A child could not: what another thread of its parent was using would stay open in it, without that thread, for ever.
    """
    _opening.acquire()
    for (pid, _), environment in list(_environments.items()):
        if pid == os.getpid() and not environment.is_writable and not environment.is_closed:
            environment.close(_FORK_TIMEOUT_S)


os.register_at_fork(before=_close_before_fork, after_in_parent=_opening.release, after_in_child=_opening.release)


@contextmanager
def one_line(directory: Path) -> Iterator[None]:
    """Turn errors of LMDB and of the file system into OptOutStoreError, whose message names the directory."""
    try:
        yield
    except (lmdb.Error, OSError, struct.error) as error:
        raise OptOutStoreError(f"opt-out store {directory}: {_describe(error, directory)}") from error
    except OptOutStoreError as error:
        raise OptOutStoreError(f"opt-out store {directory}: {error}") from None


def _describe(error: Exception, directory: Path) -> str:
    match error:
        case lmdb.InvalidError() | lmdb.VersionMismatchError() | lmdb.CorruptedError() | lmdb.PageNotFoundError():
            return f"{_DATA_FILE} is damaged, or is no LMDB file of this version"
        case lmdb.MapFullError():
            return f"it is full: it has {MAP_BYTES} bytes"
        case lmdb.DiskError():
            return "no space left on device"
        case lmdb.Error() if str(error).endswith(os.strerror(errno.EIO)):
            return f"{os.strerror(errno.EIO)}: the disk is full, or fails"  # LMDB says so of a write that is cut short
        case OSError():
            return error.strerror or type(error).__name__
        case _:
            return str(error).removeprefix(f"{directory}: ")


def _allocate_lock_file(directory: Path) -> None:
    """Give the lock file all of its disk blocks, because LMDB maps it, and a block that the full disk lacks is fatal.

    Not while this process has it open: closing it would release LMDB's locks.
    """
    flags = os.O_RDWR | os.O_CREAT | os.O_CLOEXEC
    with suppress(PermissionError):  # LMDB says what it cannot do
        descriptor = os.open(directory / _LOCK_FILE, flags, 0o600)
        try:
            os.posix_fallocate(descriptor, 0, _READER_BYTES * (_MAX_READERS + 4))
        finally:
            os.close(descriptor)


def _file_id(path: Path) -> tuple[int, int]:
    status = path.stat()
    return status.st_dev, status.st_ino


def _table_name(scope: IdentityScope, id_length: int) -> bytes:
    return f"{scope.name.lower()}.{id_length}".encode()
