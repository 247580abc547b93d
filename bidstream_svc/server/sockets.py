"""Listening sockets for the addresses in the settings."""

import errno
import os
import socket
import stat
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

from bidstream_svc.addresses import BoundAddress, ListenAddress, SystemdAddress, TcpAddress, UnixAddress
from bidstream_svc.config import Settings
from bidstream_svc.core.errors import BidstreamError, ConfigurationError
from bidstream_svc.server.listen_errors import listen_error
from bidstream_svc.server.systemd import address_of, passed_sockets

BACKLOG = 1024
_UNIX_SOCKET_MODE = 0o660
_Socket = socket.socket  # in Listener, `socket` is an attribute
_ANY_IPV6 = "::"


class FileId(NamedTuple):
    """Device and inode of a file. While a socket is bound to the file, no other one has them."""

    device: int
    inode: int


@dataclass(slots=True, eq=False)
class Listener:
    """A listening socket and its address.

    Attributes:
        socket: the socket; `replace` changes it.
        address: with the port that the system chose for port 0.
        is_passed: True for a socket that systemd opened. systemd keeps such a socket open and owns the file of a Unix
            socket, so the file is not removed.
        file_id: of the file that a Unix socket was bound to; None if its path had none at first, and for TCP.
        on_replaced: called with the new socket; the receiver closes the old one. It may run in another thread.
    """

    socket: _Socket
    address: BoundAddress
    is_passed: bool = False
    file_id: FileId | None = None
    on_replaced: Callable[[_Socket], None] | None = None

    def __post_init__(self) -> None:
        self.file_id = file_id_of(self.address)

    @property
    def is_lost(self) -> bool:
        """Whether its path does not lead to its socket any more."""
        is_open = self.socket.fileno() >= 0
        return is_open and self.file_id is not None and self.file_id != file_id_of(self.address)

    def replace(self, new: _Socket) -> None:
        """Listen on another socket, which has just been bound to the same path."""
        old, self.socket = self.socket, new
        self.file_id = file_id_of(self.address) or self.file_id  # with the old one it is still lost
        if self.on_replaced is None:
            old.close()
        else:
            self.on_replaced(new)


class Listeners(NamedTuple):
    """The listeners of one process, by plane."""

    data: Sequence[Listener] = ()
    admin: Sequence[Listener] = ()
    optouts: Sequence[Listener] = ()

    @property
    def all(self) -> list[Listener]:
        """Those of all planes."""
        return [*self.data, *self.admin, *self.optouts]

    def close(self) -> None:
        """Close the sockets and remove the files of Unix sockets; only the process that opened them may do this."""
        close_listeners(self.all)


def open_listeners(
    addresses: Iterable[ListenAddress], *, field: str = "listen", reuse_port: bool = False
) -> list[Listener]:
    """Open listening sockets, or use those that systemd passed.

    Args:
        addresses: a host name may resolve to several addresses, each of which gets a socket.
        field: field name of the setting that has the addresses, for errors.
        reuse_port: set SO_REUSEPORT on TCP sockets, so that several sockets share the connections to one address.

    Raises:
        ListenError: an address is in use, not of this host, or not permitted. No socket is left open.
    """
    addresses = tuple(addresses)
    listeners: list[Listener] = []
    for address in addresses:
        try:
            if isinstance(address, UnixAddress):
                listeners.append(Listener(listen_unix(address.path), address))
            elif isinstance(address, SystemdAddress):
                listeners.extend(_listen_systemd(address.name))
            else:
                has_ipv4 = any(_is_ipv4(each, address.port) for each in addresses)
                listeners.extend(_listen_tcp(address, reuse_port=reuse_port, has_ipv4=has_ipv4))
        except OSError as error:
            close_listeners(listeners)
            raise listen_error(address, error, field) from None
    return listeners


def open_listeners_each(settings: Settings, workers: int) -> list[Listeners]:
    """Open the listeners of each worker.

    Each worker has its own TCP sockets, between which the kernel distributes connections. Unix sockets and sockets that
    systemd passed are shared.

    Raises:
        ListenError: see `open_listeners`.
        ConfigurationError: systemd passed a socket that is open to the network without authentication.
    """
    data = open_listeners(settings.listen)
    try:
        for problem in settings.authentication_problems(listener.address for listener in data):
            raise ConfigurationError(problem)
        first = Listeners(data, open_listeners(settings.admin_listen, field="admin_listen"))
        for problem in settings.authentication_problems((listener.address for listener in first.admin), "admin_"):
            close_listeners(first.admin)
            raise ConfigurationError(problem)
    except BidstreamError:
        close_listeners(data)
        raise
    if workers == 1:
        return [first]
    # The sockets were opened without SO_REUSEPORT first. This fails if another service listens on the port; with the
    # option, both would share it.
    fields = ("listen", "admin_listen")
    planes = zip((first.data, first.admin), fields, strict=True)
    by_plane = [_reopen_for_workers(*plane, workers) for plane in planes]
    return [Listeners(*group) for group in zip(*by_plane, strict=True)]


