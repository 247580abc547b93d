"""Searches for the most expensive request: `python -m benchmarks.costliest [--seconds N]`, or `make costliest`.

Each request is sent to a real service process, on eight connections at a time. Its cost is the processor time of that
process. The search starts from a corpus of expensive requests (see `expensive`) and changes the costliest again
and again: it repeats parts, inserts fragments, and changes how the bytes are divided into chunks and segments. One
search maximises the cost of a request, one the cost of a byte that the client sends. What they find is measured again.

Bytes are those on an Ethernet: 66 bytes for the headers of each segment, and seven segments for a new connection.
"""

import argparse
import json
import socket
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from random import Random
from statistics import median
from typing import Any

from benchmarks.expensive import Candidate, corpus, mutate
from benchmarks.figures import KEPT
from benchmarks.machine import LOAD_CPU, describe, on_cpu
from benchmarks.material import KeySet, make_samples
from benchmarks.targets import key_server, service

_API_KEY = "costliest"
_KEY_SET = KeySet(100)
_SEGMENT_HEADER_BYTES = 66
_SEGMENT_BYTES = 1448
_CONNECTION_BYTES = 7 * _SEGMENT_HEADER_BYTES
_ANSWER_S = 5.0
_CONNECTIONS = 8
_MIN_CPU_NS = 20_000_000
_MAX_REPEATS = 400
_SEARCH_CPU_NS = 3_000_000
_SEARCH_REPEATS = 40
_REMEASUREMENTS = 5


@dataclass(frozen=True, slots=True)
class Cost:
    """The cost of one request: processor time of the service, and bytes on the wire."""

    cpu_us: float
    wire_bytes: float

    @property
    def ns_per_byte(self) -> float:
        """Processor time of the service for each byte that was sent."""
        return self.cpu_us * 1000 / self.wire_bytes


class Meter:
    """Measures requests against a running service."""

    def __init__(self, port: int, pid: int) -> None:
        self._port = port
        self._number = 0  # of requests sent
        self._clock = (~pid << 3) | 2  # CPUCLOCK_SCHED of a process, as clock_getcpuclockid(3) makes it

    def measure(self, candidate: Candidate, min_cpu_ns: int = _MIN_CPU_NS, repeats: int = _MAX_REPEATS) -> Cost:
        """Send a request until it has cost enough processor time, or often enough."""
        sent = wire_bytes = 0
        open_ones: list[_Connection] = []
        started_ns = time.clock_gettime_ns(self._clock)
        while sent < repeats and time.clock_gettime_ns(self._clock) - started_ns < min_cpu_ns:
            while len(open_ones) < _CONNECTIONS:
                open_ones.append(_Connection(self._port))
                # The first ones stay open, unless the service closes them.
                wire_bytes += _CONNECTION_BYTES if sent else 0
            for connection in open_ones:
                self._number += 1
                pieces = candidate.pieces(self._number)
                connection.send(pieces)
                sent += candidate.pipelined
                wire_bytes += _wire_bytes(pieces)
            open_ones = [each for each in open_ones if each.receive(candidate.pipelined)]
        for connection in open_ones:
            connection.close()
        return Cost((time.clock_gettime_ns(self._clock) - started_ns) / sent / 1000, wire_bytes / sent)


class _Connection:
    def __init__(self, port: int) -> None:
        self._socket = socket.create_connection(("127.0.0.1", port), timeout=_ANSWER_S)
        self._socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self._received = b""

    def send(self, pieces: list[bytes]) -> None:
        """Send pieces, unless the service closes the connection meanwhile."""
        with suppress(OSError):
            for piece in pieces:
                self._socket.sendall(piece)

    def receive(self, answers: int) -> bool:
        """Read the answers and return whether the connection is still open."""
        try:
            while answers:
                head, _, rest = self._read_until(b"\r\n\r\n").partition(b"\r\n\r\n")
                is_interim = head.startswith(b"HTTP/1.1 100 ")
                length = 0 if is_interim else int(head.partition(b"Content-Length: ")[2].split(b"\r\n")[0])
                while len(rest) < length:
                    rest += self._receive()
                self._received = rest[length:]
                answers -= not is_interim
                if b"\r\nConnection: close" in head:
                    raise ConnectionError
        except OSError:
            self.close()
            return False
        return True

    def close(self) -> None:
        self._socket.close()

    def _read_until(self, end: bytes) -> bytes:
        while end not in self._received:
            self._received += self._receive()
        return self._received

    def _receive(self) -> bytes:
        received = self._socket.recv(1 << 20)
        if not received:
            raise ConnectionError
        return received


