"""`python -m benchmarks.optouts_stream`: opt-outs through a real Redis or Valkey on loopback; prints JSON.

For entries of 1,000 opt-outs, as an import or a backlog has them, and of 10, as webhooks at 2,000/s have them:

- append: opt-outs a second that one receiver appends, entry after entry. Those of 1,000 come from a store's outbox, by
  `Publisher`; those of 10 are appended one by one, as each waits for the answer to the one before.
- catch_up: opt-outs a second that an empty store takes from the stream, by `Follower`, until it is level. At least
  10,000, aim 40,000.
- redis_bytes: memory of the server for each opt-out, by MEMORY USAGE. What an import needs for as long as the stream is
  kept.

Both kinds are measured once a round, in interleaved rounds; each figure is the median of its rounds. Store, client and
server share the machine. `--server valkey-server` measures Valkey.
"""

import argparse
import asyncio
import json
import os
import socket
import subprocess
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from functools import partial
from itertools import islice
from pathlib import Path
from statistics import median

import redis

from benchmarks.rounds import interleave
from bidstream_svc.core.identity import IdentityScope
from bidstream_svc.optouts.follower import Follower
from bidstream_svc.optouts.optout_records import OptOut, pack
from bidstream_svc.optouts.optout_store import OptOutStore
from bidstream_svc.optouts.stream_client import StreamClient, StreamSettings
from bidstream_svc.optouts.stream_publisher import Publisher

_STREAM = "benchmark"
_LARGE, _SMALL = 1_000, 10
_POLL_S = 0.005


@contextmanager
def running_server(program: str, directory: Path) -> Iterator[StreamSettings]:
    """A server that keeps nothing on disk."""
    with socket.create_server(("127.0.0.1", 0)) as found:
        port = found.getsockname()[1]
    arguments = ["--port", str(port), "--bind", "127.0.0.1", "--save", "", "--dir", str(directory)]
    with subprocess.Popen([program, *arguments], stdout=subprocess.DEVNULL) as process:
        try:
            settings = StreamSettings(f"redis://127.0.0.1:{port}/0", _STREAM)
            with redis.Redis.from_url(settings.url) as client:
                while True:
                    with suppress(redis.ConnectionError):
                        client.ping()
                        break
                    time.sleep(0.02)
            yield settings
        finally:
            process.kill()


def made_up(count: int) -> Iterator[OptOut]:
    now_s = int(time.time())
    return (OptOut(IdentityScope.UID2, os.urandom(33), now_s, now_s - 60) for _ in range(count))


async def publish(store: OptOutStore, settings: StreamSettings) -> float:
    """Append all that the store owes. Returns the seconds."""
    publisher = Publisher(store, settings)
    begun = time.perf_counter()
    running = asyncio.create_task(publisher.run())
    while not publisher.state.is_connected or publisher.state.owed:  # noqa: ASYNC110 - it has no event
        await asyncio.sleep(_POLL_S)
    used_s = time.perf_counter() - begun
    await _end(running)
    return used_s


async def append_small(count: int, settings: StreamSettings) -> float:
    """Append small entries. Returns the seconds."""
    client, optouts, own = StreamClient(settings), made_up(count), ""
    begun = time.perf_counter()
    while part := list(islice(optouts, _SMALL)):
        appended = await client.append(own, "", pack(part), epoch=bytes(16))
        assert appended is not None
        own = appended.position.entry_id
    used_s = time.perf_counter() - begun
    await client.close()
    return used_s


async def catch_up(store: OptOutStore, settings: StreamSettings) -> float:
    """Apply the stream to a store until it is level. Returns the seconds."""
    level = asyncio.Event()
    begun = time.perf_counter()
    running = asyncio.create_task(Follower(store, settings, on_level=lambda _: level.set()).run())
    await level.wait()
    used_s = time.perf_counter() - begun
    await _end(running)
    return used_s


async def _end(task: "asyncio.Task[None]") -> None:
    task.cancel()
    with suppress(asyncio.CancelledError):
        await task


def measure(count: int, settings: StreamSettings, directory: Path, *, is_small: bool) -> dict[str, float]:
    with redis.Redis.from_url(settings.url) as client:
        client.delete(_STREAM)
        with tempfile.TemporaryDirectory(dir=directory) as name:
            if is_small:
                append_s = asyncio.run(append_small(count, settings))
            else:
                with OptOutStore(Path(name) / "receiver") as store:
                    store.add(made_up(count), is_owed=True)
                    append_s = asyncio.run(publish(store, settings))
            redis_bytes = client.memory_usage(_STREAM, samples=0)
            with OptOutStore(Path(name) / "sidecar") as store:
                catch_up_s = asyncio.run(catch_up(store, settings))
                assert store.count() == count
    return {"append": count / append_s, "catch_up": count / catch_up_s, "redis_bytes": redis_bytes / count}


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.optouts_stream", description=__doc__)
    parser.add_argument("--optouts", type=int, default=200_000)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--server", default="redis-server", help="program of the server")
    parser.add_argument("--directory", type=Path, help="on the file system for the stores")
    options = parser.parse_args()
    with (
        tempfile.TemporaryDirectory(dir=options.directory) as name,
        running_server(options.server, Path(name)) as settings,
    ):
        variants: dict[int, Callable[[], dict[str, float]]] = {
            size: partial(measure, options.optouts, settings, Path(name), is_small=size == _SMALL)
            for size in (_LARGE, _SMALL)
        }
        for size, samples in interleave(variants, options.rounds).items():
            figures = {key: round(median(sample[key] for sample in samples), 1) for key in samples[0]}
            print(json.dumps({"optouts_an_entry": size, **figures}), flush=True)


if __name__ == "__main__":
    main()
