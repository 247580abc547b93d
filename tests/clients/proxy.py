"""A TCP proxy that records the requests and the answers that pass through it."""

import socket
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from threading import Thread

_HEAD_END = b"\r\n\r\n"


class RecordingProxy:
    """Passes bytes between clients and a server.

    Args:
        server: `host:port` of the server.

    Attributes:
        address: where it listens.
        sent: for each connection, what its client has sent.
        answered: for each connection, what the server has sent.
    """

    def __init__(self, server: str) -> None:
        host, _, port = server.rpartition(":")
        self._server = (host, int(port))
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.address = f"127.0.0.1:{self._listener.getsockname()[1]}"
        self.sent: list[bytearray] = []
        self.answered: list[bytearray] = []
        self._threads: list[Thread] = []
        self._sockets: list[socket.socket] = []
        self._start(self._accept)

    @property
    def request_heads(self) -> list[bytes]:
        """The heads of all requests."""
        return [head for stream in self.sent for head in _heads(bytes(stream))]

    @property
    def response_heads(self) -> list[bytes]:
        """The heads of all responses."""
        return [head for stream in self.answered for head in _heads(bytes(stream))]

    def close(self) -> None:
        """Accept nothing more, and wait until the clients and the server have closed their connections."""
        self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()
        for thread in self._threads:
            thread.join()
        for end in self._sockets:
            end.close()

    def _start(self, target: object, *args: object) -> None:
        thread = Thread(target=target, args=args)  # type: ignore[arg-type]
        self._threads.append(thread)
        thread.start()

    def _accept(self) -> None:
        with suppress(OSError):
            while True:
                client, _ = self._listener.accept()
                server = socket.create_connection(self._server)
                self._sockets += client, server
                for source, target, streams in ((client, server, self.sent), (server, client, self.answered)):
                    record = bytearray()
                    streams.append(record)
                    self._start(_copy, source, target, record)


def _copy(source: socket.socket, target: socket.socket, record: bytearray) -> None:
    with suppress(OSError):
        while data := source.recv(65_536):
            record += data
            target.sendall(data)
    for end in (source, target):
        with suppress(OSError):
            end.shutdown(socket.SHUT_RDWR)


def _heads(stream: bytes) -> Iterator[bytes]:
    """The heads of messages whose bodies have a Content-Length or none."""
    while stream:
        head, end, stream = stream.partition(_HEAD_END)
        lengths = [line for line in head.lower().split(b"\r\n") if line.startswith(b"content-length:")]
        stream = stream[sum(int(line.partition(b":")[2]) for line in lengths) :]
        yield head + end


@contextmanager
def recording_proxy(server: str) -> Iterator[RecordingProxy]:
    """One that runs."""
    proxy = RecordingProxy(server)
    try:
        yield proxy
    finally:
        proxy.close()
