"""The resources of all processes of the service, read from /proc.

A worker reads the figures of its siblings and of their parent, so that a scrape of any worker gives the sums.
"""

import os
import resource
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import NamedTuple

from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric
from prometheus_client.registry import Collector

from bidstream_svc.metrics.cells import WORKER_PID, MetricCells

_PROC = Path("/proc")
_TICKS_PER_S = os.sysconf("SC_CLK_TCK")
_PAGE_BYTES = os.sysconf("SC_PAGE_SIZE")


class _Process(NamedTuple):
    """Figures of /proc/PID/stat; the ticks of children are those of the ones that have ended and been waited for."""

    pid: int
    parent_pid: int
    ticks: int
    ticks_of_children: int
    started_ticks: int
    virtual_bytes: int
    resident_bytes: int


class ProcessCollector(Collector):
    """Exports the `process_...` metrics of the Prometheus client library as sums over all processes of the service.

    Args:
        metrics: tells the processes apart: that which made the cells is the parent, the others are its workers and the
            process of the opt-out store.
    """

    def __init__(self, metrics: MetricCells) -> None:
        self._metrics = metrics
        self._booted_s = _read_boot_time_s()

    def collect(self) -> Iterator[Metric]:
        """Yield the families."""
        parent, workers = self._read_consistently()
        everyone = [parent, *workers]
        ticks = sum(process.ticks for process in everyone) + parent.ticks_of_children
        yield CounterMetricFamily(
            "process_cpu_seconds", "Total user and system CPU time spent in seconds.", value=ticks / _TICKS_PER_S
        )
        yield GaugeMetricFamily(
            "process_resident_memory_bytes",
            "Resident memory size in bytes.",
            value=sum(process.resident_bytes for process in everyone),
        )
        yield GaugeMetricFamily(
            "process_virtual_memory_bytes",
            "Virtual memory size in bytes.",
            value=sum(process.virtual_bytes for process in everyone),
        )
        yield GaugeMetricFamily(
            "process_start_time_seconds",
            "Start time of the process since unix epoch in seconds.",
            value=self._booted_s + parent.started_ticks / _TICKS_PER_S,
        )
        # Without the parent, which hardly uses any: with it, their ratio would hide that the workers run out of them.
        pids = [process.pid for process in workers or everyone]
        yield GaugeMetricFamily(
            "process_open_fds", "Number of open file descriptors.", value=sum(map(_count_open_fds, pids))
        )
        yield GaugeMetricFamily(
            "process_max_fds", "Maximum number of open file descriptors.", value=sum(map(_read_max_fds, pids))
        )

    def _read_consistently(self) -> tuple[_Process, list[_Process]]:
        """Return the parent, or the only process, and its workers.

        When a worker ends, its time moves to the children of the parent. If that happens in between, its time would be
        missing or counted twice, and the counter would decrease now or later. So everything is read again.
        """
        before = _read_process(self._metrics.owner_pid)
        while True:
            workers = list(self._read_workers())
            parent = _read_process(self._metrics.owner_pid)
            if parent.ticks_of_children == before.ticks_of_children:
                return parent, workers
            before = parent

    def _read_workers(self) -> Iterator[_Process]:
        for pid in filter(None, (row[WORKER_PID] for row in self._metrics.all_rows)):
            with suppress(FileNotFoundError, ProcessLookupError):  # it has ended and been waited for
                process = _read_process(pid)
                if process.parent_pid == self._metrics.owner_pid:  # else another process has its number now
                    yield process


def _read_process(pid: int) -> _Process:
    text = (_PROC / str(pid) / "stat").read_text("utf-8", "replace")
    # After the name, which may contain spaces and parentheses; see proc_pid_stat(5).
    _state, parent_pid, *fields = text.rpartition(")")[2].split()
    own, of_children = fields[9:11], fields[11:13]
    return _Process(
        pid,
        int(parent_pid),
        sum(map(int, own)),
        sum(map(int, of_children)),
        started_ticks=int(fields[17]),
        virtual_bytes=int(fields[18]),
        resident_bytes=int(fields[19]) * _PAGE_BYTES,
    )


def _read_boot_time_s() -> int:
    lines = (_PROC / "stat").read_text("utf-8").splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith("btime "))


def _count_open_fds(pid: int) -> int:
    directory = _PROC / str(pid) / "fd"
    try:
        # Linux 6.2 and later give the number as the size, which costs less for many descriptors.
        return directory.stat().st_size or sum(1 for _ in directory.iterdir())
    except OSError:  # it has ended
        return 0


def _read_max_fds(pid: int) -> int:
    try:
        return resource.prlimit(pid, resource.RLIMIT_NOFILE)[0]
    except OSError:  # it has ended
        return 0
