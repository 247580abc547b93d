"""`python -m benchmarks.optouts_webhooks HOST:PORT SECONDS`: opt-outs to the webhook of a receiver, 2,000 a second.

Each is of another random id. Prints JSON: how many were answered, and the time from when one was due to the answer.
It leaves most of a core to the receiver, unlike the generator of `benchmarks.load`, which polls.
"""

import asyncio
import json
import os
import sys
import time
from collections import deque
from collections.abc import Iterator
from typing import cast

import pybase64
import uvloop

RATE = 2_000
_CONNECTIONS = 64
_TICK_S = 0.005
_TIME_S = 1_700_000_000
_ID_BYTES = 33


class Client(asyncio.Protocol):
    """A connection, with one request at a time."""

    def __init__(self, idle: "deque[Client]", latencies_ms: list[float]) -> None:
        self._idle, self._latencies_ms = idle, latencies_ms
        self._transport: asyncio.Transport | None = None
        self._due_s = 0.0
        self._answer = b""

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """See the base class."""
        self._transport = cast("asyncio.Transport", transport)
        self._idle.append(self)

    def send(self, request: bytes, due_s: float) -> None:
        """Send a request that was due at a time of the monotonic clock."""
        self._due_s, self._answer = due_s, b""
        assert self._transport is not None
        self._transport.write(request)

    def data_received(self, data: bytes) -> None:
        """See the base class."""
        self._answer += data
        if self._answer.endswith(b'{"result":"new"}'):
            self._latencies_ms.append((time.monotonic() - self._due_s) * 1e3)
            self._idle.append(self)
        elif self._answer.endswith(b"}"):
            raise ValueError(f"the answer is {self._answer!r}")


def requests(host: str) -> Iterator[bytes]:
    while True:
        block = os.urandom(1_000 * _ID_BYTES)
        for start in range(0, len(block), _ID_BYTES):
            text = pybase64.b64encode(block[start : start + _ID_BYTES]).decode()
            text = text.replace("+", "%2B").replace("/", "%2F").replace("=", "%3D")
            target = f"/optout?identity={text}&timestamp={_TIME_S}"
            yield f"GET {target} HTTP/1.1\r\nHost: {host}\r\n\r\n".encode()


async def run(address: str, seconds: float) -> dict[str, float]:
    host, _, port = address.partition(":")
    loop = asyncio.get_running_loop()
    latencies_ms: list[float] = []
    idle: deque[Client] = deque()
    for _ in range(_CONNECTIONS):
        await loop.create_connection(lambda: Client(idle, latencies_ms), host, int(port))
    source, sent, begun, count = requests(address), 0, time.monotonic(), int(RATE * seconds)
    while len(latencies_ms) < count:
        due = min(int((time.monotonic() - begun) * RATE), count)
        while sent < due and idle:
            idle.popleft().send(next(source), begun + sent / RATE)
            sent += 1
        await asyncio.sleep(_TICK_S)
    took_s = time.monotonic() - begun
    latencies_ms.sort()
    quantiles = {f"p{part}_ms": round(latencies_ms[int(count * part / 100)], 1) for part in (50, 99)}
    return {"answered": count, "per_s": round(count / took_s), **quantiles}


if __name__ == "__main__":
    print(json.dumps(uvloop.run(run(sys.argv[1], float(sys.argv[2])))))
