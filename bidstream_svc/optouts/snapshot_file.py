"""Snapshots on disk, of which several readers are served at once."""

import asyncio
import os
import sys
import time
import weakref
from asyncio.subprocess import DEVNULL, PIPE
from collections.abc import AsyncIterator
from pathlib import Path
from typing import BinaryIO
from weakref import WeakValueDictionary

from bidstream_svc.core.errors import OptOutStoreError
from bidstream_svc.optouts import snapshot_process
from bidstream_svc.optouts.blocking import run_blocking

_MAX_AGE_S = 10.0
_PART_BYTES = 1024 * 1024


class SnapshotFile:
    """A snapshot in a file without a name, which is gone when nobody uses it any more.

    Attributes:
        size: bytes.
        digest: the SHA-256 of all of it.
        etag: a strong entity tag: what has the same one has the same bytes.
    """

    def __init__(self, file: BinaryIO, digest: bytes) -> None:
        self._file = file
        weakref.finalize(self, file.close)
        self.size = os.fstat(file.fileno()).st_size
        self.digest = digest
        self.etag = f'"{digest.hex()}"'

    async def iterate(self, start: int = 0, end: int | None = None) -> AsyncIterator[bytes]:
        """Yield the bytes from `start` up to `end`, by default to the last one, in parts of up to 1 MiB."""
        end = self.size if end is None else end
        while part := await run_blocking(
            lambda: os.pread(self._file.fileno(), min(_PART_BYTES, end - start), start)  # noqa: B023
        ):
            start += len(part)
            yield part


class SnapshotFiles:
    """Makes the snapshots of a store that are served.

    A slow reader reads from the file, so that no transaction of the store lasts for long; and all who ask while one is
    written, or within ten seconds after, get the same file, because after a fault everyone asks at once.

    Whoever was cut off may go on with the file that it had, as long as that is the latest or somebody else reads it.

    Args:
        directory: the store, and where the files are.
    """

    def __init__(self, directory: Path) -> None:
        self._directory = directory
        self._making: asyncio.Lock = asyncio.Lock()
        self._latest: SnapshotFile | None = None
        self._in_use: WeakValueDictionary[str, SnapshotFile] = WeakValueDictionary()
        self._made_at_s = 0.0

    async def open(self) -> SnapshotFile:
        """Return a snapshot that was completed at most ten seconds ago.

        Raises:
            OptOutStoreError: it cannot be written, or the store cannot be read.
        """
        async with self._making:
            if self._latest is None or time.monotonic() - self._made_at_s > _MAX_AGE_S:
                self._latest = None  # its disk space is needed
                self._latest = await make_snapshot_file(self._directory)
                # Not from its beginning: one that takes longer to write would be too old for all who wait for it.
                self._made_at_s = time.monotonic()
                self._in_use[self._latest.etag] = self._latest
            return self._latest

    def find(self, etag: str) -> SnapshotFile | None:
        """Return the snapshot with a tag, however old it is; None if it is gone."""
        return self._in_use.get(etag)


async def make_snapshot_file(directory: Path) -> SnapshotFile:
    """Write a snapshot of a store into a file without a name, in its directory.

    Raises:
        OptOutStoreError: the disk is full, or the store cannot be read.
    """
    try:
        file = _open_unnamed(directory)
        try:
            return SnapshotFile(file, await _run_writer(directory, file))
        except BaseException:
            file.close()
            raise
    except OSError as error:
        raise OptOutStoreError(f"no snapshot: {error.strerror or type(error).__name__}") from None


async def _run_writer(directory: Path, file: BinaryIO) -> bytes:
    """Write the snapshot in another process, which is killed if this is cancelled. Returns its SHA-256."""
    command = (sys.executable, "-P", "-m", snapshot_process.__name__, str(directory))
    process = await asyncio.create_subprocess_exec(*command, stdin=DEVNULL, stdout=file, stderr=PIPE)
    try:
        _, output = await process.communicate()
    except asyncio.CancelledError:
        process.kill()
        await process.wait()
        raise
    last_line = (output.decode("utf-8", "replace").splitlines() or [""])[-1]
    if process.returncode:
        problem = last_line or f"the process that writes it ended with {process.returncode}"
        raise OptOutStoreError(f"no snapshot: {problem}")
    return bytes.fromhex(last_line)


def _open_unnamed(directory: Path) -> BinaryIO:
    return os.fdopen(os.open(directory, os.O_TMPFILE | os.O_RDWR | os.O_CLOEXEC, 0o600), "rb")
