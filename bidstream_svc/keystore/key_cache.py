"""A cache on disk of the last good key response, for a start while the operator cannot be reached.

The file holds the response as the operator encrypted it. Without the client secret it cannot be decrypted.
"""

import os
import re
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path

from bidstream_svc.core.errors import BidstreamError
from bidstream_svc.files import read_regular_file, require_regular
from bidstream_svc.logs import get_logger
from bidstream_svc.operator.key_fetch import FetchedKeys, open_cached_keys

_log = get_logger(__name__)

MAX_FILE_BYTES = 64 * 1024 * 1024

_FILE_MODE = 0o600


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
            return FetchedKeys(open_cached_keys(wire, self._client_secret()), wire)
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
        # Several workers may save at the same time, so each has its own temporary file.
        temporary = target.with_name(f"{target.name}.{os.getpid()}.new")
        try:
            with suppress(FileNotFoundError):
                require_regular(target.stat())  # as root, /dev/null could be replaced
            # An earlier process with this id may have left it, or another user may have made it a link.
            temporary.unlink(missing_ok=True)
            try:
                _write_new(temporary, wire)
                temporary.replace(target)
            finally:
                temporary.unlink(missing_ok=True)
        except OSError as error:
            _log.warning("key cache not written", path=str(self._path), error=error.strerror)
            return False
        return True

    def remove_leftovers(self) -> None:
        """Remove the temporary files of processes that ended while they saved. Call it before the first `save`."""
        with suppress(OSError):  # `load` and `save` report a directory that cannot be used
            for temporary, pid in self._temporaries():
                if pid == os.getpid() or not _is_running(pid):
                    temporary.unlink(missing_ok=True)

    def _temporaries(self) -> Iterator[tuple[Path, int]]:
        """Temporary files beside the cache file, with the id of the process that made each."""
        target = self._target()
        pattern = re.compile(rf"{re.escape(target.name)}\.([1-9][0-9]{{0,6}})\.new")
        for path in target.parent.iterdir():
            if match := pattern.fullmatch(path.name):
                yield path, int(match[1])

    def _target(self) -> Path:
        """The file that the path leads to through symbolic links; it need not exist."""
        return Path(os.path.realpath(self._path))


def _write_new(path: Path, content: bytes) -> None:
    """Write a file that must not exist, not even as a symbolic link, and flush it to disk."""
    descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW, _FILE_MODE)
    with os.fdopen(descriptor, "wb") as file:
        file.write(content)
        file.flush()
        os.fsync(file.fileno())


def _is_running(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except PermissionError:  # it is another user's
        return True
    return True
