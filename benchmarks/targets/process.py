"""Starts a server on one core, waits until it is ready, reads its resource usage, and stops it."""

import os
import socket
import subprocess
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass
from pathlib import Path

from benchmarks.machine import SERVER_CPU, on_cpu

_START_S = 30.0
_STOP_S = 15.0
_TICKS_PER_S = os.sysconf("SC_CLK_TCK")


@dataclass(frozen=True, slots=True)
class Server:
    """A running server.

    Attributes:
        tcp, unix: addresses in the format of the load generator; empty if it does not listen there.
        admin: address of the admin plane; empty without one.
    """

    pid: int
    tcp: str
    unix: str = ""
    admin: str = ""

    def cpu_s(self) -> tuple[float, float]:
        """User and system time used so far, children included."""
        times = [_cpu_s(pid) for pid in self._pids()]
        return sum(user for user, _ in times), sum(system for _, system in times)

    def memory_mb(self) -> dict[str, float]:
        """Resident and proportional set size of the process, in MB of 10^6 bytes."""
        kb = {}
        for line in Path(f"/proc/{self.pid}/smaps_rollup").read_text(encoding="utf-8").splitlines()[1:]:
            name, _, value = line.partition(":")
            kb[name] = int(value.split()[0])
        return {name: kb[name.capitalize()] * 1024 / 1e6 for name in ("rss", "pss")}

    def _pids(self) -> list[int]:
        children = Path(f"/proc/{self.pid}/task/{self.pid}/children").read_text(encoding="utf-8")
        return [self.pid, *map(int, children.split())]


def _cpu_s(pid: int) -> tuple[float, float]:
    # Fields 14 and 15, user and system ticks; counted after the name, which may contain spaces.
    fields = Path(f"/proc/{pid}/stat").read_text(encoding="utf-8").rpartition(")")[2].split()
    return int(fields[11]) / _TICKS_PER_S, int(fields[12]) / _TICKS_PER_S


def free_port() -> int:
    """Return a free TCP port of the loopback address."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


def tcp_answers(port: int) -> bool:
    """Return whether a process accepts connections on a loopback port."""
    try:
        socket.create_connection(("127.0.0.1", port), timeout=1).close()
    except OSError:
        return False
    return True


@contextmanager
def running(
    command: Sequence[str],
    environment: Mapping[str, str],
    log: Path,
    is_ready: Callable[[], bool],
    cpu: int | None = SERVER_CPU,
) -> Iterator[int]:
    """Run a server on one core, or on all with None; yields its process id once `is_ready`.

    Raises:
        RuntimeError: it ended or was not ready in time; the message has the end of its output.
    """
    with log.open("wb") as output, nullcontext() if cpu is None else on_cpu(cpu):
        process = subprocess.Popen(command, env={**os.environ, **environment}, stdout=output, stderr=output)
    try:
        _wait_until(is_ready, process, log)
        yield process.pid
    finally:
        process.terminate()
        try:
            process.wait(_STOP_S)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()


def _wait_until(is_ready: Callable[[], bool], process: subprocess.Popen[bytes], log: Path) -> None:
    deadline = time.monotonic() + _START_S
    while not is_ready():
        if process.poll() is not None or time.monotonic() > deadline:
            said = log.read_text(encoding="utf-8", errors="replace")[-2000:]
            raise RuntimeError(f"{process.args!r} did not start (exit status {process.returncode}):\n{said}")
        time.sleep(0.05)
