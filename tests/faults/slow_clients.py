"""Clients that send one byte per second do not affect other clients, and time out."""

import selectors
import socket
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from threading import Event, Thread

from benchmarks.load import run_load
from benchmarks.machine import raise_file_limit
from benchmarks.material import write_requests
from tests.faults.clients import Exchange, Tally, exchanges, running_clients
from tests.faults.faulty_operator import faulty_operator
from tests.faults.outcome import Effort, Outcome
from tests.support.metrics_page import scrape
from tests.support.sidecar import Sidecar, wait_until

_MIN_REQUESTS = 200
_SPARE_FILES = 100
_CONNECTIONS = 4
_LOAD_S = 3.0
_BYTE_EVERY_S = 1.0
_SLOTS = 100  # of that time; spreads the sends, so that the clients do not use all of the processor at once
# One never becomes a request, one never a body, one is nothing that the fast path knows.
_BEGINNINGS = {
    "in the head": b"POST /decrypt HTTP/1.1\r\nHost: localhost\r\nX-Slow: " + b"a" * 3000,
    "in the body": b"POST /decrypt HTTP/1.1\r\nHost: localhost\r\nContent-Length: 9000\r\n\r\n" + b"a" * 3000,
    "in a strange head": b"GET /elsewhere HTTP/1.1\r\nHost: localhost\r\nX-Slow: " + b"a" * 3000,
    "in a chunked body": b"POST /decrypt HTTP/1.1\r\nHost: localhost\r\nTransfer-Encoding: chunked\r\n\r\n"
    + b"f" * 3000,
}


class _SlowClients:
    """Connections that send slowly until the server closes them."""

    def __init__(self, address: str, beginning: bytes, start: int, count: int) -> None:
        host, _, port = address.rpartition(":")
        self._beginning = beginning
        self._start = start
        self._selector = selectors.DefaultSelector()
        self._connections: set[socket.socket] = set()
        for _ in range(count):
            connection = socket.create_connection((host, int(port)))
            connection.sendall(beginning[:start])
            connection.setblocking(False)
            self._selector.register(connection, selectors.EVENT_READ, connection)
            self._connections.add(connection)
        self.opened_s = time.monotonic()
        self.ended_s = 0.0

    @property
    def left(self) -> int:
        return len(self._connections)

    def send_slowly(self, stop: Event) -> None:
        begun_s, ticks = time.monotonic(), 0
        connections = list(self._connections)
        while self.left and not stop.is_set():
            due_s = begun_s + ticks * _BYTE_EVERY_S / _SLOTS
            for key, _ in self._selector.select(max(0.0, due_s - time.monotonic())):
                self._receive(key.data)
            if time.monotonic() >= due_s:
                at = self._start + ticks // _SLOTS
                for connection in connections[ticks % _SLOTS :: _SLOTS]:
                    self._send(connection, self._beginning[at : at + 1])
                ticks += 1
        self.ended_s = time.monotonic()

    def close(self) -> None:
        for connection in tuple(self._connections):
            self._drop(connection)
        self._selector.close()

    def _send(self, connection: socket.socket, byte: bytes) -> None:
        if connection not in self._connections:
            return
        try:
            connection.send(byte)
        except OSError:
            self._drop(connection)

    def _receive(self, connection: socket.socket) -> None:
        try:
            if not connection.recv(4096):
                self._drop(connection)
        except OSError:
            self._drop(connection)

    def _drop(self, connection: socket.socket) -> None:
        self._connections.remove(connection)
        self._selector.unregister(connection)
        connection.close()


@contextmanager
def _sending_slowly(slow_clients: _SlowClients) -> Iterator[Thread]:
    stop = Event()
    thread = Thread(target=slow_clients.send_slowly, args=(stop,), name="slow clients")
    thread.start()
    try:
        yield thread
    finally:
        stop.set()
        thread.join()
        slow_clients.close()


def _p99_us(address: str, pool: list[Exchange]) -> tuple[float, int]:
    """The p99 of good clients, and how many requests it is of."""
    with tempfile.TemporaryDirectory() as directory:
        requests = write_requests(
            Path(directory) / "requests", [(exchange.request, exchange.answer) for exchange in pool]
        )
        # Open loop at a rate far from any limit: what is measured is the wait, not the throughput.
        report = run_load(address, requests, connections=_CONNECTIONS, seconds=_LOAD_S, rate=2_000)
    return report.quantiles_us["p99"], report.checked


def _try(kind: str, directory: Path, effort: Effort) -> Outcome:
    count = min(effort.slow_clients, raise_file_limit() - _SPARE_FILES)
    with faulty_operator(directory) as operator:
        pool = exchanges(operator.state)
        with operator.trusted():
            starting = Sidecar(directory, request_timeout=effort.request_timeout_s, **operator.settings)
        with starting as sidecar:
            sidecar.wait_ready()
            beginning = _BEGINNINGS[kind]
            alone_us = _p99_us(sidecar.data, pool)[0] if effort.measures_latency else 0.0
            slow_clients = _SlowClients(
                sidecar.data, beginning, beginning.index(b"a" * 9 if b"a" * 9 in beginning else b"f" * 9), count
            )
            with _sending_slowly(slow_clients) as sender:
                if effort.measures_latency:
                    crowded_us, asked = _p99_us(sidecar.data, pool)
                    tally = Tally(asked)
                    remark = f"p99 of good clients {crowded_us:.0f} us; alone {alone_us:.0f} us"
                else:
                    with running_clients(sidecar.data, pool) as clients:
                        clients.wait_for(_MIN_REQUESTS)
                    tally, remark = clients.tally, ""
                sender.join(effort.request_timeout_s * 3 + 10)
                assert slow_clients.left == 0, f"{slow_clients.left} of {count} are still there"
                recovery_s = slow_clients.ended_s - slow_clients.opened_s
            wait_until(lambda: scrape(sidecar.admin).value("bidstream_connections") == 0, "no connection to be counted")
    return Outcome(f"{count:,} clients, a byte a second {kind}", tally, recovery_s, remark)


def try_slow_heads(directory: Path, effort: Effort) -> Outcome:
    return _try("in the head", directory, effort)


def try_slow_bodies(directory: Path, effort: Effort) -> Outcome:
    return _try("in the body", directory, effort)


def try_slow_unusual_heads(directory: Path, effort: Effort) -> Outcome:
    return _try("in a strange head", directory, effort)


def try_slow_chunks(directory: Path, effort: Effort) -> Outcome:
    return _try("in a chunked body", directory, effort)


SLOW_CLIENTS = (try_slow_heads, try_slow_bodies, try_slow_unusual_heads, try_slow_chunks)
