"""Unix sockets whose file was removed, renamed or replaced: found, and bound again.

Nobody can connect to the path of such a socket. It works for open connections only, so it would not be noticed
otherwise.
"""

import os
import socket
import time
from collections.abc import Callable, Iterable

from bidstream_svc.addresses import UnixAddress
from bidstream_svc.logs import get_logger
from bidstream_svc.server.sockets import FileId, Listener, file_id_of, listen_unix

_log = get_logger(__name__)

_RETRY_S = 2.0
_MAX_MESSAGE_BYTES = 1024


def problem_of(listeners: Iterable[Listener]) -> str | None:
    """Return which of these nobody can connect to, or None if all is well."""
    for listener in listeners:
        if listener.is_lost:
            what = "the file of the socket was removed, renamed or replaced"
            return f"{listener.address}: {what}" + ("; restart its systemd socket unit" if listener.is_passed else "")
    return None


class SocketFiles:
    """Binds Unix sockets again whose file was removed, renamed or replaced.

    A path on which another process listens is left to it, and tried again later. Sockets that systemd passed cannot be
    bound again here.

    Args:
        listeners: the listeners of a process, or of all its workers.
        on_bound: called for each new socket.
    """

    def __init__(self, listeners: Iterable[Listener], on_bound: Callable[[Listener], None] = lambda _: None) -> None:
        self._listeners = tuple(dict.fromkeys(listeners))
        self._on_bound = on_bound
        self._reported: dict[Listener, str] = {}
        self._next_try_s = 0.0

    def check(self) -> None:
        """Look for lost files, and bind their sockets again. A problem is logged once."""
        now_s = time.monotonic()
        for listener in self._listeners:
            if not listener.is_lost:
                self._reported.pop(listener, None)
            elif listener.is_passed:
                self._report(listener, "systemd has to bind it again: restart its socket unit")
            elif now_s >= self._next_try_s:
                self._bind_again(listener)

    def _bind_again(self, listener: Listener) -> None:
        assert isinstance(listener.address, UnixAddress)
        try:
            listener.replace(listen_unix(listener.address.path))
        except OSError as error:
            self._next_try_s = time.monotonic() + _RETRY_S
            self._report(listener, error.strerror or str(error))
        else:
            self._reported.pop(listener, None)
            _log.warning("socket bound again", address=str(listener.address))
            self._on_bound(listener)

    def _report(self, listener: Listener, error: str) -> None:
        if self._reported.get(listener) != error:
            self._reported[listener] = error
            _log.error("socket file lost", address=str(listener.address), error=error)


def _name_of(listener: Listener, file_id: FileId | None) -> bytes:
    return os.fsencode(f"{file_id} {listener.address}")


class SocketHandover:
    """Hands sockets that were bound again from a parent to one worker. Create it before the worker is forked."""

    def __init__(self) -> None:
        self._sending, self._receiving = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        self._sending.setblocking(False)
        self._receiving.setblocking(False)

    def fileno(self) -> int:
        """Return the descriptor that is readable when `receive` has something to receive."""
        return self._receiving.fileno()

    def send(self, listener: Listener) -> None:
        """Send the socket of a listener. What a worker does not take, because it hangs, its successor inherits."""
        try:
            socket.send_fds(self._sending, [_name_of(listener, listener.file_id)], [listener.socket.fileno()])
        except OSError:
            _log.warning("socket not handed to a worker", address=str(listener.address))

    def receive(self, listeners: Iterable[Listener]) -> None:
        """Let one of these listeners use the next socket that was sent."""
        try:
            message, descriptors, _flags, _address = socket.recv_fds(self._receiving, _MAX_MESSAGE_BYTES, 1)
        except BlockingIOError:
            return
        for descriptor in descriptors:
            received = socket.socket(fileno=descriptor)
            for listener in listeners:
                # It may have been sent to a worker that has ended, and be outdated.
                if listener.is_lost and message == _name_of(listener, file_id_of(listener.address)):
                    listener.replace(received)
                    break
            else:
                received.close()

    def close(self) -> None:
        """Close both ends."""
        self._sending.close()
        self._receiving.close()
