"""`serve` with two workers: connections, counters, signals and restarts."""

import os
import resource
import signal
import ssl
import subprocess
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from datetime import timedelta
from functools import partial
from itertools import pairwise
from pathlib import Path
from typing import Any, Self, TypeVar

import pytest
import trustme

from bidstream_svc.config import env_name
from bidstream_svc.devoperator import DevOperator, OperatorState
from tests.support.certificates import CertificateFiles, served_serial
from tests.support.metrics_page import Scrape, scrape
from tests.support.operator import operator_in_thread
from tests.support.processes import children, ended, sockets_of
from tests.support.raw_http import Connection, ask, make_request
from tests.support.sidecar import DEADLINE_S, PROGRAM, Sidecar, environment, operator_settings, wait_until

T = TypeVar("T")

WORKERS = 2
# That all of so many connections go to the same worker does not happen.
MANY = 48
GOOD = {"token": "abcd"}
HALF = make_request("/decrypt", headers={"Content-Length": "17"}) + b'{"token": '
OTHER_HALF = b'"abcd"}'


@pytest.fixture(scope="module")
def operator() -> Iterator[DevOperator]:
    with operator_in_thread(OperatorState(seed=11)) as running:
        yield running


@contextmanager
def sidecar_of(directory: Path, operator: DevOperator, **settings: Any) -> Iterator[Sidecar]:
    """A sidecar all of whose workers serve."""
    options = {"workers": WORKERS, **operator_settings(operator), **settings}
    program = options.pop("program", PROGRAM)
    with Sidecar(directory, program=program, **options) as sidecar:
        wait_until(lambda: sidecar.times_logged("listening") == options["workers"], "all workers to listen")
        wait_until(lambda: sidecar.times_loaded(from_cache=False) == options["workers"], "all workers to have keys")
        yield sidecar


def restarts(page: Scrape) -> float:
    return page.value("bidstream_worker_restarts_total")


# One sidecar for what does not end it.


@pytest.fixture(scope="module")
def unix_path(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("socket") / "data.sock"


@pytest.fixture(scope="module")
def sidecar(operator: DevOperator, unix_path: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Sidecar]:
    directory = tmp_path_factory.mktemp("sidecar")
    with sidecar_of(directory, operator, listen=f"127.0.0.1:0,unix:{unix_path}") as running:
        yield running


def test_connections_are_distributed_and_every_worker_reports_the_sum(sidecar: Sidecar, unix_path: Path) -> None:
    workers = children(sidecar.process.pid)
    assert len(workers) == WORKERS
    before = [sockets_of(worker) for worker in workers]
    answered_before = scrape(sidecar.admin).total("bidstream_http_requests_total")
    with ExitStack() as stack:
        for number in range(MANY):
            address = f"unix:{unix_path}" if number % 4 == 0 else sidecar.data
            assert stack.enter_context(Connection(address)).ask("/decrypt", GOOD).status == 200
        held = [sockets_of(worker) - count for worker, count in zip(workers, before, strict=True)]
        assert min(held) > 0
        assert sum(held) == MANY
        # A scrape is a connection of its own, which either of them may get.
        for _ in range(16):
            page = scrape(sidecar.admin)
            assert page.total("bidstream_http_requests_total") == answered_before + MANY
            assert page.value("bidstream_connections") == MANY
            assert page.value("bidstream_request_duration_seconds_count") == answered_before + MANY
            assert page.total("bidstream_key_refreshes_total", result="success") >= WORKERS
    wait_until(lambda: scrape(sidecar.admin).value("bidstream_connections") == 0, "the connections to end")


def test_sighup_reaches_every_worker(sidecar: Sidecar, operator: DevOperator) -> None:
    calls = operator.state.calls["/v2/key/bidstream"]
    sidecar.signal(signal.SIGHUP)
    wait_until(lambda: operator.state.calls["/v2/key/bidstream"] >= calls + WORKERS, "the refreshes")
    assert operator.state.calls["/v2/key/bidstream"] == calls + WORKERS
    assert sidecar.process.poll() is None


class Load:
    """A client that sends requests continuously and reconnects when its connection breaks."""

    def __init__(self, sidecar: Sidecar, token: str, uid: str) -> None:
        self.answers = self.breaks = 0
        self.wrong: list[object] = []
        self._is_over = False
        self._sidecar = sidecar
        self._request, self._uid = make_request("/decrypt", {"token": token}), uid
        self._thread = threading.Thread(target=self._run)

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, *_exc_info: object) -> None:
        self._is_over = True
        self._thread.join(DEADLINE_S)

    def _run(self) -> None:
        while not self._is_over:
            try:
                with Connection(self._sidecar.data) as connection:
                    while not self._is_over:
                        connection.send(self._request)
                        answer = connection.receive().json
                        self.answers += 1
                        if answer["uid"] != self._uid:
                            self.wrong.append(answer)
            except (ConnectionError, EOFError):
                self.breaks += 1


