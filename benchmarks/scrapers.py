"""A process that scrapes `/metrics` in a loop over many connections: `python -m benchmarks.scrapers HOST:PORT COUNT`.

Each connection sends the next request when its answer is complete. Every answer is checked, and the first wrong one
ends the process. It prints a line when each connection has got an answer, and ends at the end of its input.
"""

import re
import selectors
import socket
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager

from benchmarks.machine import LOAD_CPU, on_cpu

_REQUEST = b"GET /metrics HTTP/1.1\r\nHost: localhost\r\n\r\n"
_HEAD = re.compile(rb"HTTP/1\.1 200 OK\r\n.*?Content-Length: (\d+)\r\n.*?\r\n\r\n", re.DOTALL)
_LAST_FAMILY = b"\nprocess_max_fds "
_STOP_S = 10.0


class _Scraper:
    def __init__(self, address: str) -> None:
        host, _, port = address.rpartition(":")
        self.socket = socket.create_connection((host, int(port)))
        self.socket.sendall(_REQUEST)
        self.answers = 0
        self._received = bytearray()

    def receive(self) -> None:
        """Read what has arrived; check an answer that is complete, and send the next request."""
        data = self.socket.recv(65536)
        if not data:
            raise RuntimeError("a scraper's connection was closed")
        self._received += data
        head = _HEAD.match(self._received)
        if head is None or len(self._received) < head.end() + int(head[1]):
            if head is None and b"\r\n\r\n" in self._received:
                raise RuntimeError(f"not the answer to a scrape: {bytes(self._received[:200])!r}")
            return
        if len(self._received) > head.end() + int(head[1]) or _LAST_FAMILY not in self._received:
            raise RuntimeError("a scrape is not complete")
        self._received.clear()
        self.answers += 1
        self.socket.sendall(_REQUEST)


@contextmanager
def scraping(address: str, count: int) -> Iterator[None]:
    """Scrape over `count` connections meanwhile; none if 0.

    Raises:
        RuntimeError: a scrape failed.
    """
    if not count:
        yield
        return
    command = [sys.executable, "-m", "benchmarks.scrapers", address, str(count)]
    with on_cpu(LOAD_CPU):
        process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None
    process.stdout.readline()
    try:
        yield
    finally:
        process.communicate(timeout=_STOP_S)
    if process.returncode:
        raise RuntimeError("the scrapers failed")


def main() -> None:
    address, count = sys.argv[1], int(sys.argv[2])
    scrapers = [_Scraper(address) for _ in range(count)]
    with selectors.DefaultSelector() as selector:
        for scraper in scrapers:
            selector.register(scraper.socket, selectors.EVENT_READ, scraper)
        selector.register(sys.stdin, selectors.EVENT_READ)
        is_ready = False
        while True:
            if not is_ready and all(scraper.answers for scraper in scrapers):
                is_ready = True
                print("ready", flush=True)
            for key, _ in selector.select():
                if key.data is None:
                    return
                key.data.receive()


if __name__ == "__main__":
    main()
