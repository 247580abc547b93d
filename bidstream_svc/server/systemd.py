"""Sockets that systemd has opened for this process and passed along, as sd_listen_fds(3) describes."""

import os
import socket
from collections.abc import Iterator
from pathlib import Path

from bidstream_svc.addresses import BoundAddress, TcpAddress, UnixAddress

_FIRST_DESCRIPTOR = 3
_NAME_IF_NONE = "unknown"


def passed_sockets(name: str) -> Iterator[socket.socket]:
    """The listening sockets passed under a name.

    Raises:
        OSError: there is none, or one of them does not listen for streams.
    """
    names = _passed_names()
    if name not in names:
        raise OSError(
            f"systemd passed only {', '.join(names)}" if names else "systemd passed no socket to this process"
        )
    for descriptor, passed in enumerate(names, _FIRST_DESCRIPTOR):
        if passed == name:
            # A duplicate is not inherited by other programs, and the name may be asked for again.
            passed_socket = socket.socket(fileno=os.dup(descriptor))
            if not passed_socket.getsockopt(socket.SOL_SOCKET, socket.SO_ACCEPTCONN):
                passed_socket.close()
                raise OSError("systemd passed a socket that does not listen for streams")
            yield passed_socket


def address_of(listening: socket.socket) -> BoundAddress:
    """Where a socket listens.

    Raises:
        OSError: neither on TCP nor on a file, whose permissions would say who may connect.
    """
    name = listening.getsockname()
    if listening.family in {socket.AF_INET, socket.AF_INET6}:
        return TcpAddress(*name[:2])
    if listening.family == socket.AF_UNIX and isinstance(name, str):
        return UnixAddress(Path(name))
    raise OSError("systemd passed a socket that is neither TCP nor a file")


def _passed_names() -> list[str]:
    """The name of each descriptor, from the first on; none if they are another process's."""
    if os.environ.get("LISTEN_PID") != str(os.getpid()):
        return []
    count = int(os.environ.get("LISTEN_FDS", "0"))
    names = os.environ.get("LISTEN_FDNAMES", ":".join([_NAME_IF_NONE] * count))
    return names.split(":")[:count]
