"""Faults of a process: SIGTERM, a killed worker, no file descriptors, a full disk, a start without an operator."""

import os
import resource
import signal
import subprocess
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

from bidstream_svc.metrics import RefreshResult
from tests.faults.clients import SLOW_S, batch_exchanges, exchanges, running_clients
from tests.faults.faulty_operator import FaultyOperator, faulty_operator
from tests.faults.outcome import Effort, Outcome
from tests.support.metrics_page import Scrape, scrape
from tests.support.processes import children
from tests.support.raw_http import Connection, ask
from tests.support.sidecar import DEADLINE_S, Sidecar, wait_until

_REFRESHES = "bidstream_key_refreshes_total"
_MIN_REQUESTS = 200
_GOOD = {"token": "abcd"}


@contextmanager
def _operator_and_sidecar(directory: Path, **settings: object) -> Iterator[tuple[FaultyOperator, Sidecar]]:
    with faulty_operator(directory) as operator, _sidecar(directory, operator, **settings) as sidecar:
        yield operator, sidecar.wait_ready()


def _sidecar(directory: Path, operator: FaultyOperator, **settings: object) -> Sidecar:
    with operator.trusted():
        return Sidecar(directory, **{"refresh_interval": 0.2, **settings, **operator.settings})


def try_sigterm(directory: Path, effort: Effort) -> Outcome:
    """Every request that is under way gets its answer; the process exits with 0."""
    with ExitStack() as stack:
        operator, sidecar = stack.enter_context(_operator_and_sidecar(directory))
        single = stack.enter_context(running_clients(sidecar.data, exchanges(operator.state), until_gone=True))
        batches = stack.enter_context(
            running_clients(sidecar.data, batch_exchanges(operator.state), connections=1, until_gone=True)
        )
        single.wait_for(_MIN_REQUESTS)
        batches.wait_for(2)
        single.wait_for_seconds(effort.fault_s)
        before = single.tally + batches.tally
        sidecar.signal(signal.SIGTERM)
        begun_s = time.monotonic()
        single.wait_gone()
        batches.wait_gone()
        assert sidecar.process.wait(DEADLINE_S) == 0, sidecar.stderr
        took_s = time.monotonic() - begun_s
        tally = single.tally + batches.tally - before
    assert tally.repeated == 0, "a request under way was dropped"
    return Outcome("SIGTERM", tally, None, f"exit 0 after {took_s:.2f} s; no request repeated")


def _check_never_down(earlier: Scrape, later: Scrape) -> None:
    for (name, labels), value in earlier.values.items():
        if name.startswith("bidstream_") and name.endswith(("_total", "_bucket", "_count", "_sum")):
            assert later.values[name, labels] >= value, name


def try_worker_kill(directory: Path, effort: Effort) -> Outcome:
    """SIGKILL one of two workers: clients that repeat once lose nothing, and no counter goes down."""
    with (
        _operator_and_sidecar(directory, workers=2) as (operator, sidecar),
        running_clients(sidecar.data, exchanges(operator.state), connections=8) as clients,
    ):
        wait_until(lambda: len(children(sidecar.process.pid)) == 2, "two workers")
        clients.wait_for(_MIN_REQUESTS)
        before, page = clients.tally, scrape(sidecar.admin)
        victim = children(sidecar.process.pid)[0]
        os.kill(victim, signal.SIGKILL)
        killed_s = time.monotonic()

        def is_replaced() -> bool:
            nonlocal page
            page_now = scrape(sidecar.admin)
            _check_never_down(page, page_now)
            page = page_now
            return page.value("bidstream_worker_restarts_total") == 1 and page.total("bidstream_keys") > 0

        wait_until(is_replaced, "a new worker with keys")
        recovery_s = time.monotonic() - killed_s
        clients.wait_for(_MIN_REQUESTS)
        clients.wait_for_seconds(effort.fault_s)
        _check_never_down(page, scrape(sidecar.admin))
        assert len(children(sidecar.process.pid)) == 2
        tally = clients.tally - before
    return Outcome(
        "SIGKILL of one of two workers", tally, recovery_s, f"{tally.repeated} requests repeated; no counter went down"
    )


