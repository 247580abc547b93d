"""Listening sockets for the addresses of the settings."""

import errno
import os
import socket
import ssl
import stat
from collections.abc import Iterable, Iterator
from contextlib import suppress
from pathlib import Path
from typing import NamedTuple

from bidstream_svc.addresses import BoundAddress, ListenAddress, SystemdAddress, TcpAddress, UnixAddress
from bidstream_svc.config import Settings
from bidstream_svc.core.errors import BidstreamError, ConfigurationError, ListenError
from bidstream_svc.server.systemd import address_of, passed_sockets

BACKLOG = 1024
_UNIX_SOCKET_MODE = 0o660


class Listener(NamedTuple):
    """A listening socket and the address it has got, with the port that the system chose for port 0.

    `is_passed` tells those that systemd opened: it goes on to listen there after us, and the file is not ours.
    """

    socket: socket.socket
    address: BoundAddress
    is_passed: bool = False


class Listeners(NamedTuple):
    """What one process listens on."""

    data: list[Listener]
    admin: list[Listener]

    def close(self) -> None:
        """Close the sockets, and remove the files of Unix sockets; for the process that opened them."""
        close_listeners([*self.data, *self.admin])


def open_listeners(addresses: Iterable[ListenAddress], *, reuse_port: bool = False) -> list[Listener]:
    """Bind and listen, or take over what systemd listens on.

    Args:
        addresses: a host name may stand for several.
        reuse_port: lets others bind the same TCP addresses, to share their connections.

    Raises:
        ListenError: an address is in use, not ours, or not allowed; none is left open then.
    """
    listeners: list[Listener] = []
    for address in addresses:
        try:
            if isinstance(address, UnixAddress):
                listeners.append(_listen_unix(address.path))
            elif isinstance(address, SystemdAddress):
                listeners.extend(_take_over(address.name))
            else:
                listeners.extend(_listen_tcp(address, reuse_port=reuse_port))
        except OSError as error:
            close_listeners(listeners)
            # asyncio's own wording names the address a second time.
            reason = (error.strerror or str(error)).partition(" (while attempting")[0]
            raise ListenError(f"cannot listen on {address}: {reason}") from None
    return listeners


def open_listeners_each(settings: Settings, workers: int) -> list[Listeners]:
    """The listeners of each worker: TCP sockets of its own, between which the kernel spreads; others shared.

    Raises:
        ListenError: as for `open_listeners`.
        ConfigurationError: systemd passed a socket that is open to the network, and nothing says who may ask.
    """
    first = Listeners(open_listeners(settings.listen), [])
    try:
        for problem in settings.exposures(listener.address for listener in first.data):
            raise ConfigurationError(problem)
        first.admin.extend(open_listeners(settings.admin_listen))
    except BidstreamError:
        first.close()
        raise
    if workers == 1:
        return [first]
    # Sockets that share a port would share it with a second service, too, by mistake: having bound it alone says that
    # there is none.
    return [Listeners(*group) for group in zip(*(_multiply(listeners, workers) for listeners in first), strict=True)]


def _multiply(listeners: list[Listener], workers: int) -> list[list[Listener]]:
    """From sockets that exclude others to as many that share, on the same addresses."""
    shared = [listener for listener in listeners if listener.is_passed or isinstance(listener.address, UnixAddress)]
    own = [listener for listener in listeners if listener not in shared]
    close_listeners(own)
    addresses = [listener.address for listener in own]
    return [[*open_listeners(addresses, reuse_port=True), *shared] for _ in range(workers)]


def close_listeners(listeners: Iterable[Listener]) -> None:
    """Close sockets that are still open, and remove the files of Unix sockets."""
    for listener in listeners:
        listener.socket.close()
        if isinstance(listener.address, UnixAddress) and not listener.is_passed:
            with suppress(OSError):  # whoever listens there by now has taken our place
                _remove_dead_socket(listener.address.path)


def make_tls_context(certificate: Path, key: Path, client_ca: Path | None) -> ssl.SSLContext:
    """A server context; with `client_ca`, clients must show a certificate of that CA.

    Raises:
        ConfigurationError: a file cannot be read or does not fit.
    """
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    try:
        context.load_cert_chain(certificate, key, password=_refuse_password)
    except (OSError, ValueError) as error:  # SSLError is an OSError
        reason = error.strerror if isinstance(error, OSError) and error.strerror else type(error).__name__
        raise ConfigurationError(f"BIDSTREAM_TLS_CERT, BIDSTREAM_TLS_KEY: cannot be loaded: {reason}") from None
    if client_ca is not None:
        try:
            context.load_verify_locations(client_ca)
        except OSError as error:
            raise ConfigurationError(f"BIDSTREAM_TLS_CLIENT_CA: cannot be loaded: {error.strerror}") from None
        context.verify_mode = ssl.CERT_REQUIRED
    return context


def _refuse_password() -> str:
    # Without this, OpenSSL would ask for one on the terminal.
    raise ValueError("the private key is encrypted")


def _listen_tcp(address: TcpAddress, *, reuse_port: bool) -> Iterator[Listener]:
    found = socket.getaddrinfo(address.host, address.port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)
    for family, (host, port, *_) in dict.fromkeys((entry[0], entry[4]) for entry in found):
        listener = socket.create_server((host, port), family=family, backlog=BACKLOG, reuse_port=reuse_port)
        yield Listener(listener, TcpAddress(*listener.getsockname()[:2]))


def _listen_unix(path: Path) -> Listener:
    _remove_dead_socket(path)
    listener = socket.socket(socket.AF_UNIX)
    # The mode must hold from the first moment: set it by the mask, not afterwards.
    old_mask = os.umask(0o777 & ~_UNIX_SOCKET_MODE)
    try:
        listener.bind(str(path))
        listener.listen(BACKLOG)
    except OSError:
        listener.close()
        raise
    finally:
        os.umask(old_mask)
    return Listener(listener, UnixAddress(path))


def _take_over(name: str) -> Iterator[Listener]:
    for passed in passed_sockets(name):
        try:
            yield Listener(passed, address_of(passed), is_passed=True)
        except OSError:
            passed.close()
            raise


def _remove_dead_socket(path: Path) -> None:
    """Remove a socket that nobody listens on any more; one in use, or another kind of file, is not touched."""
    try:
        if not stat.S_ISSOCK(path.stat().st_mode):
            raise OSError(errno.EEXIST, "a file that is no socket is in the way")
    except FileNotFoundError:
        return
    with socket.socket(socket.AF_UNIX) as probe:
        try:
            probe.connect(str(path))
        except ConnectionRefusedError:
            path.unlink()
            return
    raise OSError(errno.EADDRINUSE, "another process listens there")
