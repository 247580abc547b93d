"""Listening addresses (TCP, Unix sockets, sockets from systemd), host names, and the base URL of an operator."""

import os
import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from ipaddress import ip_address
from pathlib import Path
from typing import TypeAlias

from yarl import URL

from bidstream_svc.core.errors import ConfigurationError

_UNIX_PREFIX = "unix:"
_SYSTEMD_PREFIX = "systemd:"
_MAX_PORT = 65535
# The field for it in the kernel has 108 bytes and ends in a zero, see unix(7).
_MAX_UNIX_PATH_BYTES = 107
_HOST_NAME = re.compile(r"[\w.-]+")  # letters need not be ASCII


@dataclass(frozen=True, slots=True)
class TcpAddress:
    """Host name or IP address (IPv6 without brackets) and port. With port 0 the system chooses a free one."""

    host: str
    port: int

    @property
    def is_local(self) -> bool:
        """Whether only programs on this host can connect."""
        return is_loopback_host(self.host)

    @property
    def is_wildcard(self) -> bool:
        """Whether it stands for all addresses of this host, of IPv4 or of IPv6."""
        try:
            return ip_address(self.host).is_unspecified
        except ValueError:
            return False

    def __str__(self) -> str:
        """Format as in a URL: `127.0.0.1:8080`, `[::1]:8080`."""
        return f"[{self.host}]:{self.port}" if ":" in self.host else f"{self.host}:{self.port}"


@dataclass(frozen=True, slots=True)
class UnixAddress:
    """Path of a Unix socket."""

    path: Path

    @property
    def is_local(self) -> bool:
        """True: file permissions decide who can connect."""
        return True

    def __str__(self) -> str:
        """Format as in settings: `unix:/run/bidstream.sock`."""
        return f"{_UNIX_PREFIX}{self.path}"


@dataclass(frozen=True, slots=True)
class SystemdAddress:
    """Name of sockets that systemd passes (`FileDescriptorName=` of the socket unit)."""

    name: str

    def __str__(self) -> str:
        """Format as in settings: `systemd:data`."""
        return f"{_SYSTEMD_PREFIX}{self.name}"


BoundAddress: TypeAlias = TcpAddress | UnixAddress
ListenAddress: TypeAlias = BoundAddress | SystemdAddress


def is_loopback_host(host: str) -> bool:
    """Whether a host is `localhost` or a loopback IP address. Other names are not resolved."""
    if host.lower() == "localhost":
        return True
    try:
        return ip_address(host).is_loopback
    except ValueError:
        return False


def check_base_url(
    text: str,
    *,
    allow_insecure: bool = False,
    name: str = "operator URL",
    hint: str = "pass allow_insecure=True",
) -> str:
    """Check an operator's base URL and return it without surrounding whitespace and trailing slashes.

    Args:
        text: such as `https://prod.euid.eu`.
        allow_insecure: accept plain http to any host, not only to loopback.
        name: the name of the URL in errors.
        hint: how to allow plain http, for errors.

    Raises:
        ConfigurationError: the URL is not accepted. The message does not contain it, because it may hold a password.
    """
    try:
        url = URL(text.strip())  # aiohttp's parser: another one might find another host
        host = url.host
    except ValueError:
        url, host = URL(), None
    if url.scheme not in {"http", "https"} or not host:
        raise ConfigurationError(f"{name}: not an http or https URL; e.g. https://prod.euid.eu")
    if url.user is not None or url.password is not None or url.query_string or url.fragment:
        raise ConfigurationError(
            f"{name}: has a user name, query or fragment; only scheme, host, port and path are accepted"
        )
    if url.scheme == "http" and not allow_insecure and not is_loopback_host(host):
        raise ConfigurationError(f"{name}: plain http to another host; use https, or {hint}")
    return str(url).rstrip("/")


def parse_listen_addresses(text: str) -> tuple[ListenAddress, ...]:
    """Parse a comma-separated list of `HOST:PORT`, `[IPV6]:PORT`, `unix:/path` and `systemd:NAME`; it may be empty.

    Raises:
        ValueError: an entry has another format.
    """
    return tuple(_parse_address(entry.strip()) for entry in text.split(",")) if text.strip() else ()


def overlapping(addresses: Iterable[ListenAddress]) -> Iterator[tuple[ListenAddress, ListenAddress]]:
    """Yield each pair of addresses that cannot be opened together: equal ones, or `0.0.0.0` and another on its port."""
    earlier: list[ListenAddress] = []
    for address in addresses:
        yield from ((other, address) for other in earlier if _overlap(other, address))
        earlier.append(address)


def _overlap(one: ListenAddress, other: ListenAddress) -> bool:
    if not isinstance(one, TcpAddress) or not isinstance(other, TcpAddress):
        return one == other
    if one.port != other.port or one.port == 0 or (":" in one.host) != (":" in other.host):
        return False
    return one.host.lower() == other.host.lower() or one.is_wildcard or other.is_wildcard


def parse_host_names(text: str) -> frozenset[str]:
    """Parse a comma-separated list of host names and IP addresses, or `*`; it may be empty.

    Raises:
        ValueError: an entry is something else, such as a URL.
    """
    return frozenset(_parse_host_name(entry.strip()) for entry in text.split(",") if entry.strip())


def _parse_host_name(entry: str) -> str:
    name = entry.lower().removeprefix("[").removesuffix("]").removesuffix(".")
    if name != "*" and not _HOST_NAME.fullmatch(name) and not _is_ip_address(name):
        raise ValueError(f"{entry!r} is not a host name; leave out scheme, port and path")
    return name


def _is_ip_address(text: str) -> bool:
    try:
        ip_address(text)
    except ValueError:
        return False
    return True


def _parse_address(entry: str) -> ListenAddress:
    if entry.startswith(_UNIX_PREFIX):
        path = entry.removeprefix(_UNIX_PREFIX)
        if not path.startswith("/"):
            raise ValueError(f"{entry!r} is not an absolute path")
        if len(os.fsencode(path)) > _MAX_UNIX_PATH_BYTES:
            raise ValueError(f"{entry!r} has a path of more than {_MAX_UNIX_PATH_BYTES} bytes")
        return UnixAddress(Path(path))
    if entry.startswith(_SYSTEMD_PREFIX):
        name = entry.removeprefix(_SYSTEMD_PREFIX)
        if not name:
            raise ValueError(f"{entry!r} has no name")
        return SystemdAddress(name)
    host, colon, port = entry.rpartition(":")
    bracketed = host.startswith("[") and host.endswith("]")
    is_host = ":" in host and _is_ip_address(host[1:-1]) if bracketed else _HOST_NAME.fullmatch(host)
    if not colon or not is_host or not (port.isascii() and port.isdecimal()):
        raise ValueError(f"{entry!r} is not HOST:PORT")
    if int(port) > _MAX_PORT:
        raise ValueError(f"{entry!r} has a port above {_MAX_PORT}")
    return TcpAddress(host[1:-1] if bracketed else host, int(port))
