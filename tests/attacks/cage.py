"""A memory cgroup for a process and its children, of version 1 or 2; where none may be made, `ulimit -v`."""

import os
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from itertools import count
from pathlib import Path
from typing import NamedTuple

LIMIT_BYTES = 256 * 1024 * 1024  # what deploy/ gives
# Per process, and of addresses, which threads and libraries take more of than of memory.
ADDRESS_SPACE_BYTES = 1024 * 1024 * 1024
_V1, _V2 = Path("/sys/fs/cgroup/memory"), Path("/sys/fs/cgroup")
_REMOVAL_S = 5.0
_NAME = "bidstream-attacks"
_numbers = count()
_ENTER = 'for file in $0; do echo $$ >"$file"; done; ulimit -n {files}; ulimit -v {addresses}; exec "$@"'


class _Files(NamedTuple):
    """Where a version keeps what is needed; `sockets` is what version 2 counts as memory anyway."""

    limit: str
    peak: str
    kills: str
    sockets: tuple[str, str] | None


_OF_V1 = _Files(
    "memory.limit_in_bytes",
    "memory.max_usage_in_bytes",
    "memory.oom_control",
    ("memory.kmem.tcp.limit_in_bytes", "memory.kmem.tcp.max_usage_in_bytes"),
)
_OF_V2 = _Files("memory.max", "memory.peak", "memory.events", None)


class Cage:
    """What a caged process may use, and what it used.

    Args:
        cgroup: its directory; None where there is none.
    """

    def __init__(self, cgroup: Path | None, files: _Files = _OF_V2) -> None:
        self._cgroup = cgroup
        self._files = files

    @property
    def description(self) -> str:
        if self._cgroup is None:
            return f"`ulimit -v` of {ADDRESS_SPACE_BYTES >> 20} MiB a process, for want of a writable memory cgroup"
        return f"a memory cgroup of {LIMIT_BYTES >> 20} MiB"

    def program(self, program: tuple[str, ...], max_files: int) -> tuple[str, ...]:
        """The command line that runs a program in here with this `ulimit -n`, soft and hard."""
        addresses = "unlimited" if self._cgroup else str(ADDRESS_SPACE_BYTES >> 10)
        enter = _ENTER.format(files=max_files, addresses=addresses)
        return ("sh", "-euc", enter, str(self._cgroup / "cgroup.procs") if self._cgroup else "", *program)

    @property
    def peak_bytes(self) -> int | None:
        """The most that all processes together used; None if nothing counts it."""
        return self._read(self._files.peak)

    @property
    def socket_bytes(self) -> int | None:
        """The most that TCP's buffers took besides; None where they are part of the peak."""
        return self._read(self._files.sockets[1]) if self._files.sockets else None

    @property
    def kills(self) -> int:
        """Processes that were killed for want of memory."""
        if self._cgroup is None:
            return 0
        lines = dict(line.split() for line in (self._cgroup / self._files.kills).read_text("ascii").splitlines())
        return int(lines["oom_kill"])

    def _read(self, name: str) -> int | None:
        if self._cgroup is None or not (self._cgroup / name).exists():  # memory.peak came with Linux 5.19
            return None
        return int((self._cgroup / name).read_text("ascii"))


def _make() -> Cage:
    name = f"{_NAME}-{os.getpid()}-{next(_numbers)}"
    for parent, files in ((_V1, _OF_V1), (_V2, _OF_V2)):
        _remove_stale(parent)
        cgroup = parent / name
        with suppress(OSError):
            cgroup.mkdir()
            try:
                _set_limit(cgroup / files.limit)
            except OSError:  # no cgroup file system is mounted here, or it has no memory controller
                cgroup.rmdir()
                raise
            if files.sockets:
                with suppress(OSError):
                    _set_limit(cgroup / files.sockets[0])  # else they are not counted
            return Cage(cgroup, files)
    return Cage(None)


def _remove_stale(parent: Path) -> None:
    """Remove what a run left behind that was killed."""
    for cgroup in parent.glob(f"{_NAME}-*"):
        if not Path("/proc", cgroup.name.split("-")[-2]).exists():
            with suppress(OSError):
                cgroup.rmdir()


def _set_limit(file: Path) -> None:
    with file.open("r+") as existing:
        existing.write(str(LIMIT_BYTES))


@contextmanager
def cage() -> Iterator[Cage]:
    """A cage that is removed at the end of the block, when its processes have ended."""
    made = _make()
    try:
        yield made
    finally:
        if made._cgroup is not None:
            _remove(made._cgroup)


def _remove(cgroup: Path) -> None:
    deadline_s = time.monotonic() + _REMOVAL_S
    while True:
        try:
            cgroup.rmdir()
        except OSError:  # its last process is being reaped
            if time.monotonic() > deadline_s:
                raise
            time.sleep(0.05)
        else:
            return