def wait_for_answers(loads: list[Load], more: int) -> None:
    goal = sum(load.answers for load in loads) + more
    wait_until(lambda: sum(load.answers for load in loads) > goal, "answers")


def has_listened(sidecar: Sidecar, times: int) -> bool:
    return sidecar.times_logged("listening") == times


def test_a_killed_worker_is_replaced_and_no_counter_goes_down(sidecar: Sidecar, operator: DevOperator) -> None:
    token, uid = operator.state.mint_token(), operator.state.raw_uid("someone@example.com")
    pages = [scrape(sidecar.admin)]
    workers = children(sidecar.process.pid)

    def has_restarted(times: int) -> bool:
        try:
            pages.append(scrape(sidecar.admin))
        except (ConnectionError, EOFError):
            return False  # it went to the one that was just killed
        return restarts(pages[-1]) == restarts(pages[0]) + times

    with ExitStack() as stack:
        loads = [stack.enter_context(Load(sidecar, token, uid)) for _ in range(8)]
        for times, victim in enumerate(workers, 1):
            wait_for_answers(loads, 200)
            os.kill(victim, signal.SIGKILL)
            wait_until(partial(has_restarted, times), "the restart to be counted")
            wait_until(partial(has_listened, sidecar, WORKERS + times), "the successor")
    assert [answer for load in loads for answer in load.wrong] == []
    assert sum(load.breaks for load in loads) > 0
    now = children(sidecar.process.pid)
    assert len(now) == WORKERS
    assert not set(now) & set(workers)

    wait_until(lambda: scrape(sidecar.admin).value("bidstream_connections") == 0, "nothing to be left of the dead")
    pages.append(scrape(sidecar.admin))
    for earlier, later in pairwise(pages):
        for (name, labels), value in earlier.values.items():
            if name.endswith(("_total", "_count", "_sum", "_bucket")):
                assert later.values[name, labels] >= value, name
    counted = pages[-1].total("bidstream_http_requests_total") - pages[0].total("bidstream_http_requests_total")
    # A worker counts at the end of a turn: what it had answered in its last one, it took along.
    assert counted >= sum(load.answers for load in loads) - WORKERS * len(loads)
    exits = [line for line in sidecar.log if line["event"] == "worker ended"]
    assert [(line["exit_code"], line["level"]) for line in exits] == [(-signal.SIGKILL, "error")] * WORKERS


def figures_of(pid: int) -> dict[str, int]:
    """The lines of /proc/PID/status that are numbers: kB, or a count."""
    lines = (line.split() for line in Path(f"/proc/{pid}/status").read_text().splitlines())
    return {words[0].removesuffix(":"): int(words[1]) for words in lines if len(words) > 1 and words[1].isdecimal()}


def test_process_metrics_are_sums_over_the_processes_whichever_worker_answers(sidecar: Sidecar) -> None:
    parent = sidecar.process.pid
    workers = children(parent)
    pages = [scrape(sidecar.admin) for _ in range(20)]
    virtual_bytes = 1024 * sum(figures_of(pid)["VmSize"] for pid in [parent, *workers])
    resident_bytes = 1024 * sum(figures_of(pid)["VmRSS"] for pid in [parent, *workers])
    for page in pages:
        # They change a little from one moment to the next; one process more or less would be a third.
        assert page.value("process_virtual_memory_bytes") == pytest.approx(virtual_bytes, rel=0.1)
        assert page.value("process_resident_memory_bytes") == pytest.approx(resident_bytes, rel=0.1)
        assert page.value("process_max_fds") == sum(resource.prlimit(pid, resource.RLIMIT_NOFILE)[0] for pid in workers)
        open_fds = sum(len(list(Path(f"/proc/{pid}/fd").iterdir())) for pid in workers)
        assert page.value("process_open_fds") == pytest.approx(open_fds, rel=0.2)
    assert len({page.value("process_start_time_seconds") for page in pages}) == 1