def try_worker_hang(directory: Path, effort: Effort) -> Outcome:
    """SIGSTOP one of two workers: it is replaced after the time-out, and clients that repeat once lose nothing."""
    timeout_s, watched_s = (2.0, 0.0) if effort.hurries else (10.0, 30.0)
    with (
        _operator_and_sidecar(directory, workers=2, hang_timeout=timeout_s) as (operator, sidecar),
        running_clients(sidecar.data, exchanges(operator.state), connections=8) as lasting,
        running_clients(sidecar.data, exchanges(operator.state), connections=8, reconnects=True) as coming,
    ):
        wait_until(lambda: sidecar.times_logged("listening") == 2, "two workers")
        lasting.wait_for(_MIN_REQUESTS)
        coming.wait_for(_MIN_REQUESTS)
        before = lasting.tally + coming.tally
        victim = children(sidecar.process.pid)[0]
        os.kill(victim, signal.SIGSTOP)
        stopped_s = time.monotonic()
        wait_until(lambda: victim not in children(sidecar.process.pid), "the worker to be replaced", 60)
        wait_until(lambda: sidecar.times_logged("listening") == 3, "its successor")
        recovery_s = time.monotonic() - stopped_s
        lasting.wait_for(_MIN_REQUESTS)
        coming.wait_for(_MIN_REQUESTS)
        coming.wait_for_seconds(watched_s - recovery_s if watched_s else 0.0)
        page = scrape(sidecar.admin)
        assert page.value("bidstream_workers_hung_total") == page.value("bidstream_worker_restarts_total") == 1
        (line,) = [line for line in sidecar.log if line["event"] == "worker hung"]
        assert (line["pid"], line["state"]) == (victim, "T (stopped)")
        tally = lasting.tally + coming.tally - before
    assert tally.slow <= tally.sent / 100, f"{tally.slow} of {tally.sent} took longer than {SLOW_S} s"
    remark = f"{tally.repeated} requests repeated; {tally.slow} took longer than {SLOW_S:.0f} s"
    return Outcome("SIGSTOP of one of two workers", tally, recovery_s, remark)


def _open_files(pid: int) -> int:
    return len(list(Path(f"/proc/{pid}/fd").iterdir()))


def _is_served(connection: Connection) -> bool:
    try:
        return connection.ask("/decrypt", _GOOD).status == 200
    except (OSError, EOFError):
        return False


def _is_reachable(address: str) -> bool:
    try:
        connection = Connection(address)
    except OSError:
        return False
    with connection:
        return _is_served(connection)


def try_no_descriptors(directory: Path, effort: Effort) -> Outcome:
    """No descriptor is left: connections beyond are refused, those that stand are served, and then all are again."""
    with (
        _operator_and_sidecar(directory) as (operator, sidecar),
        running_clients(sidecar.data, exchanges(operator.state)) as clients,
    ):
        clients.wait_for(_MIN_REQUESTS)
        before, pid = clients.tally, sidecar.process.pid
        limit = _open_files(pid) + 5
        resource.prlimit(pid, resource.RLIMIT_NOFILE, (limit, limit))
        with ExitStack() as stack:
            extra = [stack.enter_context(Connection(sidecar.data)) for _ in range(40)]
            refused = [connection for connection in extra if not _is_served(connection)]
            assert len(extra) > len(refused) >= len(extra) - 5
            assert all(_is_served(connection) for connection in extra if connection not in refused)
            clients.wait_for(_MIN_REQUESTS)
            clients.wait_for_seconds(effort.fault_s)
        ended_s = time.monotonic()
        wait_until(lambda: _is_reachable(sidecar.data), "a new connection to be served")
        recovery_s = time.monotonic() - ended_s
        tally = clients.tally - before
        assert tally.repeated == 0
        log_lines = len(sidecar.log)
    remark = f"{len(refused)} of {len(extra)} further connections refused; {log_lines} log lines"
    return Outcome("no file descriptor left", tally, recovery_s, remark)


