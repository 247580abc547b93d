"""What /proc says of processes."""

import os
import signal
import sys
from contextlib import suppress
from pathlib import Path


def children(pid: int) -> list[int]:
    """The processes that a process has started and that run."""
    return [int(child) for child in Path(f"/proc/{pid}/task/{pid}/children").read_text("ascii").split()]


def resident_bytes(pid: int) -> int:
    pages = int(Path(f"/proc/{pid}/statm").read_text("ascii").split()[1])
    return pages * os.sysconf("SC_PAGE_SIZE")


def ended(pid: int) -> bool:
    """Whether a process has ended; its parent may not have collected the exit status yet."""
    try:
        status = Path(f"/proc/{pid}/stat").read_text()
    except (FileNotFoundError, ProcessLookupError):
        return True
    return status.rpartition(")")[2].split()[0] in {"Z", "X"}


def sockets_of(pid: int) -> int:
    """How many sockets a process holds."""
    count = 0
    for descriptor in Path(f"/proc/{pid}/fd").iterdir():
        with suppress(FileNotFoundError):
            count += str(descriptor.readlink()).startswith("socket:")
    return count


def exit_on_sigterm() -> None:
    """End this program by an exception on SIGTERM, so that what it has started is stopped, too."""
    signal.signal(signal.SIGTERM, lambda number, _frame: sys.exit(128 + number))
