"""`serve --dev` on a real terminal that is closed: nothing may be left of it."""

import os
import pty
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import pytest

from tests.docs.markdown import ROOT
from tests.support.processes import ended
from tests.support.sidecar import DEADLINE_S, PROGRAM, environment, wait_until

LISTEN = {"listen": "127.0.0.1:0", "admin_listen": "127.0.0.1:0"}


def session_of(leader: int) -> list[int]:
    """The processes of a session that run."""
    found = []
    for entry in Path("/proc").iterdir():
        if entry.name.isdecimal():
            try:
                fields = (entry / "stat").read_text().rpartition(")")[2].split()
            except (FileNotFoundError, ProcessLookupError):
                continue
            if int(fields[3]) == leader and fields[0] not in {"Z", "X"}:
                found.append(int(entry.name))
    return found


class Terminal:
    """A program with a terminal of its own.

    Attributes:
        leader: the program, which leads the terminal's session.
    """

    def __init__(self, command: list[str], directory: Path) -> None:
        env = environment(LISTEN)
        self.leader, self._master = pty.fork()
        if self.leader == 0:
            os.chdir(directory)
            os.execvpe(command[0], command, env)  # noqa: S606 - this process becomes the program
        self.output = b""
        os.set_blocking(self._master, False)

    def read(self) -> bytes:
        with suppress(OSError):
            self.output += os.read(self._master, 65_536)
        return self.output

    def close(self) -> None:
        """As when its window is closed."""
        os.close(self._master)


@pytest.fixture
def started() -> Iterator[list[Terminal]]:
    terminals: list[Terminal] = []
    yield terminals
    for terminal in terminals:
        for pid in session_of(terminal.leader):
            os.kill(pid, signal.SIGKILL)
        with suppress(ChildProcessError):
            os.waitpid(terminal.leader, 0)


@pytest.mark.parametrize(
    "command",
    [
        [*PROGRAM, "serve", "--dev"],
        ["sh", "-c", f"{sys.executable} -m bidstream_svc serve --dev; exit"],
        ["make", "--no-print-directory", "run"],
    ],
    ids=["program", "shell", "make run"],
)
def test_nothing_is_left_of_it(started: list[Terminal], command: list[str]) -> None:
    terminal = Terminal(command, ROOT)
    started.append(terminal)
    wait_until(lambda: b"Press Ctrl-C" in terminal.read() or ended(terminal.leader), "the banner")
    assert b"Press Ctrl-C" in terminal.output, terminal.output
    processes = session_of(terminal.leader)
    assert processes
    terminal.close()
    wait_until(lambda: session_of(terminal.leader) == [], "all to end")


def test_nohup_lets_it_live(tmp_path: Path) -> None:
    with (tmp_path / "output").open("wb") as output:
        process = subprocess.Popen(
            ["nohup", *PROGRAM, "serve", "--dev"], env=environment(LISTEN), stdout=output, stderr=output, cwd=tmp_path
        )
    try:
        wait_until(lambda: b"Press Ctrl-C" in (tmp_path / "output").read_bytes(), "the banner")
        process.send_signal(signal.SIGHUP)
        with pytest.raises(subprocess.TimeoutExpired):
            process.wait(1)
        process.terminate()
        assert process.wait(DEADLINE_S) == 0
    finally:
        process.kill()
        process.wait(DEADLINE_S)


def test_sighup_lets_requests_end(tmp_path: Path) -> None:
    with (tmp_path / "output").open("wb") as output:
        process = subprocess.Popen(
            [*PROGRAM, "serve", "--dev"], env=environment(LISTEN), stdout=output, stderr=output, cwd=tmp_path
        )
    try:
        wait_until(lambda: b"Press Ctrl-C" in (tmp_path / "output").read_bytes(), "the banner")
        process.send_signal(signal.SIGHUP)
        assert process.wait(DEADLINE_S) == 0
        assert b"stopped" in (tmp_path / "output").read_bytes()
    finally:
        process.kill()
        process.wait(DEADLINE_S)