def cpu_ticks(pid: int) -> int:
    """The processor time of a process and of the children that it has waited for."""
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return sum(map(int, fields[11:15]))


def reported_cpu_ticks(admin: str) -> int:
    """The processor time that a scrape reports, as an integer: sums of floats differ in their last digits."""
    return round(scrape(admin).value("process_cpu_seconds_total") * os.sysconf("SC_CLK_TCK"))


def test_the_processor_time_of_a_dead_worker_stays_in_the_sum(sidecar: Sidecar) -> None:
    parent = sidecar.process.pid
    for _ in range(3):
        workers = children(parent)
        before = sum(map(cpu_ticks, [parent, *workers]))
        assert reported_cpu_ticks(sidecar.admin) >= before
        os.kill(workers[0], signal.SIGKILL)
        wait_until(partial(ended, workers[0]), "the end")
        # Whatever the successor is doing meanwhile, time only grows.
        for _ in range(20):
            after = retried(lambda: reported_cpu_ticks(sidecar.admin))
            assert after >= before
            before = after
        wait_until(lambda: len(children(parent)) == WORKERS, "the successor")


def retried(ask: Callable[[], T]) -> T:
    """Ask until no connection is lost with a worker that was killed."""
    while True:
        try:
            return ask()
        except (ConnectionError, EOFError):
            continue


def test_the_cap_on_connections_holds_over_all_workers(operator: DevOperator, tmp_path: Path) -> None:
    with sidecar_of(tmp_path, operator, max_connections=MANY) as sidecar, ExitStack() as stack:
        for _ in range(MANY):
            assert stack.enter_context(Connection(sidecar.data)).ask("/decrypt", GOOD).status == 200
        for _ in range(MANY):
            with Connection(sidecar.data) as refused:
                assert refused.ask("/decrypt", GOOD).status == 503
        page = scrape(sidecar.admin)
        assert page.value("bidstream_connections") == MANY
        assert page.value("bidstream_connections_refused_total", reason="max_connections") == MANY


# What ends it.


def test_after_sigterm_every_worker_finishes_its_requests(operator: DevOperator, tmp_path: Path) -> None:
    unix = tmp_path / "data.sock"
    with (
        sidecar_of(tmp_path, operator, listen=f"127.0.0.1:0,unix:{unix}") as sidecar,
        ExitStack() as stack,
    ):
        begun = [stack.enter_context(Connection(sidecar.data)) for _ in range(MANY)]
        begun.append(stack.enter_context(Connection(f"unix:{unix}")))
        for connection in begun:
            connection.send(HALF)
        wait_until(lambda: scrape(sidecar.admin).value("bidstream_connections") == len(begun), "the connections")
        sidecar.signal(signal.SIGTERM)
        wait_until(lambda: refuses(sidecar.data) and refuses(f"unix:{unix}"), "the listeners to close")
        assert sidecar.process.poll() is None
        for connection in begun:
            connection.send(OTHER_HALF)
            answer = connection.receive()
            assert (answer.status, answer.closes) == (200, True)
            assert connection.is_closed_by_peer()
        assert sidecar.process.wait(DEADLINE_S) == 0
    assert not unix.exists()
    for event in ("draining", "stopped"):
        assert sidecar.times_logged(event) == WORKERS
    exits = [line for line in sidecar.log if line["event"] == "worker ended"]
    assert [(line["exit_code"], line["level"]) for line in exits] == [(0, "info")] * WORKERS
    assert sidecar.stdout == ""


def refuses(address: str) -> bool:
    try:
        Connection(address).socket.close()
    except (ConnectionRefusedError, FileNotFoundError):
        return True
    except ConnectionResetError:
        pass
    return False


