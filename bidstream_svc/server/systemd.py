"""What systemd passes to this process and wants to be told: sd_listen_fds(3), sd_notify(3), sd_watchdog_enabled(3)."""

import os
import socket
import time
from collections.abc import Iterator, Mapping
from contextlib import suppress
from pathlib import Path

from bidstream_svc.addresses import BoundAddress, TcpAddress, UnixAddress
from bidstream_svc.core.units import NS_PER_S

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


class ServiceManager:
    """Tells systemd the state of the service. Without systemd, its methods have no effect.

    Args:
        environment: the variables that systemd has set; by default those of this process.

    Attributes:
        watchdog_s: seconds within which `beat` must be called again and again, or None.
    """

    def __init__(self, environment: Mapping[str, str] = os.environ) -> None:
        path = environment.get("NOTIFY_SOCKET", "")
        self._socket = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) if path[:1] in {"/", "@"} else None
        # An abstract address, which has no file, begins with a zero byte.
        self._address = "\0" + path[1:] if path.startswith("@") else path
        self._waiting: list[str] = []
        self._is_ready = False
        self.watchdog_s = None
        if self._socket is not None and environment.get("WATCHDOG_PID", str(os.getpid())) == str(os.getpid()):
            with suppress(KeyError, ValueError):
                self.watchdog_s = int(environment["WATCHDOG_USEC"]) / 1_000_000 or None

    def ready(self) -> None:
        """Tell, the first time, that connections are accepted."""
        if not self._is_ready:
            self._is_ready = True
            self._send("READY=1")

    def reloaded(self) -> None:
        """Tell that a reload has been requested and needs no waiting."""
        if self._is_ready:
            # A reload that could not be told yet is superseded by this one. The first may be that of the start.
            del self._waiting[1:]
            self._send(f"RELOADING=1\nMONOTONIC_USEC={time.monotonic_ns() * 1_000_000 // NS_PER_S}")
            self._send("READY=1")

    def stopping(self) -> None:
        """Tell that the service ends."""
        self._send("STOPPING=1")

    def beat(self) -> None:
        """Tell that the service does not hang, and what could not be told before."""
        self._send_waiting()
        if self.watchdog_s is not None:
            self._try_to_send("WATCHDOG=1")

    def period_s(self, longest_s: float) -> float:
        """Return the seconds between two beats: a third of what systemd allows, and at most `longest_s`."""
        return longest_s if self.watchdog_s is None else min(longest_s, self.watchdog_s / 3)

    def close(self) -> None:
        """Close the socket."""
        if self._socket is not None:
            self._socket.close()

    def _send(self, state: str) -> None:
        self._waiting.append(state)
        self._send_waiting()

    def _send_waiting(self) -> None:
        while self._waiting and self._try_to_send(self._waiting[0]):
            del self._waiting[0]

    def _try_to_send(self, state: str) -> bool:
        """Send without waiting. Returns False if systemd has not read what was sent before."""
        if self._socket is not None:
            try:
                self._socket.sendto(state.encode(), socket.MSG_DONTWAIT, self._address)
            except BlockingIOError:
                return False
            except OSError:  # the socket is gone; the service works all the same
                pass
        return True
