"""The supervisor as a real parent process, with workers of every kind."""

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from bidstream_svc.core.errors import WorkersError
from bidstream_svc.server.supervisor import Supervisor, Work
from tests.support.processes import ended
from tests.support.sidecar import DEADLINE_S, wait_until

ROOT = Path(__file__).parents[2]


class Parent:
    """A running `supervised.py`."""

    def __init__(self, directory: Path, kind: str, *changes: str, **environment: str) -> None:
        self._stdout, self._stderr = directory / "stdout", directory / "stderr"
        with self._stdout.open("wb") as stdout, self._stderr.open("wb") as stderr:
            self.process = subprocess.Popen(
                [sys.executable, "-m", "tests.workers.supervised", kind, *changes],
                stdout=stdout,
                stderr=stderr,
                cwd=ROOT,
                env=os.environ | environment,
            )

    @property
    def events(self) -> list[dict[str, Any]]:
        return [json.loads(line) for line in self._stdout.read_text().splitlines()]

    @property
    def stderr(self) -> str:
        return self._stderr.read_text()

    def count(self, event: str) -> int:
        return sum(entry["event"] == event for entry in self.events)

    def pids(self) -> dict[int, int]:
        """The latest process of each worker."""
        return {entry["worker"]: entry["pid"] for entry in self.events if entry["event"] == "work"}

    def wait_for(self, event: str, times: int) -> None:
        wait_until(lambda: self.count(event) >= times, f"{times} times {event}")

    def end(self) -> list[str]:
        """Wait for the end; all that happened."""
        assert self.process.wait(DEADLINE_S) == 0, self.stderr
        assert all(ended(pid) for pid in self.pids().values())
        assert self.events[-1]["event"] == "end"
        assert self.events[-1]["blocked"] == 0
        return [entry["event"] for entry in self.events]


@pytest.fixture
def start(tmp_path: Path) -> Iterator[Callable[..., Parent]]:
    parents = []

    def start_one(kind: str, *changes: str, **environment: str) -> Parent:
        parents.append(Parent(tmp_path, kind, *changes, **environment))
        return parents[-1]

    yield start_one
    for parent in parents:
        if parent.process.poll() is None:
            parent.process.kill()
        parent.process.wait(DEADLINE_S)


def test_ctrl_c_ends_it(start: Callable[..., Parent]) -> None:
    parent = start("end_by_sigterm")
    parent.wait_for("work", 2)
    parent.process.send_signal(signal.SIGINT)
    assert parent.end() == ["work", "work", "stop", "end"]


def test_sighup_is_forwarded(start: Callable[..., Parent]) -> None:
    parent = start("note_hangup")
    parent.wait_for("work", 2)
    wait_until(lambda: all(catches_hangup(pid) for pid in parent.pids().values()), "the handlers")
    parent.process.send_signal(signal.SIGHUP)
    parent.wait_for("hangup", 2)
    parent.process.terminate()
    assert sorted(parent.end()) == ["end", "hangup", "hangup", "reload", "stop", "work", "work"]


def test_sighup_before_the_handler_is_installed_is_ignored(start: Callable[..., Parent]) -> None:
    parent = start("end_by_sigterm")
    parent.wait_for("work", 2)
    for pid in parent.pids().values():
        os.kill(pid, signal.SIGHUP)
    parent.process.terminate()
    assert parent.end() == ["work", "work", "stop", "end"]
    assert '"exit_code": -' not in parent.stderr  # by no signal


def catches_hangup(pid: int) -> bool:
    caught = Path(f"/proc/{pid}/status").read_text().partition("SigCgt:")[2].split()[0]
    return bool(int(caught, 16) >> (signal.SIGHUP - 1) & 1)


def test_a_killed_worker_is_restarted(start: Callable[..., Parent]) -> None:
    parent = start("end_by_sigterm", "_GOOD_START_S=0")
    parent.wait_for("work", 2)
    # More often than the limit of failed starts.
    for times in range(1, 8):
        victim = parent.pids()[times % 2]
        os.kill(victim, signal.SIGKILL)
        parent.wait_for("work", 2 + times)
    assert parent.count("restart") == 7
    parent.process.terminate()
    assert parent.end().count("stop") == 1
    assert parent.stderr.count("worker ended") == 9


def test_five_failed_starts_end_the_supervisor(start: Callable[..., Parent]) -> None:
    parent = start("fail")
    events = parent.end()
    failed = [entry for entry in parent.events if entry["event"] == "work" and entry["worker"] == 0]
    assert len(failed) == 5
    assert events[-3:] == ["stop", "gave up", "end"]
    assert parent.events[-2]["error"] == "worker 0 died 5 times right after its start"
    assert events.count("restart") == 4
    # The other one was told to end, and did.
    assert len([entry for entry in parent.events if entry.get("worker") == 1]) == 2


