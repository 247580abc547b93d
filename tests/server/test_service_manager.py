"""What systemd is told, received on a real datagram socket as systemd has it."""

import os
import signal
import socket
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import pytest

from bidstream_svc.devoperator import DevOperator
from bidstream_svc.server.systemd import ServiceManager
from tests.support.sidecar import DEADLINE_S, Sidecar, operator_settings


@pytest.fixture(params=["path", "abstract"])
def address(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    """As in NOTIFY_SOCKET."""
    return str(tmp_path / "notify") if request.param == "path" else f"@bidstream-svc/{tmp_path}"


@contextmanager
def systemd_at(address: str) -> Iterator[socket.socket]:
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as listening:
        listening.bind("\0" + address[1:] if address.startswith("@") else address)
        listening.settimeout(DEADLINE_S)
        yield listening


@pytest.fixture
def systemd(address: str, monkeypatch: pytest.MonkeyPatch) -> Iterator[socket.socket]:
    monkeypatch.setenv("NOTIFY_SOCKET", address)
    monkeypatch.setenv("WATCHDOG_USEC", "600000")
    with systemd_at(address) as listening:
        yield listening


def told(systemd: socket.socket) -> list[str]:
    """What has been told so far."""
    messages = []
    systemd.setblocking(False)
    try:
        while True:
            messages.append(systemd.recv(4096).decode())
    except BlockingIOError:
        return messages
    finally:
        systemd.settimeout(DEADLINE_S)


def next_but_beats(systemd: socket.socket) -> str:
    while (message := systemd.recv(4096).decode()) == "WATCHDOG=1":
        pass
    return message


@pytest.mark.parametrize(("address", "workers"), [("path", 1), ("abstract", 2)], indirect=["address"])
def test_from_start_to_stop(operator: DevOperator, systemd: socket.socket, tmp_path: Path, workers: int) -> None:
    with Sidecar(tmp_path, workers=workers, **operator_settings(operator)) as sidecar:
        assert next_but_beats(systemd) == "READY=1"
        assert sidecar.times_logged("listening") == workers
        for _ in range(5):
            assert systemd.recv(4096) == b"WATCHDOG=1"

        # Who hangs says nothing.
        os.kill(sidecar.process.pid, signal.SIGSTOP)
        os.waitid(os.P_PID, sidecar.process.pid, os.WSTOPPED)
        told(systemd)
        systemd.settimeout(1.0)
        with pytest.raises(TimeoutError):
            systemd.recv(4096)
        systemd.settimeout(DEADLINE_S)
        os.kill(sidecar.process.pid, signal.SIGCONT)
        assert systemd.recv(4096) == b"WATCHDOG=1"

        sidecar.signal(signal.SIGHUP)
        reloading, _, when = next_but_beats(systemd).partition("\n")
        assert reloading == "RELOADING=1"
        assert when.startswith("MONOTONIC_USEC=")
        assert next_but_beats(systemd) == "READY=1"

        assert sidecar.stop() == 0
        assert next_but_beats(systemd) == "STOPPING=1"
        assert set(told(systemd)) <= {"WATCHDOG=1"}


def test_beats_come_more_often_than_half_of_what_systemd_allows(systemd: socket.socket, address: str) -> None:
    manager = ServiceManager({"NOTIFY_SOCKET": address, "WATCHDOG_USEC": "900000", "WATCHDOG_PID": str(os.getpid())})
    assert manager.watchdog_s == 0.9
    assert manager.period_s(5) == pytest.approx(0.3)
    assert manager.period_s(0.2) == 0.2
    manager.beat()
    assert told(systemd) == ["WATCHDOG=1"]
    manager.close()


@pytest.mark.parametrize(
    "environment",
    [{}, {"WATCHDOG_USEC": "0"}, {"WATCHDOG_USEC": "soon"}, {"WATCHDOG_USEC": "900000", "WATCHDOG_PID": "1"}],
)
def test_no_watchdog(systemd: socket.socket, address: str, environment: dict[str, str]) -> None:
    manager = ServiceManager({"NOTIFY_SOCKET": address, **environment})
    manager.beat()
    assert told(systemd) == []
    assert manager.period_s(5) == 5
    manager.close()


def test_it_is_ready_once_and_reloads_only_then(systemd: socket.socket, address: str) -> None:
    manager = ServiceManager({"NOTIFY_SOCKET": address})
    manager.reloaded()
    for _ in range(3):
        manager.ready()
    assert told(systemd) == ["READY=1"]
    manager.close()


def test_what_a_slow_systemd_did_not_take_is_told_later(systemd: socket.socket, address: str) -> None:
    manager = ServiceManager({"NOTIFY_SOCKET": address, "WATCHDOG_USEC": "900000"})
    manager.ready()
    while manager._try_to_send("STATUS=filled"):
        pass
    manager.stopping()
    manager.beat()
    assert set(told(systemd)) == {"READY=1", "STATUS=filled"}
    manager.beat()
    assert told(systemd) == ["STOPPING=1", "WATCHDOG=1"]
    manager.close()


@pytest.mark.parametrize("address", ["", "vsock:2:1234", "/no/such/socket", "@no such socket"])
def test_without_systemd_nothing_happens(address: str) -> None:
    manager = ServiceManager({"NOTIFY_SOCKET": address})
    manager.ready()
    manager.reloaded()
    manager.beat()
    manager.stopping()
    manager.close()


def test_reloads_that_cannot_be_told_do_not_pile_up(tmp_path: Path) -> None:
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as silent:
        silent.bind(str(tmp_path / "notify"))
        manager = ServiceManager({"NOTIFY_SOCKET": str(tmp_path / "notify")})
        manager.ready()
        for _ in range(2_000):  # far more than its queue holds
            manager.reloaded()
        assert 0 < len(manager._waiting) <= 3
        told: list[str] = []
        silent.setblocking(False)
        while manager._waiting or told[-1:] != ["READY=1"]:
            with suppress(BlockingIOError):
                told.append(silent.recv(1024).decode())
            manager.beat()
        assert told[0] == "READY=1"
        manager.close()
