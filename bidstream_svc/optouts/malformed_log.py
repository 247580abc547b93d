"""Malformed ids of the webhook, kept aside for people to look at: `malformed.log` in the directory of the store.

Each line is JSON with the time and what was sent. Beside the store, it is the only file that may hold raw uids. When it
is full it becomes `malformed.log.1`, in place of an earlier one.
"""

import errno
import os
from collections.abc import Iterable
from pathlib import Path

import orjson

from bidstream_svc.clock import iso_time
from bidstream_svc.core.units import MS_PER_S
from bidstream_svc.optouts.webhook import Malformed

_MAX_BYTES = 8 * 1024 * 1024
_MODE = 0o600


class MalformedLog:
    """Appends to the file.

    Args:
        directory: the store.
        max_bytes: the size at which a new file is begun.
    """

    def __init__(self, directory: Path, *, max_bytes: int = _MAX_BYTES) -> None:
        self._path = directory / "malformed.log"
        self._max_bytes = max_bytes

    def append(self, requests: Iterable[Malformed], now_s: int) -> None:
        """Write requests that arrived now; they are on disk on return.

        Raises:
            OSError: they could not be written.
        """
        lines = b"".join(
            orjson.dumps({"time": iso_time(now_s * MS_PER_S), "problem": problem, "text": text}) + b"\n"
            for problem, text in requests
        )
        file = os.open(self._path, os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW, _MODE)
        try:
            if os.write(file, lines) < len(lines):  # the rest of what was sent would be lost
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
            os.fdatasync(file)
            is_full = os.fstat(file).st_size >= self._max_bytes
        finally:
            os.close(file)
        if is_full:
            self._path.replace(self._path.with_name("malformed.log.1"))
