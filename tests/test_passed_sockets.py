"""The environment that a service manager sets, as sd_listen_fds(3) describes it."""

import os
import socket
from collections.abc import Iterator
from contextlib import ExitStack

import pytest

from bidstream_svc.addresses import TcpAddress
from bidstream_svc.server import systemd
from bidstream_svc.server.systemd import address_of, passed_sockets


@pytest.fixture
def passed(monkeypatch: pytest.MonkeyPatch) -> Iterator[list[socket.socket]]:
    """Three listening sockets with descriptors in a row, passed to this process."""
    with ExitStack() as stack:
        listening = [stack.enter_context(socket.create_server(("127.0.0.1", 0))) for _ in range(3)]
        first = 500  # above what is open
        for descriptor, one in enumerate(listening, first):
            os.dup2(one.fileno(), descriptor)
            stack.callback(os.close, descriptor)
        monkeypatch.setattr(systemd, "_FIRST_DESCRIPTOR", first)
        monkeypatch.setenv("LISTEN_PID", str(os.getpid()))
        monkeypatch.setenv("LISTEN_FDS", "3")
        yield listening


def names_of(sockets: Iterator[socket.socket]) -> list[object]:
    names = []
    for one in sockets:
        with one:
            assert not one.get_inheritable()
            names.append(one.getsockname())
    return names


def test_a_name_may_stand_for_several(passed: list[socket.socket], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LISTEN_FDNAMES", "data:health:data")
    first, second, third = (one.getsockname() for one in passed)
    assert names_of(passed_sockets("data")) == [first, third]
    assert names_of(passed_sockets("data")) == [first, third], "asked again"
    assert names_of(passed_sockets("health")) == [second]
    with pytest.raises(OSError, match=r"systemd passed only data, health, data$"):
        next(passed_sockets("other"))


def test_without_names_each_is_unknown(passed: list[socket.socket]) -> None:
    assert names_of(passed_sockets("unknown")) == [one.getsockname() for one in passed]


def test_names_beyond_the_count_stand_for_nothing(passed: list[socket.socket], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LISTEN_FDS", "1")
    monkeypatch.setenv("LISTEN_FDNAMES", "data:data")
    assert names_of(passed_sockets("data")) == [passed[0].getsockname()]


@pytest.mark.parametrize(("name", "value"), [("LISTEN_PID", "1"), ("LISTEN_PID", None), ("LISTEN_FDS", None)])
def test_nothing_is_passed_to_another_process_or_without_a_count(
    passed: list[socket.socket], monkeypatch: pytest.MonkeyPatch, name: str, value: str | None
) -> None:
    monkeypatch.delenv(name)
    if value is not None:
        monkeypatch.setenv(name, value)
    with pytest.raises(OSError, match=r"systemd passed no socket to this process$"):
        next(passed_sockets("unknown"))


@pytest.mark.skipif(not socket.has_ipv6, reason="needs IPv6")
def test_address_of_ipv6() -> None:
    with socket.create_server(("::1", 0), family=socket.AF_INET6) as listening:
        assert address_of(listening) == TcpAddress("::1", listening.getsockname()[1])
