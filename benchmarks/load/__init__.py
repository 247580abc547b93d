"""The load generator: compiled on first use, run as a process of its own, its report read back."""

import json
import shutil
import subprocess
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cache
from pathlib import Path

from benchmarks.machine import LOAD_CPU

__all__ = ["LoadReport", "run_load", "running_load"]

_SOURCE = Path(__file__).with_name("loadgen.c")
_BINARY = Path(__file__).parents[1] / ".cache" / "loadgen"
_DRAIN_S = 30
_LONGEST_S = 600  # of a load that is ended from outside


@dataclass(frozen=True, slots=True)
class LoadReport:
    """What the generator measured within its window; every answer, also outside of it, was right.

    Attributes:
        checked: answers compared, warm-up included.
        rps: answered requests a second.
        quantiles_us: p50, p90, p99, p99.9, max.
        unsent: requests that fell due and found no free connection until the end (open loop).
        generator_cpu: share of its core that the generator used; near 1 it is the limit itself. It polls in the open
            loop, so that there this says nothing.
    """

    requests: int
    checked: int
    rps: float
    quantiles_us: dict[str, float]
    unsent: int
    generator_cpu: float


def run_load(
    address: str,
    requests: Path,
    *,
    connections: int,
    seconds: float,
    rate: float = 0,
    vary_trace: bool = False,
    warmup_s: float = 0.3,
    log: Path | None = None,
) -> LoadReport:
    """Send prepared requests to `IPV4:PORT` or `unix:PATH`; closed loop, or open loop at `rate` a second.

    `log` is where to keep when each request of the window was sent and how long it took: pairs of 64-bit integers,
    ns of the monotonic clock.

    Raises:
        RuntimeError: the generator failed, an answer was wrong, a request was not answered, or a connection was lost.
    """
    options = {"connections": connections, "seconds": seconds, "warmup": warmup_s, "rate": rate}
    command = _command(address, requests, options, log)
    if vary_trace:
        command.append("--vary")
    timeout_s = warmup_s + seconds + _DRAIN_S
    done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=timeout_s)
    return _report(address, done.returncode, done.stdout, done.stderr)


@contextmanager
def running_load(address: str, requests: Path, *, connections: int, rate: float, log: Path) -> Iterator[None]:
    """Send prepared requests in an open loop until the end of the block; arguments are those of run_load.

    Raises:
        RuntimeError: as run_load does, at the end.
    """
    options = {"connections": connections, "seconds": _LONGEST_S, "warmup": 0, "rate": rate}
    command = _command(address, requests, options, log)
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as process:
        try:
            yield
            process.terminate()
            stdout, stderr = process.communicate(timeout=_DRAIN_S)
        finally:
            process.kill()
    _report(address, process.returncode, stdout, stderr)


def _command(address: str, requests: Path, options: Mapping[str, float], log: Path | None) -> list[str]:
    command = [str(_compile()), "--connect", address, "--requests", str(requests), "--cpu", str(LOAD_CPU)]
    command += [part for name, value in options.items() for part in (f"--{name}", str(value))]
    return command if log is None else [*command, "--log", str(log)]


def _report(address: str, status: int, stdout: str, stderr: str) -> LoadReport:
    if status:
        raise RuntimeError(f"load generator, {address}: {stderr.strip()}")
    report = json.loads(stdout)
    if report["wrong"] or report["errors"] or report["closes"]:
        raise RuntimeError(f"{address}: not every answer was right: {stdout.strip()} {stderr.strip()}")
    return LoadReport(**{field: report[field] for field in LoadReport.__slots__})


@cache
def _compile() -> Path:
    if _BINARY.exists() and _BINARY.stat().st_mtime > _SOURCE.stat().st_mtime:
        return _BINARY
    compiler = shutil.which("cc")
    if compiler is None:
        raise RuntimeError("no C compiler: install gcc or clang (Debian: apt-get install gcc libc6-dev)")
    _BINARY.parent.mkdir(exist_ok=True)
    subprocess.run([compiler, "-O2", "-std=gnu11", "-o", str(_BINARY), str(_SOURCE), "-lm"], check=True)
    return _BINARY
