"""The output directory: files that appear whole or not at all, and beside them the records of what is done.

    DIR/a.parquet                  output, renamed from below `_bulk/tmp` when it is whole
    DIR/_bulk/run.json             the run's options
    DIR/_bulk/parts/a.parquet.json the record of that file, written before the file gets its name
    DIR/_bulk/tmp/                 what is being written
    DIR/_bulk/lock                 held while a run writes

Raw uids are personal data: files are readable by their owner alone. A directory with the setgid bit, which the user has
made, is shared with its group, and so are the files then.
"""

import fcntl
import os
import posixpath
import stat
import uuid
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import msgspec
import pyarrow as pa
from pyarrow import fs

from bidstream_svc.bulk.storage import Place, describe, locate
from bidstream_svc.core.errors import ConfigurationError
from bidstream_svc.files import sync

CONTROL = "_bulk"
_RUN = f"{CONTROL}/run.json"
_PARTS = f"{CONTROL}/parts"
_TEMPORARY = f"{CONTROL}/tmp"  # noqa: S108 - below the output directory
_LOCK = f"{CONTROL}/lock"


class OutputDirectory:
    """An output directory, local or not. Any thread may use it.

    Args:
        url: path or URL of it.

    Attributes:
        place: of it.
        mode: rights of its files.
    """

    def __init__(self, url: str) -> None:
        self.place = locate(url)
        self.mode = 0o600
        self._directory_mode = 0o700
        if self.place.is_local and (path := Path(self.place.path)).is_dir():
            mode = path.stat().st_mode
            if mode & stat.S_ISGID:
                self.mode |= mode & 0o060
                self._directory_mode |= stat.S_ISGID | mode & 0o070

    def prepare(self) -> None:
        """Make the directories that are not there.

        Raises:
            ConfigurationError: they cannot be made.
        """
        for name in ("", _PARTS, _TEMPORARY):
            try:
                self._make_directory(self.place.join(name).path)
            except OSError as error:
                raise ConfigurationError(f"cannot make {self.place.path}: {describe(error)}") from None

    @contextmanager
    def lock(self) -> Iterator[None]:
        """Keep other runs out, where the directory is local.

        Raises:
            ConfigurationError: another run writes to it.
        """
        if not self.place.is_local:
            yield
            return
        descriptor = os.open(self.place.join(_LOCK).path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, self.mode)
        try:
            try:
                fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                raise ConfigurationError(f"another run writes to {self.place.path}") from None
            yield
        finally:
            os.close(descriptor)

    def clear_temporary(self) -> None:
        """Remove what earlier runs have left unfinished."""
        self.place.filesystem.delete_dir_contents(self.place.join(_TEMPORARY).path, missing_dir_ok=True)

    def read_run(self) -> dict[str, Any] | None:
        """The options of the run that has begun here, or None."""
        return self._read_json(_RUN)

    def write_run(self, run: dict[str, Any]) -> None:
        """Keep the options of a run."""
        self._write_json(_RUN, run)

    def read_records(self) -> Iterator[tuple[str, dict[str, Any]]]:
        """The names of output files that have a record, and the records."""
        root = self.place.join(_PARTS).path
        selector = fs.FileSelector(root, recursive=True, allow_not_found=True)
        for info in self.place.filesystem.get_file_info(selector):
            if info.type == fs.FileType.File and info.path.endswith(".json"):
                name = info.path[len(root.rstrip("/")) + 1 :]
                if (record := self._read_json(f"{_PARTS}/{name}")) is not None:
                    yield name.removesuffix(".json"), record

    def sizes(self) -> dict[str, int]:
        """The names of the output files that are there, and their sizes in bytes."""
        root = self.place.path.rstrip("/") + "/"
        found = self.place.filesystem.get_file_info(fs.FileSelector(self.place.path, recursive=True))
        names = ((info.path[len(root) :], info.size) for info in found if info.type == fs.FileType.File)
        return {name: size for name, size in names if not name.startswith(f"{CONTROL}/")}

    def discard(self, name: str) -> None:
        """Remove an output file and its record, in this order."""
        for path in (name, f"{_PARTS}/{name}.json"):
            with suppress(FileNotFoundError):
                self.place.filesystem.delete_file(self.place.join(path).path)

    @contextmanager
    def temporary_file(self) -> Iterator["TemporaryFile"]:
        """A new file aside, which is removed at the end of the `with` unless it was published."""
        place = self.place.join(f"{_TEMPORARY}/{uuid.uuid4().hex}")
        if place.is_local:
            os.close(os.open(place.path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, self.mode))
        stream = place.filesystem.open_output_stream(place.path, compression=None)
        file = TemporaryFile(place, stream)
        try:
            yield file
        finally:
            # Where storage is full, closing fails, too; the first error is told.
            with suppress(OSError, pa.ArrowException):
                stream.close()
            with suppress(OSError):
                place.filesystem.delete_file(place.path)

    def publish(self, file: "TemporaryFile", name: str, record: dict[str, Any]) -> None:
        """Give a finished file its name, after its record is written."""
        self._write_json(f"{_PARTS}/{name}.json", record)
        self._move(file.place, name)

    def _make_directory(self, path: str) -> None:
        if not self.place.is_local:
            self.place.filesystem.create_dir(path, recursive=True)
            return
        for directory in reversed([Path(path), *Path(path).parents]):
            if not directory.is_dir():
                # Another thread may make it, too. With `parents`, those would have the usual rights.
                directory.mkdir(self._directory_mode, exist_ok=True)
                with suppress(PermissionError):  # names may be added where they may not be listed
                    sync(directory.parent)

    def _read_json(self, name: str) -> dict[str, Any] | None:
        place = self.place.join(name)
        try:
            with place.filesystem.open_input_stream(place.path, compression=None) as file:
                return msgspec.json.decode(file.read(), type=dict[str, Any])
        except FileNotFoundError:
            return None
        except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError):
            return {}  # of another version, damaged, or not ours

    def _write_json(self, name: str, value: dict[str, Any]) -> None:
        with self.temporary_file() as file:
            file.stream.write(msgspec.json.encode(value))
            file.finish()
            self._move(file.place, name)

    def _move(self, source: Place, name: str) -> None:
        target = self.place.join(name).path
        directory = posixpath.dirname(target)
        self._make_directory(directory)
        self.place.filesystem.move(source.path, target)
        if self.place.is_local:
            sync(directory)


class TemporaryFile:
    """A file that is being written.

    Attributes:
        place: of it.
        stream: writes to it.
    """

    def __init__(self, place: Place, stream: pa.NativeFile) -> None:
        self.place = place
        self.stream = stream

    def finish(self) -> int:
        """Close the file once it is on disk, and return its size in bytes.

        Raises:
            OSError: storage failed, or is full.
        """
        self.stream.close()
        if self.place.is_local:
            sync(self.place.path)
        return int(self.place.find().size)