def test_a_signal_ends_the_wait_for_a_restart(start: Callable[..., Parent]) -> None:
    parent = start("fail", "_FIRST_RESTART_DELAY_S=600")
    parent.wait_for("work", 3)  # worker 1 tells it twice
    wait_until(lambda: "worker ended" in parent.stderr, "the first death")
    parent.process.terminate()
    assert parent.end().count("restart") == 0


def test_a_worker_that_ignores_sigterm_is_killed(start: Callable[..., Parent]) -> None:
    parent = start("ignore_sigterm")
    parent.wait_for("work", 2)
    parent.process.terminate()
    assert parent.end() == ["work", "work", "stop", "end"]
    assert parent.events[-1]["lasted_s"] >= 0.2


def test_a_second_sigterm_is_forwarded(start: Callable[..., Parent]) -> None:
    parent = start("ignore_first_sigterm")
    parent.wait_for("work", 2)
    parent.process.terminate()
    # Two that are sent before a worker has met the first are one to it.
    parent.wait_for("drain", 2)
    parent.process.terminate()
    assert sorted(parent.end()) == ["drain", "drain", "end", "stop", "work", "work"]


def test_a_worker_without_its_parent_exits(start: Callable[..., Parent]) -> None:
    events = start("end_by_sigterm", orphans="1").end()
    assert events.count("work") == 0
    assert events[-2:] == ["gave up", "end"]


def test_workers_end_when_the_parent_is_killed(start: Callable[..., Parent]) -> None:
    parent = start("end_by_sigterm")
    parent.wait_for("work", 2)
    parent.process.kill()
    parent.process.wait(DEADLINE_S)
    wait_until(lambda: all(ended(pid) for pid in parent.pids().values()), "the workers to end")


def test_failed_starts_count_until_one_is_good() -> None:
    watched = Supervisor(Work(), 1, grace_s=0, stop_delay_s=0, hang_timeout_s=10)
    (worker,) = watched._workers

    def die_after(lived_s: float) -> tuple[float, float]:
        """Plan a restart; the least and the most time that the worker then waits for it."""
        before_s = time.monotonic()
        worker.started_s = before_s - lived_s
        watched._plan_restart(worker)
        return worker.start_due_s - time.monotonic(), worker.start_due_s - before_s

    for _ in range(2):
        for delay_s in (0.25, 0.5, 1, 2):
            least_s, most_s = die_after(0)
            assert least_s <= delay_s <= most_s
        least_s, most_s = die_after(10)
        assert least_s <= 0 <= most_s
    die_after(0)
    worker.is_hung = True
    least_s, most_s = die_after(0)
    assert least_s <= 0 <= most_s
    worker.is_hung = False
    for _ in range(4):
        die_after(0)
    with pytest.raises(WorkersError, match=r"^worker 0 died 5 times right after its start$"):
        die_after(0)


def hangs(parent: Parent) -> list[dict[str, Any]]:
    lines = [json.loads(line) for line in parent.stderr.splitlines(keepends=True) if line.endswith("}\n")]
    return [line for line in lines if line["event"] == "worker hung"]


def test_a_worker_that_loops_for_ever_is_replaced_and_the_log_says_where(start: Callable[..., Parent]) -> None:
    parent = start("hang_once")
    parent.wait_for("work", 2)
    victim = parent.pids()[0]
    parent.wait_for("restart", 1)
    parent.wait_for("work", 3)
    (line,) = hangs(parent)
    assert (line["level"], line["worker"], line["pid"]) == ("error", 0, victim)
    assert line["silent_s"] >= 1
    assert line["state"].startswith("R")
    assert "tests/workers/supervised.py" in line["stack"][0]
    assert line["stack"][0].endswith(" hang_where_it_is_logged")
    assert (parent.count("hung"), ended(victim)) == (1, True)
    # It is silent again, so it is replaced again. That it hung is not a failed start, however often.
    parent.wait_for("hung", 6)
    parent.process.terminate()
    assert parent.end()[-2:] == ["stop", "end"]


def test_a_stopped_worker_is_replaced(start: Callable[..., Parent]) -> None:
    parent = start("beat")
    parent.wait_for("work", 2)
    victim = parent.pids()[0]
    os.kill(victim, signal.SIGSTOP)
    parent.wait_for("work", 3)
    (line,) = hangs(parent)
    assert (line["pid"], line["state"], line["stack"]) == (victim, "T (stopped)", [])
    assert parent.count("hung") == 1
    parent.process.terminate()
    assert parent.end()[-2:] == ["stop", "end"]


def test_who_was_stopped_together_with_its_workers_gives_them_time(start: Callable[..., Parent]) -> None:
    parent = start("beat")
    parent.wait_for("work", 2)
    everyone = [parent.process.pid, *parent.pids().values()]
    for pid in everyone:
        os.kill(pid, signal.SIGSTOP)
    time.sleep(2.5)  # longer than the time-out
    for pid in everyone:  # the parent first, as the kernel might do when it thaws a control group
        os.kill(pid, signal.SIGCONT)
    time.sleep(2)
    assert parent.count("hung") == 0
    parent.process.terminate()
    assert parent.end() == ["work", "work", "stop", "end"]
