"""A cache on disk of the last good key response, for a start while the operator cannot be reached.

The file holds the response as the operator encrypted it. Without the client secret it cannot be decrypted.
"""

import os
from collections.abc import Callable
from pathlib import Path

from bidstream_svc.core.errors import BidstreamError
from bidstream_svc.core.keys import KeySnapshot
from bidstream_svc.logs import get_logger
from bidstream_svc.operator.key_fetch import open_cached_keys

_log = get_logger(__name__)

_FILE_MODE = 0o600


class KeyCache:
    """The cache file. Loading and saving log failures and never raise.

    Args:
        path: the file; its directory must exist.
        client_secret: returns the secret (32 bytes) that decrypts the response; may raise a BidstreamError.
    """

    def __init__(self, path: Path, client_secret: Callable[[], bytes]) -> None:
        self._path = path
        self._client_secret = client_secret

    def load(self) -> KeySnapshot | None:
        """Load the keys. Returns None if the file is missing or cannot be read or decrypted."""
        try:
            return open_cached_keys(self._path.read_bytes(), self._client_secret())
        except FileNotFoundError:
            _log.info("key cache is empty", path=str(self._path))
        except OSError as error:
            _log.warning("key cache ignored", path=str(self._path), error=error.strerror)
        except BidstreamError as error:
            _log.warning("key cache ignored", path=str(self._path), error=str(error))
        return None

    def save(self, wire: bytes) -> None:
        """Replace the file atomically: readers see the old or the new response, even after a crash."""
        # Several workers may save at the same time, so each has its own temporary file.
        temporary = self._path.with_name(f"{self._path.name}.{os.getpid()}.new")
        try:
            descriptor = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, _FILE_MODE)
            try:
                with os.fdopen(descriptor, "wb") as file:
                    file.write(wire)
                    file.flush()
                    os.fsync(file.fileno())
                temporary.replace(self._path)
            finally:
                temporary.unlink(missing_ok=True)
        except OSError as error:
            _log.warning("key cache not written", path=str(self._path), error=error.strerror)
