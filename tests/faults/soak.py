"""`python -m tests.faults.soak --seconds N`: full load for minutes, with a key refresh every two seconds.

The C load generator keeps the service busy, compares every answer, and notes when each request was sent and how long it
took, so that what was asked during a refresh can be told apart. SIGHUP starts the refreshes, because then it is known
when they begin.

Prints figures and verdicts. Exit status 1 if an answer was wrong or missing, or a refresh failed; what is over its
goal is only said, because machines are shared.
"""

import argparse
import signal
import sys
import tempfile
import time
from bisect import bisect
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import NamedTuple

from benchmarks.keyserver import CLIENT_SECRET_BASE64
from benchmarks.load import LoadReport, run_load
from benchmarks.machine import SERVER_CPU, on_cpu
from benchmarks.material import KeySet, decrypt_requests, make_samples, write_requests
from benchmarks.targets import key_server
from tests.support.metrics_page import Scrape, scrape
from tests.support.processes import exit_on_sigterm, resident_bytes
from tests.support.sidecar import Sidecar

_KEY_SET = KeySet(1_000, 10_000)
_SAMPLES = 2_000
_CONNECTIONS = 16
_REFRESH_EVERY_S = 2.0
_NEVER_S = 1e6
_WARM_UP_SHARE = 0.25
_MAX_MEMORY_GROWTH = 1.02
_MAX_P99_RATIO = 1.5
_DURATION = "bidstream_key_refresh_duration_seconds"


class _Soak(NamedTuple):
    """What was seen.

    Attributes:
        requests: when each was sent and how long it took, by turns; ns of the monotonic clock.
        refreshes_s: when each refresh was asked for.
        refresh_s: how long one took on average.
        warm_bytes, end_bytes: resident memory.
    """

    load: LoadReport
    requests: memoryview
    refreshes_s: list[float]
    refresh_s: float
    failed_refreshes: float
    warm_bytes: int
    end_bytes: int


def _refresh_until(done: "Future[LoadReport]", sidecar: Sidecar, warm_up_s: float) -> tuple[list[float], int]:
    """Ask for refreshes while the load runs: when, and the resident memory once it was warm."""
    asked_s: list[float] = []
    begun_s, warm_bytes = time.monotonic(), 0
    while not done.done():
        if not warm_bytes and time.monotonic() - begun_s >= warm_up_s:
            warm_bytes = resident_bytes(sidecar.process.pid)
        asked_s.append(time.monotonic())
        sidecar.signal(signal.SIGHUP)
        time.sleep(_REFRESH_EVERY_S)
    return asked_s, warm_bytes


def _refreshes(page: Scrape) -> tuple[float, float, float]:
    """(their number, their seconds in all, how many failed)"""
    number, total_s = page.value(f"{_DURATION}_count"), page.value(f"{_DURATION}_sum")
    return number, total_s, number - page.total("bidstream_key_refreshes_total", result="success")


def _soak(seconds: float, directory: Path) -> _Soak:
    pairs = decrypt_requests(make_samples(_KEY_SET, _SAMPLES))
    requests, log = write_requests(directory / "requests", pairs), directory / "log"
    with key_server(directory, {"soak": _KEY_SET}) as url:
        with on_cpu(SERVER_CPU):
            starting = Sidecar(
                directory,
                operator_url=url,
                api_key="soak",
                client_secret=CLIENT_SECRET_BASE64,
                refresh_interval=_NEVER_S,
            )
        with starting as sidecar, ThreadPoolExecutor(1) as pool:
            sidecar.wait_ready()
            load = pool.submit(run_load, sidecar.data, requests, connections=_CONNECTIONS, seconds=seconds, log=log)
            refreshes_s, warm_bytes = _refresh_until(load, sidecar, seconds * _WARM_UP_SHARE)
            end_bytes = resident_bytes(sidecar.process.pid)
            report = load.result()
            number, total_s, failed = _refreshes(scrape(sidecar.admin))
            assert sidecar.stop() == 0
    timed = memoryview(log.read_bytes()).cast("Q")
    return _Soak(report, timed, refreshes_s, total_s / number, failed, warm_bytes, end_bytes)


def _p99_us(latencies_ns: list[int]) -> float:
    return sorted(latencies_ns)[int(len(latencies_ns) * 0.99)] / 1e3


def _report(soak: _Soak) -> Iterator[str]:
    during, between = _tell_apart(soak)
    if not during or not between:
        raise RuntimeError("refreshes take so long here, or the soak is so short, that there is nothing to compare")
    growth, ratio = soak.end_bytes / soak.warm_bytes, _p99_us(during) / _p99_us(between)
    yield f"requests: {soak.load.checked:,}, {soak.load.rps:,.0f}/s; every answer compared"
    yield f"refreshes: {len(soak.refreshes_s)}, {soak.refresh_s * 1e3:.1f} ms each, {soak.failed_refreshes:.0f} failed"
    yield (
        f"resident memory: {soak.warm_bytes / 1e6:.1f} MB warm, {soak.end_bytes / 1e6:.1f} MB at the end: "
        f"{_verdict(growth, _MAX_MEMORY_GROWTH)}"
    )
    yield (
        f"p99 between refreshes {_p99_us(between):.0f} us ({len(between):,} requests), during one "
        f"{_p99_us(during):.0f} us ({len(during):,}): {_verdict(ratio, _MAX_P99_RATIO)}"
    )


def _tell_apart(soak: _Soak) -> tuple[list[int], list[int]]:
    """Latencies of requests that overlap a refresh, taken as twice as long as the average one, and of the others."""
    during: list[int] = []
    between: list[int] = []
    for sent_ns, took_ns in zip(soak.requests[::2], soak.requests[1::2], strict=True):
        last = bisect(soak.refreshes_s, (sent_ns + took_ns) / 1e9) - 1
        is_during = last >= 0 and sent_ns / 1e9 <= soak.refreshes_s[last] + 2 * soak.refresh_s
        (during if is_during else between).append(took_ns)
    return during, between


def _verdict(ratio: float, goal: float) -> str:
    return f"{ratio:.3f}, goal {goal}: {'met' if ratio <= goal else 'MISSED'}"


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.faults.soak", description=__doc__)
    parser.add_argument("--seconds", type=float, default=120)
    options = parser.parse_args()
    exit_on_sigterm()
    with tempfile.TemporaryDirectory() as directory:
        try:
            soak = _soak(options.seconds, Path(directory))
            sys.stdout.write("\n".join(_report(soak)) + "\n")
        except RuntimeError as error:
            sys.stdout.write(f"{error}\n")
            return 1
    return 1 if soak.failed_refreshes else 0


if __name__ == "__main__":
    sys.exit(main())
