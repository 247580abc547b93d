"""Listening sockets that systemd passes to this process, see sd_listen_fds(3)."""

import os
import socket
from collections.abc import Iterator
from pathlib import Path

from bidstream_svc.addresses import BoundAddress, TcpAddress, UnixAddress

_FIRST_DESCRIPTOR = 3
_NAME_IF_NONE = "unknown"


def passed_sockets(name: str) -> Iterator[socket.socket]:
    """Yield the listening sockets that were passed under a name.

    Raises:
        OSError: there is none with this name, or one is not a listening stream socket.
    """
    names = _passed_names()
    if name not in names:
        raise OSError(
            f"systemd passed only {', '.join(names)}" if names else "systemd passed no socket to this process"
        )
    for descriptor, passed in enumerate(names, _FIRST_DESCRIPTOR):
        if passed == name:
            # A duplicate, so that closing it leaves the descriptor for a second call. os.dup() also sets close-on-exec.
            passed_socket = socket.socket(fileno=os.dup(descriptor))
            if not passed_socket.getsockopt(socket.SOL_SOCKET, socket.SO_ACCEPTCONN):
                passed_socket.close()
                raise OSError("systemd passed a socket that is not a listening stream socket")
            yield passed_socket


def address_of(listening: socket.socket) -> BoundAddress:
    """Return the address of a listening socket.

    Raises:
        OSError: it is neither a TCP socket nor a Unix socket with a file. Only a file has permissions that control who
            may connect.
    """
    name = listening.getsockname()
    if listening.family in {socket.AF_INET, socket.AF_INET6}:
        return TcpAddress(*name[:2])
    if listening.family == socket.AF_UNIX and isinstance(name, str):
        return UnixAddress(Path(name))
    raise OSError("systemd passed a socket that is neither TCP nor a Unix socket with a file")


def _passed_names() -> list[str]:
    """Return the name of each descriptor, in order; empty if they were passed to another process."""
    if os.environ.get("LISTEN_PID") != str(os.getpid()):
        return []
    count = int(os.environ.get("LISTEN_FDS", "0"))
    names = os.environ.get("LISTEN_FDNAMES", ":".join([_NAME_IF_NONE] * count))
    return names.split(":")[:count]
