"""`python -m benchmarks.relay [SECONDS] [--clients N] [--fleet N] [--keep]`: key responses a second of one core.

Each has 5,000 keys and 60,000 domains. The first one is decrypted and compared; the clients, on the other core, read
the others as fast as they can. Then the sidecars of a fleet ask at once, and come again when they are refused, as
sidecars do: when does the last one have its keys, and how much memory does the relay need? Prints JSON. With `--keep`,
the results are kept for the documents, which `make figures` writes, and for `benchmarks.fleet`.
"""

import argparse
import asyncio
import json
import os
import random
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from functools import partial
from itertools import count
from pathlib import Path
from typing import cast

import uvloop

from benchmarks.figures import KEPT
from benchmarks.keyserver import CLIENT_SECRET, CLIENT_SECRET_BASE64
from benchmarks.machine import LOAD_CPU, describe, raise_file_limit
from benchmarks.material import KeySet
from benchmarks.targets import key_server
from benchmarks.targets.process import Server, free_port, running, tcp_answers
from bidstream_svc.core.crypto import Envelope, open_response, seal_request

_KEY_SET = KeySet(5_000, 60_000)
_API_KEY = "relay"
_NONCE = bytes(8)
_READ_BYTES = 1024 * 1024
_HEAD_BYTES = 1024


