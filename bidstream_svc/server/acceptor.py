"""Accepts connections on a listening socket and completes their TLS handshakes.

It replaces the event loop's own server for two reasons: a connection is counted and has a deadline before its TLS
handshake, and running out of file descriptors is detected and answered.
"""

import asyncio
import errno
import socket
import ssl
from collections.abc import Callable, Iterable
from contextlib import AsyncExitStack, ExitStack
from functools import partial

from bidstream_svc.addresses import UnixAddress
from bidstream_svc.metrics.cells import RefusalReason
from bidstream_svc.server.base_connection import Connection
from bidstream_svc.server.connections import Connections
from bidstream_svc.server.hosts import HostCheck
from bidstream_svc.server.refusal import REFUSAL_TIMEOUT_S, Refusals
from bidstream_svc.server.sockets import BACKLOG, Listener

# Limits how long a burst of new connections delays the open ones.
MAX_ACCEPTED_PER_ITERATION = 64
# Of the process, of the host, or of memory for another one.
_OUT_OF_DESCRIPTORS = frozenset({errno.EMFILE, errno.ENFILE, errno.ENOBUFS, errno.ENOMEM})
# The pause in accepting when there is no spare descriptor.
PAUSE_S = 0.1
# The kernel's receive buffer of each connection; Linux doubles it. It counts as memory of the container. No read is
# longer, and with TLS, uvloop and OpenSSL keep two buffers as long as the longest read while the connection is open.
_RECEIVE_BYTES = 32 * 1024
_TLS_RECEIVE_BYTES = 8 * 1024
# How long TLS handshakes in progress may still take when no further connections are accepted.
LAST_HANDSHAKES_S = 0.5


