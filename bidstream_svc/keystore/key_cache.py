"""A cache on disk of the last good key response, for a start while the operator cannot be reached.

The file holds the response as the operator encrypted it. Without the client secret it cannot be decrypted.
"""

import os
import re
import tempfile
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

from bidstream_svc.clock import wall_clock_ms
from bidstream_svc.core.errors import BidstreamError
from bidstream_svc.core.units import MS_PER_S
from bidstream_svc.files import read_regular_file, require_regular
from bidstream_svc.logs import get_logger
from bidstream_svc.operator.key_fetch import FetchedKeys, open_cached_keys

_log = get_logger(__name__)

MAX_FILE_BYTES = 64 * 1024 * 1024

# Far longer than a write takes.
_LEFTOVER_AGE_S = 600


class KeyCache:
    """The cache file. Its methods log failures and never raise.

    Args:
        path: the file, or a symbolic link to it; its directory must exist.
        client_secret: returns the secret (32 bytes) that decrypts the response; may raise a BidstreamError.
    """

    def __init__(self, path: Path, client_secret: Callable[[], bytes]) -> None:
        self._path = path
        self._client_secret = client_secret

    def load(self) -> FetchedKeys | None:
        """Load the keys. Returns None if there is no file, or it cannot be read or decrypted.

        Only a regular file of at most MAX_FILE_BYTES is read.
        """
        try:
            wire = read_regular_file(self._path, MAX_FILE_BYTES)
            return open_cached_keys(wire, self._client_secret())
        except FileNotFoundError:
            _log.info("key cache is empty", path=str(self._path))
        except OSError as error:
            _log.warning("key cache ignored", path=str(self._path), error=error.strerror)
        except BidstreamError as error:
            _log.warning("key cache ignored", path=str(self._path), error=str(error))
        return None

    def save(self, wire: bytes) -> bool:
        """Replace the file atomically: readers see the old or the new response, even after a crash.

        Args:
            wire: the response as the operator sent it, encrypted.

        Returns:
            Whether the file was written.
        """
        target = self._target()
        try:
            with suppress(FileNotFoundError):
                require_regular(target.stat())  # as root, /dev/null could be replaced
            _remove_leftovers(target)
            _replace(target, wire)
        except OSError as error:
            _log.warning("key cache not written", path=str(self._path), error=error.strerror)
            return False
        return True

    def _target(self) -> Path:
        """The file that the path leads to through symbolic links; it need not exist."""
        return Path(os.path.realpath(self._path))


def _replace(target: Path, content: bytes) -> None:
    """Write a new file, flush it to disk, and rename it to `target`."""
    # The name is random, because several processes may save at the same time. In two containers their ids may be equal.
    descriptor, temporary = tempfile.mkstemp(".new", f".{target.name}.", target.parent)
    try:
        with os.fdopen(descriptor, "wb") as file:
            file.write(content)
            file.flush()
            os.fsync(descriptor)
        os.replace(temporary, target)  # noqa: PTH105 - what mkstemp returns is a string
    except BaseException:
        os.unlink(temporary)  # noqa: PTH108
        raise


def _remove_leftovers(target: Path) -> None:
    """Remove old temporary files of processes that ended while they saved."""
    pattern = re.compile(rf"\.{re.escape(target.name)}\.[a-z0-9_]{{8}}\.new")
    newest_s = wall_clock_ms() / MS_PER_S - _LEFTOVER_AGE_S
    for path in target.parent.iterdir():
        if pattern.fullmatch(path.name):
            with suppress(FileNotFoundError):  # another process has removed or renamed it
                if path.lstat().st_mtime < newest_s:
                    path.unlink()
