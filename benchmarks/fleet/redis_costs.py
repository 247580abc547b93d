"""What followers cost a real Redis: its own processor time and bytes for each command that they send.

The readers are connections that do nothing but read, so that hundreds of them fit on the machine. They send what
`StreamClient` sends.
"""

import asyncio
import os
import re
import tempfile
import time
from pathlib import Path
from typing import Any, NamedTuple

import redis

from benchmarks.optouts_stream import made_up, running_server
from bidstream_svc.optouts.optout_records import pack
from bidstream_svc.optouts.stream_client import StreamClient, StreamSettings

_READERS = 400
_OPTOUTS = 10  # of an entry, as webhooks at 2,000/s have them
_TRAIL = 20  # ids that a follower asks for after some days
_ENTRY_ID = re.compile(rb"\r\n(\d+-\d+)\r\n")


class _Usage(NamedTuple):
    cpu_s: float
    sent_bytes: int

    @classmethod
    def of(cls, client: "redis.Redis") -> "_Usage":
        info: Any = client.info()
        return cls(info["used_cpu_user"] + info["used_cpu_sys"], info["total_net_output_bytes"])


class _Reader(asyncio.Protocol):
    """Reads the stream as a follower does."""

    def __init__(self, name: str) -> None:
        self.entries = 0
        self._name = name.encode()
        self._last = b"$"
        self._received = b""
        self._transport: asyncio.Transport | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """See the base class."""
        assert isinstance(transport, asyncio.Transport)
        self._transport = transport
        self._read()

    def data_received(self, data: bytes) -> None:
        """See the base class."""
        self._received += data
        if found := _ENTRY_ID.findall(self._received):
            # The id stands at the beginning of an entry, whose end is an own field.
            if not self._received.endswith(b"\r\n"):
                return
            self.entries += len(found) // 2  # `previous` is one, too
            self._last = found[0]
            self._received = b""
            self._read()

    def _read(self) -> None:
        parts = [b"XREAD", b"COUNT", b"100", b"BLOCK", b"60000", b"STREAMS", self._name, self._last]
        command = b"*%d\r\n" % len(parts) + b"".join(b"$%d\r\n%b\r\n" % (len(part), part) for part in parts)
        assert self._transport is not None
        self._transport.write(command)


async def _append(client: StreamClient, entries: int, pause_s: float) -> None:
    own = ""
    for _ in range(entries):
        appended = await client.append(own, "", pack(list(made_up(_OPTOUTS))), epoch=bytes(16))
        assert appended is not None
        own = appended.position.entry_id
        await asyncio.sleep(pause_s)


async def _deliver(settings: StreamSettings, port: int, counter: "redis.Redis", *, readers: int) -> _Usage:
    """Append entries while so many wait for them; what the server used for each entry."""
    loop, entries = asyncio.get_running_loop(), 50 if readers else 1_000
    connected = [
        await loop.create_connection(lambda: _Reader(settings.name), "127.0.0.1", port) for _ in range(readers)
    ]
    await asyncio.sleep(0.5)
    client = StreamClient(settings)
    before = _Usage.of(counter)
    await _append(client, entries, 0.05 if readers else 0.0)
    await asyncio.sleep(0.5)
    after = _Usage.of(counter)
    await client.close()
    for transport, _ in connected:
        transport.close()
    return _Usage((after.cpu_s - before.cpu_s) / entries, (after.sent_bytes - before.sent_bytes) // entries)


def _read_batches(counter: "redis.Redis", name: str, *, count: int) -> float:
    """What the server uses for a read of so many entries, in seconds."""
    before, times = _Usage.of(counter), 300
    for _ in range(times):
        counter.execute_command("XREAD", "COUNT", count, "BLOCK", 1, "STREAMS", name, "0-0")  # type: ignore[no-untyped-call]
    return (_Usage.of(counter).cpu_s - before.cpu_s) / times


async def _check(settings: StreamSettings, counter: "redis.Redis") -> _Usage:
    """What the server uses for what a host asks it regularly, as its follower and as its publisher."""
    client, times = StreamClient(settings), 2_000
    trail = [f"{time.time_ns() // 1_000_000 - number}-{number}" for number in range(_TRAIL)]
    newest = (await client.inspect()).last
    assert newest is not None
    before = _Usage.of(counter)
    for _ in range(times):
        await client.inspect([newest.entry_id, *trail])
        await client.is_cut_off()
        await client.append("", newest.entry_id, b"", epoch=bytes(16))
    after = _Usage.of(counter)
    await client.close()
    return _Usage((after.cpu_s - before.cpu_s) / times, (after.sent_bytes - before.sent_bytes) // times)


def measure_redis(program: str = "redis-server") -> dict[str, float]:
    """Measure. Times are microseconds of the server's processor."""
    with tempfile.TemporaryDirectory() as name, running_server(program, Path(name)) as settings:
        port = int(settings.url.rpartition(":")[2].partition("/")[0])
        with redis.Redis.from_url(settings.url) as counter:
            alone = asyncio.run(_deliver(settings, port, counter, readers=0))
            shared = asyncio.run(_deliver(settings, port, counter, readers=_READERS))
            one, many = (_read_batches(counter, settings.name, count=count) for count in (1, 101))
            check = asyncio.run(_check(settings, counter))
            version: Any = counter.info("server")
    return {
        "redis_version": version["redis_version"],
        "readers": _READERS,
        "optouts_an_entry": _OPTOUTS,
        "append_us": round(alone.cpu_s * 1e6, 1),
        "read_us": round((shared.cpu_s - alone.cpu_s) / _READERS * 1e6, 2),
        "further_entry_us": round((many - one) / 100 * 1e6, 2),
        "entry_bytes": round((shared.sent_bytes - alone.sent_bytes) / _READERS),
        "packed_bytes": len(pack(list(made_up(_OPTOUTS)))),
        "check_us": round(check.cpu_s * 1e6, 1),
        "check_bytes": check.sent_bytes,
        "load_before": round(os.getloadavg()[0], 2),
    }
