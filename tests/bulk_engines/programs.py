"""Programs that tests run, kill parts of, and leave nothing of."""

import os
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path

from tests.support.processes import ended
from tests.support.sidecar import wait_until

TIMEOUT_S = 240.0
BIN = Path(sys.executable).parent


class Program:
    """A process with all that it has started, which ends with the context."""

    def __init__(self, directory: Path, *command: str | Path, env: Mapping[str, str]) -> None:
        directory.mkdir(exist_ok=True)
        self._output, self._errors = directory / "output", directory / "errors"
        self._known: set[int] = set()
        with self._output.open("wb") as output, self._errors.open("wb") as errors:
            self.process = subprocess.Popen(
                list(map(str, command)),
                env=dict(env),
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=errors,
                cwd=directory,
                start_new_session=True,
            )

    @property
    def output(self) -> str:
        """What it has written to stdout, and behind it what to stderr."""
        return self._output.read_text("utf-8", "replace") + self.errors

    @property
    def errors(self) -> str:
        """What it has written to stderr."""
        return self._errors.read_text("utf-8", "replace")

    def descendants(self) -> list[int]:
        """The processes that it, or one of these, has started and that run."""
        found: list[int] = []
        waiting = [self.process.pid]
        while waiting:
            with suppress(FileNotFoundError, ProcessLookupError):
                more = _children_of_threads(waiting.pop())
                found += more
                waiting += more
        self._known.update(found)
        return found

    def find(self, is_it: Callable[[str], bool]) -> list[int]:
        """The descendants with such a command line."""
        found = []
        for pid in self.descendants():
            with suppress(FileNotFoundError, ProcessLookupError):
                if is_it(Path(f"/proc/{pid}/cmdline").read_bytes().replace(b"\0", b" ").decode("utf-8", "replace")):
                    found.append(pid)
        return found

    def wait_for(self, text: str) -> None:
        """Wait until it has written a text."""
        wait_until(lambda: text in self.output or self.process.poll() is not None, repr(text), TIMEOUT_S)
        assert text in self.output, self.output

    def wait(self) -> int:
        def has_ended() -> bool:
            self.descendants()
            return self.process.poll() is not None

        wait_until(has_ended, f"the end of {self.process.args!r}", TIMEOUT_S)
        return self.process.returncode

    def stop(self) -> None:
        """Kill what is left."""
        self.descendants()
        if self.process.poll() is None:
            self.process.kill()
        self.process.wait(TIMEOUT_S)
        for pid in self._known:
            with suppress(ProcessLookupError):
                if not ended(pid):
                    os.kill(pid, signal.SIGKILL)


def _children_of_threads(pid: int) -> list[int]:
    """What any thread has started; a JVM starts nothing from its first."""
    lists = [(task / "children").read_text("ascii") for task in Path(f"/proc/{pid}/task").iterdir()]
    return [int(child) for each in lists for child in each.split()]


@contextmanager
def running(directory: Path, *command: str | Path, env: Mapping[str, str]) -> Iterator[Program]:
    program = Program(directory, *command, env=env)
    try:
        yield program
    finally:
        program.stop()


def run(directory: Path, *command: str | Path, env: Mapping[str, str]) -> str:
    """Run a program that succeeds; what it wrote."""
    with running(directory, *command, env=env) as program:
        assert program.wait() == 0, program.output
        return program.output


def log_files(directories: Sequence[Path]) -> Iterator[Path]:
    """Regular files below some directories."""
    return (
        path for directory in directories for path in directory.rglob("*") if path.is_file() and not path.is_symlink()
    )