class Acceptor:
    """Accepts connections until it is stopped or closed.

    Args:
        listening: the listening socket; `stop` closes it.
        connections: decides whether a connection is admitted.
        connect: returns a new, unconnected protocol.
        refusals: answers connections that are not admitted.
        tls: the TLS context; None for a plain listener.
        is_passed: whether a successor will accept on the socket, so that `stop` leaves it what is queued.
        max_per_iteration: how many connections are accepted in one iteration of the loop.

    Attributes:
        tls: the context of the handshakes that begin from now on; open connections keep theirs.
    """

    def __init__(
        self,
        listening: socket.socket,
        connections: Connections,
        connect: Callable[[], Connection],
        refusals: Refusals,
        tls: ssl.SSLContext | None = None,
        *,
        is_passed: bool = False,
        max_per_iteration: int = MAX_ACCEPTED_PER_ITERATION,
    ) -> None:
        self._is_passed = is_passed
        self._max_per_iteration = max_per_iteration
        self._listening = listening
        self._connections = connections
        self._connect = connect
        self._refusals = refusals
        self.tls = tls
        self._opening: set[asyncio.Task[None]] = set()
        self._loop = asyncio.get_running_loop()
        # Closed for a moment when no descriptor is left, so that a connection can be accepted and refused.
        self._spare = ExitStack()
        listening.setblocking(False)
        self._start()

    def stop(self) -> None:
        """Stop accepting and close the listening socket, after having accepted what is queued on it.

        TLS handshakes in progress have LAST_HANDSHAKES_S to end. Other connections are not affected.
        """
        if self._listening.fileno() >= 0:
            if not self._is_passed:
                self._accept_queued()
            self._end()
            self._loop.call_later(LAST_HANDSHAKES_S, self._cancel_handshakes)

    def close(self) -> None:
        """Stop accepting at once and cancel the handshakes in progress."""
        if self._listening.fileno() >= 0:
            self._end()
        self._cancel_handshakes()

    def move_to(self, listening: socket.socket) -> None:
        """Accept on another socket from now on, and close the current one. Connections to either are accepted.

        Thread-safe. Without effect on a stopped acceptor, except that `listening` is closed.
        """
        self._loop.call_soon_threadsafe(self._move_to, listening)

    def _move_to(self, listening: socket.socket) -> None:
        if self._listening.fileno() < 0:
            listening.close()
            return
        listening.setblocking(False)
        self._accept_queued()  # while the socket still had its file
        self._end()
        self._listening = listening
        self._start()

    def _end(self) -> None:
        self._loop.remove_reader(self._listening)
        self._listening.close()
        self._spare.close()

    def _cancel_handshakes(self) -> None:
        for task in self._opening:
            task.cancel()

    def _start(self) -> None:
        """Accept connections from now on, or after a pause if there is no spare descriptor."""
        if self._listening.fileno() < 0:
            return
        # On the listening socket, because the window that a client has been offered never shrinks.
        receive_bytes = _RECEIVE_BYTES if self.tls is None else _TLS_RECEIVE_BYTES
        self._listening.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, receive_bytes)
        self._spare.close()  # after a pause, there may be one again
        try:
            self._spare.enter_context(socket.socket())
        except OSError:
            # Another thread has taken it. A reader of a socket that cannot be accepted from would keep the loop busy.
            self._loop.remove_reader(self._listening)
            self._loop.call_later(PAUSE_S, self._start)
        else:
            self._loop.add_reader(self._listening, self._accept, self._max_per_iteration)

    def _accept_queued(self) -> None:
        self._accept(BACKLOG + 1)  # the kernel queues one more than it is told

    def _accept(self, maximum: int) -> None:
        for _ in range(maximum):
            try:
                accepted, _address = self._listening.accept()
            except (BlockingIOError, InterruptedError, ConnectionAbortedError):
                return
            except OSError as error:
                if error.errno not in _OUT_OF_DESCRIPTORS:
                    raise
                self._refuse_for_descriptors()
                return
            self._open(accepted)

    def _open(self, accepted: socket.socket) -> None:
        connection = self._connect()
        protocol: asyncio.Protocol = connection
        timeout_s = self._connections.limits.request_timeout_s
        if not self._connections.admit(connection):
            refusal = self._refusals.make()
            if refusal is None:
                self._refuse_at_once(accepted)
                return
            protocol, timeout_s = refusal, REFUSAL_TIMEOUT_S
        task = self._loop.create_task(self._complete(protocol, accepted, timeout_s))
        connection.opening = task
        self._opening.add(task)
        task.add_done_callback(partial(self._end_opening, protocol, accepted))

    def _end_opening(self, protocol: asyncio.Protocol, accepted: socket.socket, task: asyncio.Task[None]) -> None:
        self._opening.discard(task)
        if task.cancelled():  # perhaps before it began
            accepted.close()
            protocol.connection_lost(None)

    async def _complete(self, protocol: asyncio.Protocol, accepted: socket.socket, timeout_s: float) -> None:
        """Connect a protocol to an accepted socket; on a TLS listener, after the handshake."""
        try:
            accepted.setblocking(False)
            await self._loop.connect_accepted_socket(
                lambda: protocol,
                accepted,
                ssl=self.tls,
                ssl_handshake_timeout=None if self.tls is None else timeout_s,
            )
        except OSError as error:  # ssl.SSLError is an OSError
            if isinstance(error, ConnectionAbortedError) and isinstance(protocol, Connection):
                self._connections.count_refusal(RefusalReason.HANDSHAKE_TIMEOUT)
            protocol.connection_lost(None)

    def _refuse_for_descriptors(self) -> None:
        self._spare.close()
        try:
            accepted, _address = self._listening.accept()
        except OSError:
            pass
        else:
            self._connections.count_refusal(RefusalReason.NO_FILE_DESCRIPTOR)
            self._refuse_at_once(accepted)
        self._start()

    def _refuse_at_once(self, accepted: socket.socket) -> None:
        """Close a connection; one without TLS gets a 503, although it has not asked anything yet."""
        with accepted:
            if self.tls is None:
                accepted.setblocking(False)
                self._refusals.answer_at_once(accepted)


def open_acceptors(
    stack: AsyncExitStack,
    listeners: Iterable[Listener],
    connections: Connections,
    connect: Callable[[HostCheck], Connection],
    refusals: Refusals,
    *,
    allowed_hosts: frozenset[str],
    tls: ssl.SSLContext | None = None,
    max_per_iteration: int = MAX_ACCEPTED_PER_ITERATION,
) -> list[Acceptor]:
    """Accept connections on all listeners of a plane until `stack` is closed.

    Args:
        stack: closes the acceptors.
        listeners: the listeners; `tls` applies to those on TCP.
        connections: the connections of the plane.
        connect: returns a new, unconnected protocol; the argument checks its `Host` headers.
        refusals: answers connections that are not admitted.
        allowed_hosts: see HostCheck.
        tls: the TLS context, or None.
        max_per_iteration: see Acceptor.
    """
    acceptors = []
    for listener in listeners:
        make_connection = partial(connect, HostCheck(listener.address, allowed_hosts))
        of_listener = None if isinstance(listener.address, UnixAddress) else tls
        acceptor = Acceptor(
            listener.socket,
            connections,
            make_connection,
            refusals,
            of_listener,
            is_passed=listener.is_passed,
            max_per_iteration=max_per_iteration,
        )
        listener.on_replaced = acceptor.move_to
        stack.callback(acceptor.close)
        acceptors.append(acceptor)
    return acceptors
