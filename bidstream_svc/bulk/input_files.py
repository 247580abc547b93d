"""The files of a run's inputs: what is in directories, and what of it cannot be read.

A directory of this host is walked here, because Arrow passes over links that lead nowhere, and gives up at a directory
that it may not list.
"""

import os
import stat
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace

from pyarrow import fs

from bidstream_svc.bulk.storage import Place, absolute, describe, describe_unreadable, locate
from bidstream_svc.core.errors import ConfigurationError

_IGNORED = ("_", ".")  # as Hive, Spark and Arrow do
_NOT_REGULAR = "not a regular file"


@dataclass(frozen=True, slots=True, kw_only=True)
class InputFile:
    """A file of an input, or what cannot be read in its place.

    Attributes:
        url: path or URL of it.
        name: relative to the input, with `/`.
        place: of it.
        size: in bytes.
        mtime_ns: when it was last changed, Unix ns; None where storage does not say.
        problem: why it cannot be read; None if it is a regular file.
    """

    url: str
    name: str
    place: Place
    size: int = 0
    mtime_ns: int | None = None
    problem: str | None = None


def find_files(inputs: Sequence[str], output: str | None = None) -> Iterator[InputFile]:
    """Find the files of all inputs, in order.

    Names that begin with `_` or `.` are left out below directories. Links are followed.

    Args:
        inputs: paths and URLs of files and directories.
        output: path or URL of the output directory, which may not be below one of them.

    Raises:
        ConfigurationError: an input is missing or cannot be listed, the output directory is in one, or a file or
            directory would be read twice.
    """
    claims = _Claims(output)
    for url in inputs:
        try:
            yield from _find(url, locate(url), claims)
        except UnicodeError:
            raise ConfigurationError(f"a name below {url} is not in UTF-8; rename it") from None
        except OSError as error:
            raise ConfigurationError(f"cannot read {url}: {describe(error)}") from None


class _Claims:
    """What is read, by where it is, so that nothing is read twice: by links, or because it was given twice."""

    def __init__(self, output: str | None) -> None:
        self._output = output
        self._target = None if output is None else _real(locate(output), output)
        self._urls: dict[str, str] = {}

    def add_file(self, place: Place, url: str) -> None:
        self._add(_real(place, url), url)

    def add_directory(self, place: Place, url: str) -> None:
        directory = _real(place, url)
        # The next run would read the output of this one.
        if self._target is not None and f"{self._target}/".startswith(f"{directory}/"):
            raise ConfigurationError(f"{self._output} is in {url}, which is an input; choose a directory beside it")
        self._add(directory, url)

    def _add(self, real: str, url: str) -> None:
        other = self._urls.get(real)
        if other == url:
            raise ConfigurationError(f"{url} is given twice")
        if other is not None:
            raise ConfigurationError(f"{url} is the same as {other}, and would be read twice")
        self._urls[real] = url


def _real(place: Place, url: str) -> str:
    return (os.path.realpath(place.path) if place.is_local else url).rstrip("/")


def _find(url: str, root: Place, claims: _Claims) -> Iterator[InputFile]:
    info = root.find()
    own_url = absolute(url).rstrip("/")
    if info.type == fs.FileType.NotFound:
        raise ConfigurationError(f"{url}: no such file or directory")
    if info.type == fs.FileType.Directory:
        claims.add_directory(root, own_url)
        walk = _walk if root.is_local else _list
        yield from walk(root, own_url, claims)
        return
    claims.add_file(root, own_url)
    if info.type != fs.FileType.File:
        raise ConfigurationError(f"{url}: {_NOT_REGULAR}")
    yield InputFile(url=own_url, name=info.base_name, place=root, size=info.size, mtime_ns=info.mtime_ns)


def _list(root: Place, url: str, claims: _Claims) -> Iterator[InputFile]:
    """The files below a directory at a URL."""
    start = len(root.path.rstrip("/")) + 1
    found = root.filesystem.get_file_info(fs.FileSelector(root.path, recursive=True))
    for info in sorted(found, key=lambda each: each.path):
        name = info.path[start:]
        if info.type != fs.FileType.Directory and not any(part.startswith(_IGNORED) for part in name.split("/")):
            file = InputFile(
                url=f"{url}/{name}",
                name=name,
                place=Place(root.filesystem, info.path),
                size=info.size or 0,
                mtime_ns=info.mtime_ns,
                problem=None if info.type == fs.FileType.File else _NOT_REGULAR,
            )
            claims.add_file(file.place, file.url)
            yield file


def _walk(root: Place, url: str, claims: _Claims) -> Iterator[InputFile]:
    """The files below a directory of this host."""
    for name in _names_in(root.path):
        yield from _inspect(InputFile(url=f"{url}/{name}", name=name, place=root.join(name)), claims)


def _inspect(file: InputFile, claims: _Claims) -> Iterator[InputFile]:
    """A file, those below it if it is a directory, or why it cannot be read."""
    path = file.place.path
    try:
        status = os.stat(path)  # noqa: PTH116 - a Place has text
        names = _names_in(path) if stat.S_ISDIR(status.st_mode) else []
    except OSError as error:
        leads_nowhere = isinstance(error, FileNotFoundError) and os.path.islink(path)  # noqa: PTH114
        reason = "a symbolic link that leads nowhere" if leads_nowhere else describe_unreadable(error)
        yield replace(file, problem=reason)
        return
    if stat.S_ISDIR(status.st_mode):
        claims.add_directory(file.place, file.url)
        for name in names:
            below = InputFile(url=f"{file.url}/{name}", name=f"{file.name}/{name}", place=file.place.join(name))
            yield from _inspect(below, claims)
    elif stat.S_ISREG(status.st_mode):
        claims.add_file(file.place, file.url)
        yield replace(file, size=status.st_size, mtime_ns=status.st_mtime_ns)
    else:
        yield replace(file, problem=_NOT_REGULAR)  # a FIFO could be waited for without end


def _names_in(path: str) -> list[str]:
    """The names in a directory, sorted.

    Raises:
        OSError: it cannot be listed.
        UnicodeError: a name is not in UTF-8.
    """
    names = sorted(name for name in os.listdir(path) if not name.startswith(_IGNORED))  # noqa: PTH208
    for name in names:
        name.encode()
    return names
