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

from bidstream_svc.core.errors import OptOutStoreError
from bidstream_svc.optouts import snapshot_process
from bidstream_svc.optouts.blocking import run_blocking

_MAX_AGE_S = 10.0
_PART_BYTES = 1024 * 1024


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

    A slow reader reads from the file, so that no transaction of the store lasts for long; and all who ask while one is
    written, or within ten seconds after, get the same file, because after a fault everyone asks at once.

    Args:
        directory: the store, and where the files are.
    """

    def __init__(self, directory: Path) -> None:
        self._directory = directory
        self._making: asyncio.Lock = asyncio.Lock()
        self._latest: SnapshotFile | None = None
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
            return self._latest


async def make_snapshot_file(directory: Path) -> SnapshotFile:
    """Write a snapshot of a store into a file without a name, in its directory.

    Raises:
        OptOutStoreError: the disk is full, or the store cannot be read.
    """
    try:
        file = _open_unnamed(directory)
        try:
            await _run_writer(directory, file)
            return SnapshotFile(file)
        except BaseException:
            file.close()
            raise
    except OSError as error:
        raise OptOutStoreError(f"no snapshot: {error.strerror or type(error).__name__}") from None


async def _run_writer(directory: Path, file: BinaryIO) -> None:
    """Write the snapshot in another process, which is killed if this is cancelled."""
    command = (sys.executable, "-P", "-m", snapshot_process.__name__, str(directory))
    process = await asyncio.create_subprocess_exec(*command, stdin=DEVNULL, stdout=file, stderr=PIPE)
    try:
        _, output = await process.communicate()
    except asyncio.CancelledError:
        process.kill()
        await process.wait()
        raise
    if process.returncode:
        lines = output.decode("utf-8", "replace").splitlines()
        problem = lines[-1] if lines else f"the process that writes it ended with {process.returncode}"
        raise OptOutStoreError(f"no snapshot: {problem}")


def _open_unnamed(directory: Path) -> BinaryIO:
    return os.fdopen(os.open(directory, os.O_TMPFILE | os.O_RDWR | os.O_CLOEXEC, 0o600), "rb")
