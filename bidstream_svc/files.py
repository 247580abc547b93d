"""Reading files that others write: the key cache, certificates, and files with a secret. Writing so that it lasts."""

import codecs
import errno
import os
import stat
from pathlib import Path

from bidstream_svc.core.errors import ConfigurationError

MAX_SECRET_FILE_BYTES = 64 * 1024

_BYTE_ORDER_MARKS = (codecs.BOM_UTF8, codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)


def read_regular_file(path: Path, max_bytes: int) -> bytes:
    """Read a file, which may be a symbolic link to one. A FIFO or a device is refused without waiting for it.

    Raises:
        OSError: it cannot be read, is not a regular file, or has more than `max_bytes` bytes.
    """
    with open(path, "rb", opener=_open_without_waiting) as file:
        status = os.fstat(file.fileno())
        require_regular(status)
        # A file may grow between the two, and a sparse one may have any size.
        content = b"" if status.st_size > max_bytes else file.read(max_bytes + 1)
        if max(status.st_size, len(content)) > max_bytes:
            raise OSError(errno.EFBIG, f"Larger than {max_bytes} bytes")
        return content


def require_regular(status: os.stat_result) -> None:
    """Raise OSError for the status of a directory, FIFO, socket or device."""
    if stat.S_ISDIR(status.st_mode):
        raise OSError(errno.EISDIR, os.strerror(errno.EISDIR))
    if not stat.S_ISREG(status.st_mode):
        raise OSError(errno.EINVAL, "Not a regular file")


def read_file(path: Path, variable: str, max_bytes: int) -> bytes:
    """Read a file that a setting names, as `read_regular_file` does.

    Raises:
        ConfigurationError: it cannot be read. The message names the environment variable `variable`.
    """
    try:
        return read_regular_file(path, max_bytes)
    except OSError as error:
        raise ConfigurationError(f"{variable}: cannot read {path}: {error.strerror}") from None


def read_secret_file(path: Path, variable: str) -> bytes:
    """Read a file that contains one secret on one line, without the whitespace around it.

    Args:
        path: the file, at most MAX_SECRET_FILE_BYTES long.
        variable: the environment variable that names the file, for the error.

    Raises:
        ConfigurationError: it cannot be read, is not a regular file, is empty or too long, begins with a byte order
            mark, or contains more than one line. The message does not contain the content.
    """
    content = read_file(path, variable, MAX_SECRET_FILE_BYTES)
    secret = content.strip()
    if content.startswith(_BYTE_ORDER_MARKS):
        raise ConfigurationError(f"{variable}: {path} begins with a byte order mark; remove it")
    if not secret:
        raise ConfigurationError(f"{variable}: {path} is empty")
    if len(secret.splitlines()) > 1:
        raise ConfigurationError(f"{variable}: {path} has more than one line")
    return secret


def sync(path: str | Path) -> None:
    """Return when the content of a file, or the names in a directory, would survive a loss of power.

    Raises:
        OSError: it cannot be opened, or the disk fails.
    """
    descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _open_without_waiting(path: str, flags: int) -> int:
    return os.open(path, flags | os.O_NONBLOCK | os.O_NOCTTY)