def test_a_second_sigterm_ends_all_at_once(operator: DevOperator, tmp_path: Path) -> None:
    with (
        sidecar_of(tmp_path, operator, drain_timeout=600, request_timeout=600) as sidecar,
        Connection(sidecar.data) as begun,
    ):
        begun.send(HALF)
        wait_until(lambda: scrape(sidecar.admin).value("bidstream_connections") == 1, "the connection")
        workers = children(sidecar.process.pid)
        sidecar.signal(signal.SIGTERM)
        wait_until(lambda: sidecar.times_logged("draining") == WORKERS, "the first signal")
        assert sidecar.stop() == 0
        assert begun.is_closed_by_peer()
        assert all(ended(worker) for worker in workers)


def test_ctrl_c_reaches_all_processes_and_drains_once(operator: DevOperator, tmp_path: Path) -> None:
    # A process group of its own, as a shell gives to what it starts.
    with sidecar_of(tmp_path, operator, program=("setsid", *PROGRAM)) as sidecar, Connection(sidecar.data) as begun:
        begun.send(HALF)
        wait_until(lambda: scrape(sidecar.admin).value("bidstream_connections") == 1, "the connection")
        os.killpg(sidecar.process.pid, signal.SIGINT)
        wait_until(lambda: sidecar.times_logged("draining") == WORKERS, "the drain")
        begun.send(OTHER_HALF)
        assert begun.receive().status == 200
        assert sidecar.process.wait(DEADLINE_S) == 0
    assert sidecar.times_logged("draining") == sidecar.times_logged("stopped") == WORKERS
    assert "Traceback" not in sidecar.stderr


def test_workers_end_with_their_parent(operator: DevOperator, tmp_path: Path) -> None:
    with sidecar_of(tmp_path, operator) as sidecar:
        workers = children(sidecar.process.pid)
        sidecar.process.kill()
        sidecar.process.wait(DEADLINE_S)
        wait_until(lambda: all(ended(worker) for worker in workers), "the workers to end")
        assert refuses(sidecar.data)
    assert sidecar.times_logged("stopped") == WORKERS


def test_sighup_to_the_parent_makes_every_worker_serve_a_new_certificate(operator: DevOperator, tmp_path: Path) -> None:
    authority = trustme.CA()
    client = ssl.create_default_context()
    authority.configure_trust(client)
    files = CertificateFiles(tmp_path, authority)
    with sidecar_of(tmp_path, operator, **files.settings) as sidecar:
        new = files.renew(files.issue(lasts=timedelta(days=3)))
        sidecar.signal(signal.SIGHUP)
        wait_until(lambda: sidecar.times_logged("certificate reloaded") == WORKERS, "all workers to reload")
        assert {served_serial(sidecar.data, client) for _ in range(MANY)} == {new}
        expiry_s = scrape(sidecar.admin).value("bidstream_tls_certificate_expiry_timestamp_seconds")
        assert 0 < expiry_s - time.time() <= timedelta(days=3).total_seconds()


def test_one_worker_has_no_parent(operator: DevOperator, tmp_path: Path) -> None:
    with sidecar_of(tmp_path, operator, workers=1) as sidecar:
        assert children(sidecar.process.pid) == []
        assert restarts(scrape(sidecar.admin)) == 0
        assert sidecar.stop() == 0


@pytest.mark.parametrize("plane", ["listen", "admin_listen"])
def test_a_port_in_use_is_one_line_and_exit_1(
    operator: DevOperator, sidecar: Sidecar, tmp_path: Path, plane: str
) -> None:
    # Not even by another one whose workers share theirs.
    taken = sidecar.data if plane == "listen" else sidecar.admin
    unix = tmp_path / "data.sock"
    settings = {"workers": WORKERS, "listen": f"unix:{unix}", "admin_listen": "", **operator_settings(operator)}
    settings[plane] = ",".join(filter(None, [settings[plane], taken]))
    done = subprocess.run(
        [*PROGRAM, "serve"], env=environment(settings), capture_output=True, text=True, timeout=30, check=False
    )
    assert done.returncode == 1
    assert done.stderr == (
        f"bidstream-svc: {env_name(plane)}: cannot listen on {taken}: address already in use; another process has it; "
        f"choose another with --{plane.replace('_', '-')} or {env_name(plane)}\n"
    )
    assert done.stdout == ""
    assert not unix.exists()
    assert ask(sidecar.data, "/decrypt", GOOD).status == 200
