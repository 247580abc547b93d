"""Listening addresses (TCP, Unix sockets, sockets from systemd) and the base URL of an operator."""

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
    """Host name or IP address (IPv6 without brackets) and port. With port 0 the system chooses a free one."""

    host: str
    port: int

    @property
    def is_local(self) -> bool:
        """Whether only programs on this host can connect."""
        return is_loopback_host(self.host)

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


def _parse_address(entry: str) -> ListenAddress:
    if entry.startswith(_UNIX_PREFIX):
        path = entry.removeprefix(_UNIX_PREFIX)
        if not path.startswith("/"):
            raise ValueError(f"{entry!r} is not an absolute path")
        return UnixAddress(Path(path))
    if entry.startswith(_SYSTEMD_PREFIX):
        name = entry.removeprefix(_SYSTEMD_PREFIX)
        if not name:
            raise ValueError(f"{entry!r} has no name")
        return SystemdAddress(name)
    host, colon, port = entry.rpartition(":")
    bracketed = host.startswith("[") and host.endswith("]")
    if not colon or not host or (":" in host and not bracketed) or not (port.isascii() and port.isdecimal()):
        raise ValueError(f"{entry!r} is not HOST:PORT")
    if int(port) > _MAX_PORT:
        raise ValueError(f"{entry!r} has a port above {_MAX_PORT}")
    return TcpAddress(host[1:-1] if bracketed else host, int(port))
