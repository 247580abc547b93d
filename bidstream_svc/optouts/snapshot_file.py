"""Snapshots on disk, of which several readers are served at once."""

import asyncio
import os
import time
import weakref
from collections.abc import AsyncIterator
from pathlib import Path
from typing import BinaryIO

from bidstream_svc.core.errors import OptOutStoreError
from bidstream_svc.optouts.blocking import run_blocking
from bidstream_svc.optouts.optout_store import OptOutStore
from bidstream_svc.optouts.snapshot import write_snapshot

_MAX_AGE_S = 10.0
_PART_BYTES = 1024 * 1024
_BUFFER_BYTES = 4 * 1024 * 1024


class SnapshotFile:
    """A snapshot in a file without a name, which is gone when nobody uses it any more.

    Attributes:
        size: bytes.
    """

    def __init__(self, file: BinaryIO) -> None:
        self._file = file
        weakref.finalize(self, file.close)
        self.size = os.fstat(file.fileno()).st_size

    async def iterate(self) -> AsyncIterator[bytes]:
        """Yield all of it, in parts of up to 1 MiB."""
        start = 0
        while part := await run_blocking(lambda: os.pread(self._file.fileno(), _PART_BYTES, start)):  # noqa: B023
            start += len(part)
            yield part


class SnapshotFiles:
    """Makes the snapshots of a store that are served.

    A slow reader reads from the file, so that no transaction of the store lasts for long; and all who ask within ten
    seconds get the same file, because after a fault everyone asks at once.

    Args:
        store: the store, in whose directory the files are.
    """

    def __init__(self, store: OptOutStore) -> None:
        self._store = store
        self._making: asyncio.Lock = asyncio.Lock()
        self._latest: SnapshotFile | None = None
        self._made_at_s = 0.0

    async def open(self) -> SnapshotFile:
        """Return a snapshot that is at most ten seconds old.

        Raises:
            OptOutStoreError: it cannot be written, or the store cannot be read.
        """
        async with self._making:
            if self._latest is None or time.monotonic() - self._made_at_s > _MAX_AGE_S:
                self._latest = None  # its disk space is needed
                started_s = time.monotonic()
                self._latest = await run_blocking(lambda: make_snapshot_file(self._store))
                self._made_at_s = started_s
            return self._latest


def make_snapshot_file(store: OptOutStore, directory: Path | None = None) -> SnapshotFile:
    """Write a snapshot into a file without a name, by default in the store's directory; blocks.

    Raises:
        OptOutStoreError: the disk is full, or the store cannot be read.
    """
    try:
        file = open(directory or store.directory, "w+b", buffering=_BUFFER_BYTES, opener=_open_unnamed)  # noqa: SIM115
        try:
            file.writelines(write_snapshot(store))
            file.flush()
        except BaseException:
            file.close()
            raise
    except OSError as error:
        raise OptOutStoreError(f"no snapshot: {error.strerror or type(error).__name__}") from None
    return SnapshotFile(file)


def _open_unnamed(directory: str, _flags: int) -> int:
    return os.open(directory, os.O_TMPFILE | os.O_RDWR | os.O_CLOEXEC, 0o600)
