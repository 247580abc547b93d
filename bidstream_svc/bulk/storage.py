"""Where logs are: local paths, and the URLs of fsspec (`s3://`, `memory://`, ...) where it is installed."""

import errno
import os
from typing import NamedTuple
from urllib.parse import urlsplit

from pyarrow import fs

from bidstream_svc.bulk.url_storage import ForeignStorageError, UrlStorage
from bidstream_svc.core.errors import ConfigurationError


class Place(NamedTuple):
    """A file or directory.

    Attributes:
        filesystem: that has it.
        path: of it there; absolute if it is local.
    """

    filesystem: fs.FileSystem
    path: str

    @property
    def is_local(self) -> bool:
        """Whether it is a path of this host, so that rights, locks and fsync apply."""
        return isinstance(self.filesystem, fs.LocalFileSystem)

    def find(self) -> fs.FileInfo:
        """Return type, size and time of change; the type is NotFound if there is no such file."""
        return self.filesystem.get_file_info(self.path)

    def join(self, name: str) -> "Place":
        """Return a file below this directory."""
        return Place(self.filesystem, f"{self.path.rstrip('/')}/{name}")


def locate(url: str) -> Place:
    """Return the place of a local path or a URL.

    Raises:
        ConfigurationError: it is empty; fsspec, or what it needs for this URL, is not installed or cannot be used; the
            URL has a password; or the path is not UTF-8, which Arrow needs.
    """
    if not url:  # of a variable that is not set; it would be the working directory
        raise ConfigurationError("an empty path was given")
    try:
        url.encode()
    except UnicodeEncodeError:
        raise ConfigurationError(f"{url!a} is not in UTF-8; rename it") from None
    scheme, separator, rest = url.partition("://")
    if not separator:
        return Place(fs.LocalFileSystem(), absolute(url))
    if scheme in {"file", "local"}:
        return Place(fs.LocalFileSystem(), absolute(rest))
    if urlsplit(url).password is not None:
        # It would be written to records, and every user of the host can read arguments.
        raise ConfigurationError(f"{scheme}:// with a password; give credentials by files or the environment")
    try:
        from fsspec.core import url_to_fs  # noqa: PLC0415 - the user's own, where there is one

        filesystem, path = url_to_fs(url)
    except ImportError as error:
        needed = "fsspec" if error.name == "fsspec" else f"what fsspec needs for it ({error.name or 'see its docs'})"
        raise ConfigurationError(f"{scheme}:// needs {needed} to be installed") from None
    except ValueError:
        raise ConfigurationError(f"{scheme}:// is not known to fsspec") from None
    except Exception as error:  # noqa: BLE001 - whatever the library has for missing credentials, for example
        raise ConfigurationError(f"{scheme}:// cannot be used: {type(error).__name__}") from None
    return Place(fs.PyFileSystem(UrlStorage(filesystem)), path)


def absolute(url: str) -> str:
    """Return a local path as an absolute one, and a URL as it is."""
    return url if "://" in url else os.path.abspath(url)  # noqa: PTH100 - links keep their names


def describe_unreadable(error: OSError) -> str:
    """Why a file of the input is damaged, if storage does not give it."""
    return f"cannot be read: {describe(error)}"


def describe(error: OSError) -> str:
    """The reason of an error of storage, without what else its message may hold."""
    if isinstance(error, ForeignStorageError):
        return str(error.strerror)
    reason = os.strerror(error.errno) if error.errno else type(error).__name__
    is_full = error.errno in {errno.ENOSPC, errno.EDQUOT}
    return f"{reason}; when there is space, the same command goes on" if is_full else reason
