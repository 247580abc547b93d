"""Where a process that hangs is executing, for the log.

The process writes its own stack into shared memory in a signal handler. faulthandler's is written in C, so it also runs
while a library called from Python does not return. It writes names of files and functions, and no values.
"""

import faulthandler
import os
import re
import signal
import time
from contextlib import suppress
from pathlib import Path

_SIGNAL = signal.SIGUSR2
_WAIT_S = 0.2
_POLL_S = 0.01
_CANNOT_RUN = frozenset("DTtZ")
_MAX_BYTES = 16 * 1024
_FRAME = re.compile(r'^  File "(.+)", line (\d+) in (.+)$', re.MULTILINE)


class StackDump:
    """The stack of one process, which inherits this object from its parent."""

    def __init__(self) -> None:
        self._descriptor = os.memfd_create("stack-dump")

    def arm(self) -> None:
        """Let this process write its stack on a signal. Call it in the process in question."""
        faulthandler.register(_SIGNAL, file=self._descriptor, all_threads=False)

    def take(self, pid: int) -> tuple[str, list[str]]:
        """Return the state of a process and its stack, innermost frame first.

        The stack is empty if the process cannot run, for example because it is stopped.

        Args:
            pid: a process that has called `arm` and has not been waited for.
        """
        state = _state_of(pid)
        if state[0] in _CANNOT_RUN:
            return state, []
        os.ftruncate(self._descriptor, 0)
        os.lseek(self._descriptor, 0, os.SEEK_SET)  # the offset is shared with the process
        os.kill(pid, _SIGNAL)
        deadline_s = time.monotonic() + _WAIT_S
        text = ""
        while time.monotonic() < deadline_s:
            time.sleep(_POLL_S)
            before, text = text, os.pread(self._descriptor, _MAX_BYTES, 0).decode("utf-8", "replace")
            if text and text == before:
                break
        frames = [f"{path.rpartition('site-packages/')[2]}:{line} {name}" for path, line, name in _FRAME.findall(text)]
        return state, frames


def _state_of(pid: int) -> str:
    """Return the state of a process in the kernel's words, such as `S (sleeping)` or `T (stopped)`."""
    with suppress(OSError):
        status = Path(f"/proc/{pid}/status").read_text("utf-8")
        if found := re.search(r"^State:\s*(.+)$", status, re.MULTILINE):
            return found[1]
    return "unknown"