def make_request() -> bytes:
    envelope = Envelope(time.time_ns() // 1_000_000, _NONCE, b"")
    body = seal_request(CLIENT_SECRET, os.urandom(12), envelope)
    head = (
        f"POST /v2/key/bidstream HTTP/1.1\r\nHost: relay\r\nAuthorization: Bearer {_API_KEY}\r\n"
        f"Cache-Control: max-age=999999\r\nContent-Length: {len(body)}\r\n\r\n"
    )
    return head.encode() + body


class Client(asyncio.BufferedProtocol):
    """A connection, which counts what it reads and sends the next request when a response is complete."""

    buffer = memoryview(bytearray(_READ_BYTES))  # of all: what is read is dropped

    def __init__(self, *, repeats: bool) -> None:
        self.complete = 0
        self.refused = 0
        self.done: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._repeats = repeats
        self._missing = 0
        self._transport: asyncio.Transport | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """See the base class."""
        self._transport = cast("asyncio.Transport", transport)
        self._transport.write(make_request())

    def get_buffer(self, _sizehint: int) -> memoryview:
        """See the base class."""
        return self.buffer

    def buffer_updated(self, nbytes: int) -> None:
        """See the base class."""
        if not self._missing:
            head = self.buffer[: min(nbytes, _HEAD_BYTES)].tobytes().partition(b"\r\n\r\n")[0]
            if b" 200 " not in head[:20]:
                self.refused += 1
                self._end()
                return
            self._missing = response_length(head)
        self._missing -= nbytes
        if self._missing:
            return
        self.complete += 1
        assert self._transport is not None
        if self._repeats:
            self._transport.write(make_request())
        else:
            self._end()

    def connection_lost(self, _exc: Exception | None) -> None:
        """See the base class."""
        self._end()

    def _end(self) -> None:
        if not self.done.done():
            self.done.set_result(None)
        if self._transport is not None:
            self._transport.close()


@contextmanager
def relay(directory: Path, operator_url: str) -> Iterator[Server]:
    """Run a relay on the core of servers."""
    port, admin_port = free_port(), free_port()
    environment = {
        "BIDSTREAM_OPERATOR_URL": operator_url,
        "BIDSTREAM_API_KEY": _API_KEY,
        "BIDSTREAM_CLIENT_SECRET": CLIENT_SECRET_BASE64,
        "BIDSTREAM_LISTEN": f"127.0.0.1:{port}",
        "BIDSTREAM_ADMIN_LISTEN": f"127.0.0.1:{admin_port}",
    }
    command = [sys.executable, "-m", "bidstream_svc", "relay"]
    with running(command, environment, directory / "relay.log", lambda: tcp_answers(port)) as pid:
        yield Server(pid, f"127.0.0.1:{port}", admin=f"127.0.0.1:{admin_port}")


def response_length(head: bytes) -> int:
    """Return the bytes of a response with this head, which ends before the empty line; `Age` varies in length."""
    length = next(int(line[15:]) for line in head.split(b"\r\n") if line.startswith(b"Content-Length:"))
    return len(head) + 4 + length


async def read_one(port: int) -> int:
    """Check a response; returns its length, head included."""
    reader, writer = await asyncio.open_connection("127.0.0.1", port, limit=2**25)
    writer.write(make_request())
    head = await reader.readuntil(b"\r\n\r\n")
    assert b" 200 " in head[:20], head
    size = response_length(head.removesuffix(b"\r\n\r\n"))
    body = await reader.readexactly(size - len(head))
    assert json.loads(open_response(CLIENT_SECRET, body, _NONCE).body) == json.loads(_KEY_SET.response())
    writer.close()
    return size


async def measure_rate(
    port: int, response_bytes: int, clients: int, seconds: float, server: Server
) -> dict[str, float]:
    loop = asyncio.get_running_loop()
    connected = [
        (await loop.create_connection(lambda: Client(repeats=True), "127.0.0.1", port))[1] for _ in range(clients)
    ]
    await asyncio.sleep(seconds / 4)
    before, cpu_s, started_s = sum(each.complete for each in connected), sum(server.cpu_s()), time.monotonic()
    await asyncio.sleep(seconds)
    complete = sum(each.complete for each in connected) - before
    elapsed_s = time.monotonic() - started_s
    used_s = sum(server.cpu_s()) - cpu_s
    assert not any(each.refused or each.done.done() for each in connected)
    return {
        "responses_per_s": complete / elapsed_s,
        "megabytes_per_s": complete * response_bytes / 1e6 / elapsed_s,
        "cpu_ms_per_response": used_s * 1e3 / complete,
        "core_used": used_s / elapsed_s,
    }


async def fetch(port: int) -> int:
    """Fetch keys as a sidecar does, until they have come. Returns how often it failed."""
    for failures in count():
        with suppress(OSError):
            make = partial(Client, repeats=False)
            _, client = await asyncio.get_running_loop().create_connection(make, "127.0.0.1", port)
            await client.done
            if client.complete:
                return failures
        await asyncio.sleep(random.uniform(0, min(60.0, 2.0**failures)))
    raise AssertionError


async def measure_burst(port: int, fleet: int, server: Server) -> dict[str, float]:
    idle_mb = peak_mb = server.memory_mb()["rss"]
    started_s = time.monotonic()
    fetches = [asyncio.create_task(fetch(port)) for _ in range(fleet)]
    while not all(each.done() for each in fetches):
        await asyncio.wait(fetches, timeout=0.1)
        peak_mb = max(peak_mb, server.memory_mb()["rss"])
    return {
        "sidecars": fleet,
        "seconds": time.monotonic() - started_s,
        "refused": sum(each.result() for each in fetches),
        "idle_mb": idle_mb,
        "peak_mb": peak_mb,
    }


async def measure(port: int, arguments: argparse.Namespace, server: Server) -> dict[str, object]:
    response_bytes = await read_one(port)
    return {
        "machine": describe(),
        "response_bytes": response_bytes,
        "rate": await measure_rate(port, response_bytes, arguments.clients, arguments.seconds, server),
        "burst": await measure_burst(port, arguments.fleet, server),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description="Measure a relay.")
    parser.add_argument("seconds", nargs="?", type=float, default=10.0)
    parser.add_argument("--clients", type=int, default=16)
    parser.add_argument("--fleet", type=int, default=2_000)
    parser.add_argument("--keep", action="store_true", help="keep the results in benchmarks/results/fleet")
    arguments = parser.parse_args()
    raise_file_limit()
    os.sched_setaffinity(0, {LOAD_CPU})
    with tempfile.TemporaryDirectory() as name, ExitStack() as stack:
        url = stack.enter_context(key_server(Path(name), {_API_KEY: _KEY_SET}))
        server = stack.enter_context(relay(Path(name), url))
        port = int(server.tcp.rpartition(":")[2])
        with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
            results = json.dumps(runner.run(measure(port, arguments, server)), indent=1) + "\n"
    print(results, end="")
    if arguments.keep:
        (KEPT / "fleet" / "relay.json").write_text(results, encoding="utf-8")


if __name__ == "__main__":
    main()