def open_optout_listeners(settings: Settings) -> list[Listener]:
    """Open the listeners of the webhook.

    Raises:
        ListenError: see `open_listeners`.
        ConfigurationError: systemd passed a socket that is open to the network without authentication.
    """
    listeners = open_listeners(settings.optout_listen, field="optout_listen")
    for problem in settings.authentication_problems((listener.address for listener in listeners), "optout_"):
        close_listeners(listeners)
        raise ConfigurationError(problem)
    return listeners


def _reopen_for_workers(listeners: Sequence[Listener], field: str, workers: int) -> list[list[Listener]]:
    """Replace sockets without SO_REUSEPORT by one with it for each worker, on the same addresses."""
    shared = [listener for listener in listeners if listener.is_passed or isinstance(listener.address, UnixAddress)]
    own = [listener for listener in listeners if listener not in shared]
    close_listeners(own)
    addresses = [listener.address for listener in own]
    return [[*open_listeners(addresses, field=field, reuse_port=True), *shared] for _ in range(workers)]


def close_listeners(listeners: Iterable[Listener]) -> None:
    """Close sockets and remove the files of Unix sockets; harmless if they are closed already."""
    for listener in listeners:
        listener.socket.close()
        if isinstance(listener.address, UnixAddress) and not listener.is_passed:
            with suppress(OSError):  # another process listens on this path now
                _remove_dead_socket(listener.address.path)


def _listen_tcp(address: TcpAddress, *, reuse_port: bool, has_ipv4: bool) -> Iterator[Listener]:
    found = socket.getaddrinfo(address.host, address.port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)
    for family, (host, port, *_) in dict.fromkeys((entry[0], entry[4]) for entry in found):
        # The wildcard `::` takes connections over IPv4 too, unless another of the addresses does.
        takes_ipv4 = family == socket.AF_INET6 and host == _ANY_IPV6 and not has_ipv4
        listener = socket.create_server(
            (host, port), family=family, backlog=BACKLOG, reuse_port=reuse_port, dualstack_ipv6=takes_ipv4
        )
        yield Listener(listener, TcpAddress(*listener.getsockname()[:2]))


def _is_ipv4(address: ListenAddress, port: int) -> bool:
    """Return whether an address is one of IPv4, or a name that may be, with this port."""
    return isinstance(address, TcpAddress) and address.port == port and ":" not in address.host


def file_id_of(address: BoundAddress) -> FileId | None:
    """Return which file is at the path of a Unix socket; None if there is none, or for TCP."""
    if not isinstance(address, UnixAddress):
        return None
    try:
        status = address.path.stat()
    except OSError:
        return None
    return FileId(status.st_dev, status.st_ino)


def listen_unix(path: Path) -> socket.socket:
    """Bind a Unix socket and listen on it.

    Raises:
        OSError: a process listens on this path, the file there is not a socket, or the directory cannot be used.
    """
    _remove_dead_socket(path)
    listener = socket.socket(socket.AF_UNIX)
    # Set by the umask, because a chmod after `bind` would leave a moment with the wrong mode.
    old_mask = os.umask(0o777 & ~_UNIX_SOCKET_MODE)
    try:
        listener.bind(str(path))
        listener.listen(BACKLOG)
    except OSError:
        listener.close()
        raise
    finally:
        os.umask(old_mask)
    return listener


def _listen_systemd(name: str) -> Iterator[Listener]:
    for passed in passed_sockets(name):
        try:
            yield Listener(passed, address_of(passed), is_passed=True)
        except OSError:
            passed.close()
            raise


def require_socket(status: os.stat_result) -> None:
    """Raise OSError for the status of a file that is not a socket."""
    if not stat.S_ISSOCK(status.st_mode):
        raise OSError(errno.EEXIST, "a file that is not a socket exists at this path")


def _remove_dead_socket(path: Path) -> None:
    """Remove the file of a Unix socket on which no process listens.

    Raises:
        OSError: a process listens on it, or it is not a socket.
    """
    try:
        require_socket(path.stat())
    except FileNotFoundError:
        return
    with socket.socket(socket.AF_UNIX) as probe:
        probe.setblocking(False)
        try:
            probe.connect(str(path))
        except ConnectionRefusedError:
            path.unlink()
            return
        except BlockingIOError:  # its backlog is full
            pass
    raise OSError(errno.EADDRINUSE, "another process listens on this path")
