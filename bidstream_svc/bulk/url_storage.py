"""File systems of fsspec as Arrow uses them. Their failures are OSErrors, as those of this host are.

Implementations raise what their libraries do: botocore, google-auth and aiohttp have exceptions of their own.
"""

import errno
from collections.abc import Callable
from functools import partial
from typing import Any

import pyarrow as pa
from pyarrow import fs

_ERROR_NUMBERS = {
    FileNotFoundError: errno.ENOENT,
    FileExistsError: errno.EEXIST,
    NotADirectoryError: errno.ENOTDIR,
    IsADirectoryError: errno.EISDIR,
    PermissionError: errno.EACCES,
    TimeoutError: errno.ETIMEDOUT,
}


class ForeignStorageError(OSError):
    """An exception of a library of storage, named by its type only: its message may hold anything.

    Args:
        error: the exception.
    """

    def __init__(self, error: BaseException) -> None:
        super().__init__(errno.EIO, type(error).__name__)


class UrlStorage(fs.FSSpecHandler):  # type: ignore[misc]
    """A file system of fsspec.

    fsspec says that there is no such file, or that a directory is empty, where it could not find out. That is an error
    here.

    Args:
        filesystem: of fsspec.
    """

    def __init__(self, filesystem: Any) -> None:
        super().__init__(_Guarded(filesystem))

    def get_file_info_selector(self, selector: fs.FileSelector) -> list[fs.FileInfo]:
        """List a directory."""
        found: list[fs.FileInfo] = []
        directories = [selector.base_dir]
        try:
            while directories:
                inside = self._list(directories.pop())
                found += inside
                if selector.recursive:
                    directories += [info.path for info in inside if info.type == fs.FileType.Directory]
        except FileNotFoundError:
            if found or not selector.allow_not_found:
                raise
        return found

    def delete_file(self, path: str) -> None:
        """Delete a file."""
        self.fs.info(path)  # fails if it is not there; `exists` says so as well if it could not find out
        self.fs.rm(path)

    def open_input_stream(self, path: str) -> pa.PythonFile:
        """Open a file to read it."""
        return self.open_input_file(path)

    def open_input_file(self, path: str) -> pa.PythonFile:
        """Open a file to read it."""
        return pa.PythonFile(self.fs.open(path, mode="rb"), mode="r")

    def _list(self, directory: str) -> list[fs.FileInfo]:
        listed = self.fs.ls(directory, detail=True)
        # Object stores may list the directory itself, or a file under the name of a directory.
        inside = (each for each in listed if each["name"].strip("/") != directory.strip("/"))
        return [self._create_file_info(each["name"], each) for each in inside]


class _Guarded:
    """A file system of fsspec, or a file that it has opened; methods raise no other exceptions than OSErrors."""

    def __init__(self, target: Any) -> None:
        self._target = target

    def __getattr__(self, name: str) -> Any:
        value = getattr(self._target, name)
        return partial(_call, value) if callable(value) else value

    def open(self, path: str, mode: str) -> "_Guarded":
        return _Guarded(_call(self._target.open, path, mode=mode))


def _call(method: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
    try:
        return method(*args, **kwargs)
    except OSError as error:
        if error.errno is None:  # Arrow would take it for a fault of the data
            error.errno = _ERROR_NUMBERS.get(type(error), errno.EIO)
        raise
    except MemoryError:
        raise
    except Exception as error:  # noqa: BLE001
        raise ForeignStorageError(error) from None
