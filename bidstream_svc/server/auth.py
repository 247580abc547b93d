"""The optional bearer token of the data plane. Its file may change while the service runs."""

from hmac import compare_digest
from pathlib import Path

from bidstream_svc.core.errors import ConfigurationError
from bidstream_svc.files import read_secret_file
from bidstream_svc.logs import get_logger

_log = get_logger(__name__)

_SCHEME = "bearer "


class BearerToken:
    """Compares `Authorization` headers with the token in a file, in constant time.

    Args:
        path: the file, as for `read_secret_file`.

    Raises:
        ConfigurationError: as for `read_secret_file`.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        self._version = _version(path)
        self._token = _read(path)

    def __repr__(self) -> str:
        """Return a representation without the token."""
        return f"BearerToken({str(self._path)!r})"

    def matches(self, authorization: str | None) -> bool:
        """Return whether an `Authorization` header (None if absent) holds the token."""
        if authorization is None or authorization[: len(_SCHEME)].lower() != _SCHEME:
            return False
        provided = authorization[len(_SCHEME) :].strip().encode("utf-8", "surrogateescape")
        return compare_digest(provided, self._token)

    def reload(self) -> bool:
        """Read the file again if it has changed. Returns whether the token differs from before.

        If the file is not valid, the old token stays valid, and the error is logged once per change of the file.
        """
        version = _version(self._path)
        if version == self._version:
            return False
        self._version = version
        old = self._token
        try:
            self._token = _read(self._path)
        except ConfigurationError as error:
            _log.warning("bearer token not reloaded", error=str(error))
        return self._token != old


def _version(path: Path) -> tuple[int, ...] | None:
    """Return a value that changes with the file's content, or None if there is no file.

    The modification time alone can be set back; the time of the last status change cannot.
    """
    try:
        status = path.stat()
    except OSError:
        return None
    return status.st_mtime_ns, status.st_ctime_ns, status.st_ino, status.st_size


def _read(path: Path) -> bytes:
    return read_secret_file(path, "BIDSTREAM_AUTH_TOKEN_FILE")
