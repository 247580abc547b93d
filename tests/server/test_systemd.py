"""Sockets passed as systemd passes them: descriptors from 3 on, with names, addressed to one process id."""

import fcntl
import os
import socket
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from bidstream_svc.addresses import SystemdAddress, parse_listen_addresses
from bidstream_svc.config import load_settings
from bidstream_svc.core.errors import ConfigurationError, ListenError
from bidstream_svc.devoperator import DevOperator
from bidstream_svc.server import systemd
from bidstream_svc.server.sockets import Listener, open_listeners_each
from tests.support.raw_http import Connection, ask, make_request
from tests.support.sidecar import PROGRAM, Sidecar, operator_settings, wait_until

GOOD = {"token": "abcd"}
# Above the descriptors that the shell moves them to.
FIRST_ORIGINAL = 30


@pytest.fixture
def unix(tmp_path: Path) -> Iterator[socket.socket]:
    with socket.socket(socket.AF_UNIX) as listening:
        listening.bind(str(tmp_path / "data.sock"))
        listening.listen()
        yield listening


@pytest.fixture
def tcp() -> Iterator[socket.socket]:
    with socket.create_server(("127.0.0.1", 0)) as listening:
        yield listening


def start(
    directory: Path,
    passed: list[socket.socket],
    names: str,
    **settings: Any,
) -> Sidecar:
    """The sidecar with these sockets from descriptor 3 on; `names` with colons between, as in LISTEN_FDNAMES."""
    directory.mkdir(exist_ok=True)
    originals = [fcntl.fcntl(one, fcntl.F_DUPFD_CLOEXEC, FIRST_ORIGINAL) for one in passed]
    script = [f"exec {number}<&{original} {original}<&-" for number, original in enumerate(originals, 3)]
    # The shell's process id is the program's, which takes its place.
    script += [f"export LISTEN_PID=$$ LISTEN_FDS={len(passed)} LISTEN_FDNAMES={names}", 'exec "$@"']
    try:
        shell = ("bash", "-euc", "\n".join(script), "bash", *PROGRAM)
        return Sidecar(directory, program=shell, pass_fds=originals, **settings)
    finally:
        for original in originals:
            os.close(original)


def address_of(listening: socket.socket) -> str:
    name = listening.getsockname()
    return f"unix:{name}" if isinstance(name, str) else f"127.0.0.1:{name[1]}"


def addresses_listened_on(sidecar: Sidecar) -> list[list[str]]:
    """As each worker logged them."""
    return [sorted(line["data"]) for line in sidecar.log if line["event"] == "listening"]


@pytest.mark.parametrize("workers", [1, 2])
def test_serves_on_what_is_passed_and_leaves_it_behind(
    operator: DevOperator, unix: socket.socket, tcp: socket.socket, tmp_path: Path, workers: int
) -> None:
    data = [address_of(unix), address_of(tcp)]
    with socket.create_server(("127.0.0.1", 0)) as health:
        settings = operator_settings(operator) | {
            "listen": "systemd:data",
            "admin_listen": "systemd:health",
            "workers": workers,
            "drain_timeout": 0,
        }
        names = "data:health:data"
        with start(tmp_path / "first", [unix, health, tcp], names, **settings) as first:
            first.wait_ready()
            wait_until(lambda: len(addresses_listened_on(first)) == workers, "every worker to listen")
            assert addresses_listened_on(first) == [sorted(data)] * workers
            assert first.admin == address_of(health)
            assert [ask(address, "/decrypt", GOOD).status for address in data] == [200, 200]
            assert first.stop() == 0
        # Whoever connects while nobody serves waits in the socket for the next start.
        with Connection(data[0]) as early:
            early.send(make_request("/decrypt", GOOD))
            with start(tmp_path / "second", [unix, health, tcp], names, **settings) as second:
                assert early.receive().status == 200
                assert second.stop() == 0


@pytest.fixture
def passed_here(monkeypatch: pytest.MonkeyPatch) -> Callable[..., None]:
    """Pass one socket to this process, where the first descriptors are taken."""

    def pass_on(listening: socket.socket, names: str | None = "data", pid: int | None = None) -> None:
        monkeypatch.setattr(systemd, "_FIRST_DESCRIPTOR", listening.fileno())
        monkeypatch.setenv("LISTEN_PID", str(pid or os.getpid()))
        monkeypatch.setenv("LISTEN_FDS", "1")
        if names is not None:
            monkeypatch.setenv("LISTEN_FDNAMES", names)

    return pass_on


def open_passed(name: str = "data", **settings: Any) -> list[Listener]:
    listeners = open_listeners_each(load_settings(listen=f"systemd:{name}", admin_listen="", **settings), 1)[0]
    listeners.close()
    return list(listeners.data)


def test_a_socket_without_a_name(passed_here: Callable[..., None], unix: socket.socket) -> None:
    passed_here(unix, names=None)
    assert [str(listener.address) for listener in open_passed("unknown")] == [address_of(unix)]


def test_what_is_not_there_is_named(passed_here: Callable[..., None], unix: socket.socket) -> None:
    passed_here(unix, "other")
    with pytest.raises(
        ListenError,
        match=r"^BIDSTREAM_LISTEN: cannot listen on systemd:data: systemd passed only other; .*=data$",
    ):
        open_passed()


def test_sockets_of_another_process_are_left_alone(passed_here: Callable[..., None], unix: socket.socket) -> None:
    passed_here(unix, pid=1)
    with pytest.raises(ListenError, match=r"systemd:data: systemd passed no socket to this process; "):
        open_passed()


def test_a_socket_open_to_the_network_needs_a_bearer_token(passed_here: Callable[..., None]) -> None:
    with socket.create_server(("0.0.0.0", 0)) as everywhere:  # noqa: S104 - the service must refuse it
        passed_here(everywhere)
        with pytest.raises(ConfigurationError, match=r"^BIDSTREAM_LISTEN: 0\.0\.0\.0:.*BIDSTREAM_AUTH_TOKEN_FILE"):
            open_passed()
        assert open_passed(allow_unauthenticated=True)


def test_datagrams_are_refused(passed_here: Callable[..., None]) -> None:
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as datagrams:
        passed_here(datagrams)
        with pytest.raises(ListenError, match="not a listening stream socket"):
            open_passed()


def test_a_unix_socket_without_a_file_is_refused(passed_here: Callable[..., None]) -> None:
    with socket.socket(socket.AF_UNIX) as abstract:
        abstract.bind("\0bidstream-svc test")
        abstract.listen()
        passed_here(abstract)
        with pytest.raises(ListenError, match="neither TCP nor a Unix socket with a file"):
            open_passed()


def test_the_setting_names_the_sockets() -> None:
    assert parse_listen_addresses("systemd:data") == (SystemdAddress("data"),)
    assert str(SystemdAddress("data")) == "systemd:data"
    with pytest.raises(ValueError, match="has no name"):
        parse_listen_addresses("systemd:")
