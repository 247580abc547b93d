"""Starts and restarts: answers use the keys that the service has, and a hung worker is replaced."""

import os
import signal
import socket
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import pytest

from bidstream_svc.devoperator import DevOperator, OperatorState
from bidstream_svc.devoperator.faults import Fault
from bidstream_svc.devoperator.state import DEFAULT_SITES, OperatorSite
from tests.server.test_systemd import start as start_with_sockets
from tests.support.metrics_page import scrape
from tests.support.operator import operator_in_thread
from tests.support.processes import children
from tests.support.raw_http import Connection, make_request
from tests.support.sidecar import Sidecar, operator_settings, wait_until

MANY = 200
# Over TLS, for which a start needs the longest.
UNREACHABLE = {"operator_url": "https://127.0.0.1:1"}


@pytest.fixture
def operator() -> Iterator[DevOperator]:
    # Enough for reading them to take longer than beginning to listen.
    sites = [OperatorSite(number, (f"site-{number}.example", f"www.site-{number}.example")) for number in range(4000)]
    with operator_in_thread(OperatorState(seed=12, sites=[*DEFAULT_SITES, *sites[200:]])) as running:
        yield running


def fill(cache: Path, operator: DevOperator, directory: Path) -> None:
    directory.mkdir()
    with Sidecar(directory, key_cache=cache, **operator_settings(operator)) as first:
        wait_until(cache.exists, "the key cache")
        assert first.stop() == 0


def statuses(connections: list[Connection]) -> set[str]:
    return {str(connection.receive().json["status"]) for connection in connections}


@contextmanager
def queued(address: str, operator: DevOperator, count: int = MANY) -> Iterator[list[Connection]]:
    """Connections that have sent a request each."""
    with ExitStack() as stack:
        connections = [stack.enter_context(Connection(address)) for _ in range(count)]
        for connection in connections:
            connection.send(make_request("/decrypt", {"token": operator.state.mint_token()}))
        yield connections


@pytest.mark.parametrize("workers", [1, 2])
@pytest.mark.parametrize("changes", [{}, UNREACHABLE], ids=["operator up", "operator down"])
def test_what_queued_before_a_start_is_answered_from_the_key_cache(
    operator: DevOperator, tmp_path: Path, workers: int, changes: dict[str, str]
) -> None:
    cache, path = tmp_path / "keys", tmp_path / "data.sock"
    fill(cache, operator, tmp_path / "first")
    settings: dict[str, Any] = {
        "listen": "systemd:data",
        "workers": workers,
        "key_cache": cache,
        **operator_settings(operator),
        **changes,
    }
    with socket.socket(socket.AF_UNIX) as listening:
        listening.bind(str(path))
        listening.listen(MANY)
        with (
            queued(f"unix:{path}", operator) as connections,
            start_with_sockets(tmp_path / "second", [listening], "data", **settings),
        ):
            assert statuses(connections) == {"SUCCESS"}


@pytest.mark.parametrize("workers", [1, 2])
def test_the_first_connections_after_a_plain_start_have_the_key_cache(
    operator: DevOperator, tmp_path: Path, workers: int
) -> None:
    cache, path = tmp_path / "keys", tmp_path / "data.sock"
    fill(cache, operator, tmp_path / "first")
    settings = {"workers": workers, "key_cache": cache, "listen": f"unix:{path}", **operator_settings(operator)}
    starting = Sidecar(tmp_path, **settings | UNREACHABLE)

    def is_bound() -> bool:
        try:
            Connection(f"unix:{path}").socket.close()
        except (FileNotFoundError, ConnectionRefusedError):
            return False
        return True

    wait_until(is_bound, "the socket")
    with queued(f"unix:{path}", operator) as connections, starting:
        assert statuses(connections) == {"SUCCESS"}


def test_without_a_key_that_can_be_had_the_start_does_not_wait(operator: DevOperator, tmp_path: Path) -> None:
    """A key cache that cannot be read is no reason not to answer."""
    operator.state.faults.inject(Fault.SERVER_ERROR, times=None)
    (tmp_path / "keys").write_bytes(b"nothing good")
    with (
        Sidecar(tmp_path, key_cache=tmp_path / "keys", **operator_settings(operator)) as sidecar,
        queued(sidecar.data, operator, 1) as connections,
    ):
        assert statuses(connections) == {"NOT_INITIALIZED"}


def test_a_worker_that_starts_while_the_operator_is_down_has_what_its_siblings_have(
    operator: DevOperator, tmp_path: Path
) -> None:
    """Without a key cache."""
    with Sidecar(tmp_path, workers=2, **operator_settings(operator)) as sidecar:
        wait_until(lambda: sidecar.times_loaded(from_cache=False) == 2, "the keys of both workers")
        operator.state.faults.inject(Fault.SERVER_ERROR, times=None)
        loaded = sidecar.times_loaded(from_cache=True)
        for times, victim in enumerate(children(sidecar.process.pid), 1):
            os.kill(victim, signal.SIGKILL)
            # It waits for them before it accepts connections, but not for long, and this machine may be busy.
            wait_until(lambda times=times: sidecar.times_logged("listening") == 2 + times, "listening")  # type: ignore[misc]
            wait_until(lambda times=times: sidecar.times_loaded(from_cache=True) == loaded + times, "keys")  # type: ignore[misc]
        with queued(sidecar.data, operator) as connections:
            assert statuses(connections) == {"SUCCESS"}
        page = scrape(sidecar.admin)
        assert page.total("bidstream_keys_from_cache") == 1
        assert page.total("bidstream_keys") > 0


def test_connections_in_the_queue_of_a_hung_worker_are_served_by_its_successor(
    operator: DevOperator, tmp_path: Path
) -> None:
    with Sidecar(tmp_path, workers=2, hang_timeout=2, **operator_settings(operator)) as sidecar:
        wait_until(lambda: sidecar.times_loaded(from_cache=False) == 2, "the keys of both workers")
        victim = children(sidecar.process.pid)[0]
        os.kill(victim, signal.SIGSTOP)
        with queued(sidecar.data, operator, 64) as connections:
            assert statuses(connections) == {"SUCCESS"}
        (line,) = [line for line in sidecar.log if line["event"] == "worker hung"]
        assert (line["pid"], line["level"], line["state"]) == (victim, "error", "T (stopped)")
        assert line["silent_s"] >= 2
        page = scrape(sidecar.admin)
        assert page.value("bidstream_workers_hung_total") == page.value("bidstream_worker_restarts_total") == 1


def test_sigterm_ends_a_hung_worker_too(operator: DevOperator, tmp_path: Path) -> None:
    with Sidecar(tmp_path, workers=2, drain_timeout=0, **operator_settings(operator)) as sidecar:
        wait_until(lambda: sidecar.times_logged("listening") == 2, "both workers")
        os.kill(children(sidecar.process.pid)[0], signal.SIGSTOP)
        assert sidecar.stop() == 0
