"""Addresses as settings spell them: TCP and Unix sockets to listen on, and the base URL of an operator."""

from dataclasses import dataclass
from ipaddress import ip_address
from pathlib import Path
from typing import TypeAlias

from yarl import URL

from bidstream_svc.core.errors import ConfigurationError

_UNIX_PREFIX = "unix:"
_SYSTEMD_PREFIX = "systemd:"
_MAX_PORT = 65535


@dataclass(frozen=True, slots=True)
class TcpAddress:
    """A host (a name or an IP address, IPv6 without brackets) and a port; port 0 lets the system choose."""

    host: str
    port: int

    @property
    def is_private(self) -> bool:
        """Whether only programs on this host reach it."""
        return is_loopback_host(self.host)

    def __str__(self) -> str:
        """As in a URL: `127.0.0.1:8080`, `[::1]:8080`."""
        return f"[{self.host}]:{self.port}" if ":" in self.host else f"{self.host}:{self.port}"


@dataclass(frozen=True, slots=True)
class UnixAddress:
    """A Unix socket's path."""

    path: Path

    @property
    def is_private(self) -> bool:
        """Always: the file system says who may connect."""
        return True

    def __str__(self) -> str:
        """As settings spell it: `unix:/run/bidstream.sock`."""
        return f"{_UNIX_PREFIX}{self.path}"


@dataclass(frozen=True, slots=True)
class SystemdAddress:
    """The sockets that systemd passes under a name (`FileDescriptorName=` of the socket unit)."""

    name: str

    def __str__(self) -> str:
        """As settings spell it: `systemd:data`."""
        return f"{_SYSTEMD_PREFIX}{self.name}"


BoundAddress: TypeAlias = TcpAddress | UnixAddress
ListenAddress: TypeAlias = BoundAddress | SystemdAddress


def is_loopback_host(host: str) -> bool:
    """Whether a host is `localhost` or a loopback IP address; other names are not looked up."""
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
    permission: str = "give allow_insecure=True",
) -> str:
    """Check an operator's base URL; returns it without blanks around it and without a slash at its end.

    Args:
        text: such as `https://prod.euid.eu`.
        allow_insecure: accept plain http to any host, not only to a loopback address.
        name: what an error calls the URL.
        permission: how an error says that plain http can be allowed.

    Raises:
        ConfigurationError: it will not do; the message does not repeat it, because it may hold a password.
    """
    try:
        url = URL(text.strip())  # what aiohttp reads it with: another parser might see another host
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
        raise ConfigurationError(f"{name}: plain http to another host; use https, or {permission}")
    return str(url).rstrip("/")


def parse_listen_addresses(text: str) -> tuple[ListenAddress, ...]:
    """Read a comma list of `HOST:PORT`, `[IPV6]:PORT`, `unix:/path` and `systemd:NAME`; empty text is the empty list.

    Raises:
        ValueError: an entry is none of these.
    """
    return tuple(_parse(entry.strip()) for entry in text.split(",")) if text.strip() else ()


def _parse(entry: str) -> ListenAddress:
    if entry.startswith(_UNIX_PREFIX):
        path = entry.removeprefix(_UNIX_PREFIX)
        if not path.startswith("/"):
            raise ValueError(f"{entry!r} has no absolute path")
        return UnixAddress(Path(path))
    if entry.startswith(_SYSTEMD_PREFIX):
        name = entry.removeprefix(_SYSTEMD_PREFIX)
        if not name:
            raise ValueError(f"{entry!r} names no sockets")
        return SystemdAddress(name)
    host, colon, port = entry.rpartition(":")
    bracketed = host.startswith("[") and host.endswith("]")
    if not colon or not host or (":" in host and not bracketed) or not (port.isascii() and port.isdecimal()):
        raise ValueError(f"{entry!r} is not HOST:PORT")
    if int(port) > _MAX_PORT:
        raise ValueError(f"{entry!r} has a port above {_MAX_PORT}")
    return TcpAddress(host[1:-1] if bracketed else host, int(port))