def _wire_bytes(pieces: list[bytes]) -> int:
    return sum(len(piece) + _SEGMENT_HEADER_BYTES * -(-len(piece) // _SEGMENT_BYTES) for piece in pieces)


@contextmanager
def _running_meter() -> Iterator[Meter]:
    with (
        tempfile.TemporaryDirectory() as directory,
        key_server(Path(directory), {_API_KEY: _KEY_SET}) as url,
        service(Path(directory), url, _API_KEY) as server,
        on_cpu(LOAD_CPU),
    ):
        yield Meter(int(server.tcp.rpartition(":")[2]), server.pid)


Score = Callable[[Cost], float]


def _search(meter: Meter, seeds: Mapping[str, Candidate], score: Score, seconds: float, random: Random) -> Candidate:
    """Hill climbing from the costliest seeds; each change is measured twice before it is accepted."""

    def rate(candidate: Candidate) -> float:
        return score(meter.measure(candidate, _SEARCH_CPU_NS, _SEARCH_REPEATS))

    pool = sorted(((rate(each), number, each) for number, each in enumerate(seeds.values())), reverse=True)[:6]
    deadline = time.monotonic() + seconds
    number = len(seeds)
    while time.monotonic() < deadline:
        candidate = mutate(random.choice(pool)[2], random)
        found = rate(candidate)
        if found > pool[-1][0] and (found := min(found, rate(candidate))) > pool[-1][0]:
            number += 1
            pool = sorted([*pool, (found, number, candidate)], reverse=True)[:6]
    return pool[0][2]


def _good_of(candidate: Candidate) -> str:
    """Return the name of the request that this one is compared with: a batch with a good batch of 1,000 tokens."""
    return "good /decrypt/batch" if candidate.path == "/decrypt/batch" else "good /decrypt"


def _described(found: Mapping[str, Candidate]) -> dict[str, Candidate]:
    return {f"{name}: {each.describe()}": each for name, each in found.items()}


def measure_costliest(seconds: float) -> dict[str, Any]:
    """Measure the corpus and what the searches find; each search takes `seconds`."""
    samples = make_samples(_KEY_SET, 1000, client_side_every=1)
    good, seeds = corpus(samples)
    random = Random(1)
    with _running_meter() as meter:
        found = {
            "found by search, per request": _search(meter, seeds["/decrypt"], lambda c: c.cpu_us, seconds, random),
            "found by search, per byte": _search(meter, seeds["/decrypt"], lambda c: c.ns_per_byte, seconds, random),
        }
        batch = {
            "found by search, batch": _search(meter, seeds["/decrypt/batch"], lambda c: c.cpu_us, seconds, random),
        }
        everything = {f"good {path}": each for path, each in good.items()}
        found, batch = _described(found), _described(batch)
        everything |= seeds["/decrypt"] | found | seeds["/decrypt/batch"] | batch
        # In rounds, so that other work on the machine affects all alike.
        rounds = [{name: meter.measure(each) for name, each in everything.items()} for _ in range(_REMEASUREMENTS)]
    rows = {
        name: {
            "route": each.path,
            "cpu_us": median(costs[name].cpu_us for costs in rounds),
            "wire_bytes": median(costs[name].wire_bytes for costs in rounds),
            "to_good": median(costs[name].cpu_us / costs[_good_of(each)].cpu_us for costs in rounds),
            "to_good_per_byte": median(
                costs[name].ns_per_byte / costs["good /decrypt"].ns_per_byte for costs in rounds
            ),
        }
        for name, each in everything.items()
    }
    return {"machine": describe(), "seconds": seconds, "rows": rows}


def main() -> None:
    parser = argparse.ArgumentParser(description="Search for the most expensive request.")
    parser.add_argument("--seconds", type=float, default=60, help="length of each of the three searches")
    results = measure_costliest(parser.parse_args().seconds)
    (KEPT / "costliest.json").write_text(json.dumps(results, indent=1) + "\n", encoding="utf-8")
    for name, row in results["rows"].items():
        print(f"{name:40} {row['cpu_us']:10.1f} µs {row['to_good']:8.1f} good, {row['to_good_per_byte']:6.2f} per byte")


if __name__ == "__main__":
    main()
