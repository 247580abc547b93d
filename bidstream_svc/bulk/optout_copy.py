"""Copies of an opt-out store on the other nodes of a cluster: one a node, for as long as a run uses it.

TMP/bidstream-bulk-USER-ID/    readable by its owner alone
    making                     held by who makes the copy
    using                      held by whoever uses it
    store/                     the copy, which appears when it is whole
"""

import fcntl
import os
import shutil
import tempfile
import time
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path

from bidstream_svc.core.errors import OptOutStoreError
from bidstream_svc.optouts.optout_store import OptOutStore
from bidstream_svc.optouts.snapshot import SnapshotMerger, write_snapshot

_PREFIX = f"bidstream-bulk-{os.getuid()}-"
_CHUNK_BYTES = 64 * 2**20
_POLL_S = 0.1


def snapshot_chunks(store: Path) -> Iterator[bytes]:
    """Yield a snapshot of a store, in parts that are worth an object of their own.

    Raises:
        OptOutStoreError: the store cannot be read.
    """
    chunk = bytearray()
    for part in write_snapshot(store):
        chunk += part
        if len(chunk) >= _CHUNK_BYTES:
            yield bytes(chunk)
            chunk.clear()
    yield bytes(chunk)


@contextmanager
def copy_in_use(copy_id: str, chunks: Iterable[bytes]) -> Iterator[Path]:
    """The copy of a run, which is made unless this node has it, and is not removed within the `with`.

    Args:
        copy_id: names the copies of the run.
        chunks: the snapshot. They are not asked for if the copy is there.

    Raises:
        OptOutStoreError: it cannot be made.
    """
    directory = _directory_of(copy_id)
    try:
        directory.mkdir(mode=0o700, exist_ok=True)
        if directory.stat().st_uid != os.getuid() or directory.is_symlink():
            raise OptOutStoreError(f"{directory} belongs to another user")
        with _lock(directory / "making", fcntl.LOCK_EX):
            using = os.open(directory / "using", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
            fcntl.flock(using, fcntl.LOCK_SH)
            store = directory / "store"
            if not store.is_dir():
                _remove_abandoned()
                _make(store, chunks)
    except OSError as error:
        raise OptOutStoreError(f"no copy of the opt-out store: {error.strerror or type(error).__name__}") from None
    try:
        yield store
    finally:
        os.close(using)


def remove_copy(copy_id: str, timeout_s: float) -> bool:
    """Remove the copy of a run from this node once nobody uses it, and say whether it is gone."""
    directory = _directory_of(copy_id)
    end_s = time.monotonic() + timeout_s
    while directory.is_dir() and not _remove_unused(directory):
        if time.monotonic() > end_s:
            return False
        time.sleep(_POLL_S)
    return True


def _make(store: Path, chunks: Iterable[bytes]) -> None:
    making = store.with_name("store.new")
    shutil.rmtree(making, ignore_errors=True)  # of one that was killed
    copy = OptOutStore(making)
    try:
        merger = SnapshotMerger(copy)
        for chunk in chunks:
            merger.feed(chunk)
        merger.finish()
    finally:
        copy.close()
    making.rename(store)


def _remove_abandoned() -> None:
    """Remove what killed runs have left."""
    for directory in Path(tempfile.gettempdir()).glob(f"{_PREFIX}*"):
        _remove_unused(directory)


def _remove_unused(directory: Path) -> bool:
    """Remove a copy, and say whether it was unused."""
    try:
        with (
            _lock(directory / "making", fcntl.LOCK_EX | fcntl.LOCK_NB),
            _lock(directory / "using", fcntl.LOCK_EX | fcntl.LOCK_NB),
        ):
            shutil.rmtree(directory, ignore_errors=True)
    except OSError:  # it is used, is gone, or is not ours
        return False
    return True


@contextmanager
def _lock(path: Path, operation: int) -> Iterator[None]:
    descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    try:
        fcntl.flock(descriptor, operation)
        yield
    finally:
        os.close(descriptor)


def _directory_of(copy_id: str) -> Path:
    return Path(tempfile.gettempdir()) / f"{_PREFIX}{copy_id}"