@contextmanager
def _small_disk(directory: Path) -> Iterator[Path | None]:
    """A disk of two pages; None where this user may not mount one."""
    disk = directory / "disk"
    disk.mkdir()
    mounted = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "size=8k", "tmpfs", str(disk)], capture_output=True, check=False
    )
    if mounted.returncode:
        yield None
        return
    try:
        yield disk
    finally:
        subprocess.run(["umount", str(disk)], check=True)


@contextmanager
def _full_disk(disk: Path) -> Iterator[None]:
    filler = disk / "filler"
    with filler.open("wb", buffering=0) as file:
        try:
            while file.write(bytes(4096)):
                pass
        except OSError:
            pass
        yield
    filler.unlink()


@contextmanager
def _no_directory(directory: Path) -> Iterator[None]:
    elsewhere = directory.rename(directory.with_name("elsewhere"))
    yield
    elsewhere.rename(directory)


def try_full_disk(directory: Path, effort: Effort) -> Outcome:
    """The key cache cannot be written: the service goes on, the old cache stays whole, and is renewed later."""
    with ExitStack() as stack:
        disk = stack.enter_context(_small_disk(directory))
        where = disk or directory / "cache"
        where.mkdir(exist_ok=True)
        cache = where / "keys"
        operator, sidecar = stack.enter_context(_operator_and_sidecar(directory, key_cache=cache))
        clients = stack.enter_context(running_clients(sidecar.data, exchanges(operator.state)))
        wait_until(cache.exists, "the cache")
        before = clients.tally
        with _full_disk(disk) if disk else _no_directory(where):
            wait_until(lambda: sidecar.has_logged("key cache not written"), "the cache not to be written")
            successes = scrape(sidecar.admin).total(_REFRESHES, result=RefreshResult.SUCCESS)
            wait_until(
                lambda: scrape(sidecar.admin).total(_REFRESHES, result=RefreshResult.SUCCESS) > successes + 1,
                "further refreshes",
            )
            clients.wait_for(_MIN_REQUESTS)
            clients.wait_for_seconds(effort.fault_s)
            left = cache.read_bytes() if disk else b""
        ended_s = time.monotonic()
        wait_until(lambda: cache.exists() and cache.read_bytes() != left, "the cache to be renewed")
        recovery_s = time.monotonic() - ended_s
        assert list(where.iterdir()) == [cache], "a temporary file is left"
        tally = clients.tally - before
    name = "disk full under the key cache" if disk else "directory of the key cache gone"
    return Outcome(name, tally, recovery_s, "refreshes went on; the cache was written again")


def try_start_without_operator(directory: Path, effort: Effort) -> Outcome:
    """Started while the operator is down, the sidecar serves from its cache at once, and is fresh again later."""
    first, second = directory / "first", directory / "second"
    first.mkdir()
    second.mkdir()
    with faulty_operator(directory) as operator:
        with _sidecar(first, operator, key_cache=directory / "keys") as sidecar:
            sidecar.wait_ready()
            assert sidecar.stop() == 0
        operator.stop()
        started_s = time.monotonic()
        with _sidecar(second, operator, key_cache=directory / "keys") as sidecar:
            sidecar.wait_ready()
            ready_s = time.monotonic() - started_s
            with running_clients(sidecar.data, exchanges(operator.state)) as clients:
                clients.wait_for(_MIN_REQUESTS)
                clients.wait_for_seconds(effort.fault_s)
                page = scrape(sidecar.admin)
                assert page.total("bidstream_keys_from_cache") == 1
                assert page.total(_REFRESHES, result=RefreshResult.SUCCESS) == 0
                assert ask(sidecar.admin, "/info", method="GET").json["keys"]["from_cache"] is True
                operator.start()
                ended_s = time.monotonic()
                if effort.hurries:
                    sidecar.signal(signal.SIGHUP)
                wait_until(lambda: scrape(sidecar.admin).total("bidstream_keys_from_cache") == 0, "fresh keys", 60)
                recovery_s = time.monotonic() - ended_s
                tally = clients.tally
    return Outcome(
        "start while the operator is down", tally, recovery_s, f"ready from the cache {ready_s:.2f} s after exec"
    )


PROCESS_FAULTS = (
    try_sigterm,
    try_worker_kill,
    try_worker_hang,
    try_no_descriptors,
    try_full_disk,
    try_start_without_operator,
)
