"""Which `Host` headers a listener takes."""

from pathlib import Path

import pytest

from bidstream_svc.addresses import TcpAddress, UnixAddress
from bidstream_svc.server.hosts import HostCheck

LOOPBACK = TcpAddress("127.0.0.1", 8080)
NONE: frozenset[str] = frozenset()


@pytest.mark.parametrize(
    "host",
    [
        "localhost",
        "LocalHost:8080",
        "127.0.0.1",
        "127.0.0.1:8080",
        "127.9.9.9:1",
        "localhost.:8080",
        "[::1]",
        "[::1]:8080",
        " localhost ",
        None,
    ],
)
def test_names_of_this_host_are_allowed(host: str | None) -> None:
    assert HostCheck(LOOPBACK, NONE).allows(host)
    assert HostCheck(TcpAddress("::1", 0), NONE).allows(host)


@pytest.mark.parametrize(
    "host",
    [
        "evil.example",
        "evil.example:8080",
        "localhost.evil.example",
        "10.0.0.1",
        "",
        ":8080",
        "localhost:",
        "localhost:http",
        "127.0.0.1:80:80",
        "[fe80::1]:8080",
        "a b/@:c",
        "localhost\xa0",
        "\x85localhost",
    ],
)
def test_other_names_are_refused_on_loopback(host: str) -> None:
    assert not HostCheck(LOOPBACK, NONE).allows(host)


def test_further_names_can_be_allowed() -> None:
    check = HostCheck(LOOPBACK, frozenset({"sidecar.internal"}))
    assert check.allows("Sidecar.Internal:8080")
    assert check.allows("sidecar.internal.")
    assert not check.allows("other.internal")
    assert HostCheck(LOOPBACK, frozenset({"*"})).allows("anything.example")


@pytest.mark.parametrize("address", [UnixAddress(Path("/run/bidstream.sock")), TcpAddress("0.0.0.0", 8080)])  # noqa: S104
def test_unix_sockets_and_network_addresses_allow_any_name(
    address: TcpAddress | UnixAddress,
) -> None:
    assert HostCheck(address, NONE).allows("evil.example")
