"""Receivers of opt-outs that make mistakes: real servers on loopback, each with one habit."""

import socketserver
import ssl
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from threading import Event, Thread
from typing import NamedTuple
from urllib.parse import parse_qs, urlsplit

OK = b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n"


class Request(NamedTuple):
    """A request as it came.

    Attributes:
        number: from 0, over all connections.
        head: its bytes, up to the empty line.
        ending: set when the receiver ends.
    """

    number: int
    head: bytes
    ending: Event

    @property
    def target(self) -> str:
        return self.head.split(b" ")[1].decode()

    @property
    def query(self) -> dict[str, list[str]]:
        return parse_qs(urlsplit(self.target).query, strict_parsing=True)


# The bytes to send; b"" for none. A connection is kept unless they are empty or say `close`.
Habit = Callable[[Request], bytes]


class NaiveReceiver:
    """Answers each request as its habit says.

    Attributes:
        url: where it listens.
        requests: those that came, in order.
        connections: how many were opened.
    """

    def __init__(self, habit: Habit, tls: ssl.SSLContext | None) -> None:
        receiver = self
        self.requests: list[Request] = []
        self.connections = 0
        self._ending = Event()

        class _Handler(socketserver.StreamRequestHandler):
            def handle(self) -> None:
                receiver.connections += 1
                while head := self._read_head():
                    request = Request(len(receiver.requests), head, receiver._ending)
                    receiver.requests.append(request)
                    answer = habit(request)
                    self.wfile.write(answer)
                    if not answer or b"close" in answer:
                        break

            def _read_head(self) -> bytes:
                head = b""
                try:
                    while line := self.rfile.readline():
                        head += line
                        if line == b"\r\n":
                            return head
                except OSError:
                    pass
                return b""

        self._server = socketserver.ThreadingTCPServer(("127.0.0.1", 0), _Handler)
        self._server.daemon_threads = True
        scheme = "http"
        if tls is not None:
            scheme = "https"
            self._server.socket = tls.wrap_socket(self._server.socket, server_side=True)
        self.url = f"{scheme}://localhost:{self._server.server_address[1]}/optout"

    def serve(self) -> None:
        self._server.serve_forever(poll_interval=0.01)

    def close(self) -> None:
        self._ending.set()
        self._server.shutdown()
        self._server.server_close()


@contextmanager
def naive_receiver(habit: Habit, tls: ssl.SSLContext | None = None) -> Iterator[NaiveReceiver]:
    """Run one in a thread."""
    receiver = NaiveReceiver(habit, tls)
    thread = Thread(target=receiver.serve)
    thread.start()
    try:
        yield receiver
    finally:
        receiver.close()
        thread.join()


def answer(status: str, *headers: str, body: bytes = b"") -> bytes:
    """An answer with a right Content-Length."""
    lines = [f"HTTP/1.1 {status}", *headers, f"Content-Length: {len(body)}", "", ""]
    return "\r\n".join(lines).encode() + body
