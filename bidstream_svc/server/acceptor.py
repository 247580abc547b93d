"""Accepts the connections of a listening socket, and completes their TLS handshakes.

Accepting is done here and not by the event loop's server, so that a connection counts and has a deadline before its
handshake, and so that running out of file descriptors is noticed and answered.
"""

import asyncio
import errno
import os
import socket
import ssl
from collections.abc import Callable

from bidstream_svc.logs import get_logger
from bidstream_svc.metrics.cells import RefusalReason
from bidstream_svc.server.connections import Connection, Connections
from bidstream_svc.server.refusal import REFUSAL_TIMEOUT_S, Refusals

_log = get_logger(__name__)

# A rush of new connections must not keep those that are open waiting.
_MAX_ACCEPTED_PER_ITERATION = 64
_OUT_OF_DESCRIPTORS = frozenset({errno.EMFILE, errno.ENFILE})


class Acceptor:
    """Accepts until closed.

    Args:
        listening: a listening socket; it is closed with the acceptor.
        connections: admits connections, or not.
        connect: makes a connection.
        refusals: answers those that are not admitted.
        tls: for a TLS listener.
    """

    def __init__(
        self,
        listening: socket.socket,
        connections: Connections,
        connect: Callable[[], Connection],
        refusals: Refusals,
        tls: ssl.SSLContext | None = None,
    ) -> None:
        self._listening = listening
        self._connections = connections
        self._connect = connect
        self._refusals = refusals
        self._tls = tls
        self._opening: set[asyncio.Task[None]] = set()
        self._loop = asyncio.get_running_loop()
        # Given up for a moment to accept, and refuse, a connection for which there is no descriptor left.
        self._spare_descriptor = os.open(os.devnull, os.O_RDONLY | os.O_CLOEXEC)
        listening.setblocking(False)
        self._loop.add_reader(listening, self._accept)

    def stop(self) -> None:
        """Accept no more, and close the socket; connections stay."""
        if self._listening.fileno() >= 0:
            self._loop.remove_reader(self._listening)
            self._listening.close()
            os.close(self._spare_descriptor)

    def close(self) -> None:
        """Stop, and end handshakes."""
        self.stop()
        for task in self._opening:
            task.cancel()

    def _accept(self) -> None:
        for _ in range(_MAX_ACCEPTED_PER_ITERATION):
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
                accepted.close()
                return
            protocol, timeout_s = refusal, REFUSAL_TIMEOUT_S
        task = self._loop.create_task(self._complete(protocol, accepted, timeout_s))
        self._opening.add(task)
        task.add_done_callback(self._opening.discard)

    async def _complete(self, protocol: asyncio.Protocol, accepted: socket.socket, timeout_s: float) -> None:
        """Connect a protocol to an accepted socket, after the TLS handshake if there is one."""
        try:
            accepted.setblocking(False)
            await self._loop.connect_accepted_socket(
                lambda: protocol,
                accepted,
                ssl=self._tls,
                ssl_handshake_timeout=None if self._tls is None else timeout_s,
            )
        except (OSError, asyncio.CancelledError) as error:  # of TLS, too: ssl.SSLError is an OSError
            if isinstance(error, ConnectionAbortedError) and isinstance(protocol, Connection):
                self._connections.count_refusal(RefusalReason.HANDSHAKE_TIMEOUT)
            protocol.connection_lost(None)

    def _refuse_for_descriptors(self) -> None:
        os.close(self._spare_descriptor)
        try:
            accepted, _address = self._listening.accept()
        except OSError:
            pass
        else:
            self._connections.count_refusal(RefusalReason.NO_FILE_DESCRIPTOR)
            with accepted:
                if self._tls is None:
                    accepted.setblocking(False)
                    self._refusals.answer_at_once(accepted)
        self._spare_descriptor = os.open(os.devnull, os.O_RDONLY | os.O_CLOEXEC)
