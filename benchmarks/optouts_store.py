"""`python -m benchmarks.optouts_store`: the opt-out store at 1 and 10 million opt-outs; --millions 100 for more.

Prints JSON, one line for each: import of a sorted file and of one in no order (from the file to the disk, without a
filter), bytes on disk for each id afterwards, look-ups, the filter when it is as full as it gets, groups of new ids at
2,000/s, the start of the service until it is ready, and a snapshot of a receiver that takes 2,000 webhooks a second.
"""

import argparse
import asyncio
import json
import os
import random
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path

import aiohttp
import pybase64

from benchmarks import optouts_filter
from benchmarks.material import KeySet
from benchmarks.optouts_webhooks import RATE
from benchmarks.targets import key_server, service
from benchmarks.targets.process import free_port, tcp_answers
from bidstream_svc.core.identity import IdentityScope
from bidstream_svc.optouts.filter_growth import grow_if_needed
from bidstream_svc.optouts.optout_environment import open_environment
from bidstream_svc.optouts.optout_import import OptOutImport
from bidstream_svc.optouts.optout_position import Position
from bidstream_svc.optouts.optout_reader import OptOutReader
from bidstream_svc.optouts.optout_records import OptOut
from bidstream_svc.optouts.optout_store import OptOutStore
from bidstream_svc.optouts.optout_tables import contains
from bidstream_svc.optouts.snapshot_client import SnapshotClient

_TIME_S = 1_700_000_000
_BLOCK_IDS, _BLOCK_BYTES = 20_000, 1024 * 1024
_ID_BYTES, _TEXT_BYTES, _COUNTER_BYTES = 33, 44, 8
_LOOK_UPS = 200_000
_GROUPS_S = 10.0
_SETTLE_S = 3.0
_KEY_SET, _API_KEY = KeySet(100), "optouts"


def make_ids(count: int) -> list[bytes]:
    """Random ids of 33 bytes, as most ids are."""
    block = os.urandom(count * _ID_BYTES)
    return [block[start : start + _ID_BYTES] for start in range(0, len(block), _ID_BYTES)]


def blocks_of_ids(count: int, *, is_sorted: bool) -> Iterator[list[bytes]]:
    """Random ids; sorted ones have a counter as their first bytes."""
    step = 2 ** (8 * _COUNTER_BYTES) // count
    for start in range(0, count, _BLOCK_IDS):
        ids = make_ids(min(_BLOCK_IDS, count - start))
        if is_sorted:
            places = range(start * step, (start + len(ids)) * step, step)
            ids = [
                place.to_bytes(_COUNTER_BYTES) + each[_COUNTER_BYTES:] for place, each in zip(places, ids, strict=True)
            ]
        yield ids


def write_lines(path: Path, count: int, *, is_sorted: bool) -> list[bytes]:
    """Write a file to import; returns some of its ids, in no order."""
    kept: list[bytes] = []
    line_end = b",%d\n" % _TIME_S
    with path.open("wb") as file:
        for ids in blocks_of_ids(count, is_sorted=is_sorted):
            text = pybase64.b64encode(b"".join(ids))  # no id needs padding
            file.write(line_end.join([text[start : start + _TEXT_BYTES] for start in range(0, len(text), _TEXT_BYTES)]))
            file.write(line_end)
            kept += random.sample(ids, min(len(ids), -(-_LOOK_UPS * len(ids) // count)))
    random.shuffle(kept)
    return kept


def run_import(directory: Path, path: Path, count: int) -> dict[str, float]:
    """Import a file."""
    begun, begun_cpu = time.perf_counter(), time.process_time()
    with OptOutStore(directory) as store, path.open("rb") as file:
        importer = OptOutImport(store, IdentityScope.UID2, _TIME_S)
        while lines := file.read(_BLOCK_BYTES):
            importer.add_lines(lines + file.readline())
        importer.finish()
        wall_s, cpu_s = time.perf_counter() - begun, time.process_time() - begun_cpu
        assert store.count() == importer.added == count
    disk = (directory / "data.mdb").stat().st_blocks * 512
    return {"ids_per_s": round(count / wall_s), "ids_per_cpu_s": round(count / cpu_s), "bytes_per_id": disk / count}


def time_us(look_up: Callable[[bytes], object], ids: list[bytes], expected: object) -> float:
    """Microseconds of processor time for a look-up of each."""
    begun = time.process_time()
    for each in ids:
        assert look_up(each) is expected
    return round((time.process_time() - begun) / len(ids) * 1e6, 2)


def run_look_ups(directory: Path, present: list[bytes]) -> dict[str, float]:
    """In LMDB, in a transaction of its own, without the filter; and all that Python does for an id as text."""
    absent = make_ids(len(present))
    texts = [pybase64.b64encode(each) for each in present]
    environment = open_environment(directory, is_writable=False)
    with environment:
        in_lmdb = partial(contains, environment, IdentityScope.UID2)
        for each in present:  # into the page cache
            in_lmdb(each)
        present_us, absent_us = time_us(in_lmdb, present, True), time_us(in_lmdb, absent, False)
    environment.close()
    reader = OptOutReader(directory)
    found = reader.check(IdentityScope.UID2, texts[0].decode(), 0)
    assert found is not None
    check_us = time_us(lambda text: reader.check(IdentityScope.UID2, text.decode(), 0), texts, found)
    reader.close()
    return {"in": present_us, "not_in": absent_us, "in_from_text": check_us}


def run_groups(directory: Path) -> dict[str, float]:
    """Add ids that are due at a rate, all that are due in one group. Latency is from the due time to the disk."""
    latencies_ms: list[float] = []
    with OptOutStore(directory) as store:
        started, sent = time.perf_counter(), 0
        while sent < RATE * _GROUPS_S:
            due = min(int((time.perf_counter() - started) * RATE) + 1, int(RATE * _GROUPS_S))
            if due == sent:
                time.sleep(max(0, started + sent / RATE - time.perf_counter()))
                continue
            store.add(OptOut(IdentityScope.UID2, each, _TIME_S) for each in make_ids(due - sent))
            now = time.perf_counter()
            latencies_ms.extend((now - started - number / RATE) * 1e3 for number in range(sent, due))
            sent = due
    latencies_ms.sort()
    return {f"p{part}_ms": round(latencies_ms[int(len(latencies_ms) * part / 100)], 1) for part in (50, 99)}


def run_starts(directory: Path, store: Path) -> dict[str, float]:
    """Seconds from the start of `serve` until it is ready, with the store and without."""
    taken_s = {}
    with key_server(directory, {_API_KEY: _KEY_SET}) as url:
        for name, optout_store in (("without_store", None), ("with_store", store)):
            begun = time.perf_counter()
            with service(directory, url, _API_KEY, optout_store=optout_store):
                taken_s[name] = round(time.perf_counter() - begun, 2)
    return taken_s


@contextmanager
def receiver(store: Path, log: Path) -> Iterator[str]:
    """Run a receiver; yields its address."""
    port = free_port()
    address = f"127.0.0.1:{port}"
    settings = {
        "BIDSTREAM_OPTOUT_STORE": str(store),
        "BIDSTREAM_OPTOUT_LISTEN": address,
        "BIDSTREAM_ADMIN_LISTEN": f"127.0.0.1:{free_port()}",
        "BIDSTREAM_ALLOW_UNAUTHENTICATED": "1",
    }
    command = [sys.executable, "-m", "bidstream_svc", "optouts", "serve"]
    with log.open("wb") as output:
        process = subprocess.Popen(command, env={**os.environ, **settings}, stdout=output, stderr=output)
    try:
        while not tcp_answers(port):
            assert process.poll() is None, log.read_text(encoding="utf-8")[-2000:]
            time.sleep(0.05)
        yield address
    finally:
        process.terminate()
        process.wait()


async def get_snapshot(url: str) -> dict[str, float]:
    """Get a snapshot under writes, and drop it."""
    begun, size = time.perf_counter(), 0
    async with aiohttp.ClientSession() as session, session.get(url, read_bufsize=_BLOCK_BYTES) as response:
        response.raise_for_status()
        head_s = time.perf_counter() - begun
        async for part in response.content.iter_any():
            size += len(part)
    return {"head_s": round(head_s, 2), "all_s": round(time.perf_counter() - begun, 2), "mb": round(size / 1e6)}


def run_snapshot(directory: Path, store: Path, count: int) -> dict[str, object]:
    """A snapshot of a receiver that takes webhooks meanwhile."""
    with receiver(store, directory / "receiver.log") as address:
        command = [sys.executable, "-m", "benchmarks.optouts_webhooks", address, str(_GROUPS_S + count / 1e6)]
        with subprocess.Popen(command, stdout=subprocess.PIPE) as webhooks:
            time.sleep(_SETTLE_S)
            taken = asyncio.run(get_snapshot(f"http://{address}/snapshot"))
            assert webhooks.stdout is not None
            return {**taken, "webhooks": json.loads(webhooks.stdout.read())}


def run_merge(directory: Path, store: Path) -> float:
    """Seconds to get a snapshot from a receiver and merge it into a new store, without writes meanwhile."""
    with receiver(store, directory / "receiver.log") as address, OptOutStore(directory / "merged") as merged:
        begun = time.perf_counter()
        asyncio.run(SnapshotClient(merged, f"http://{address}/snapshot").fetch())
        return round(time.perf_counter() - begun, 2)


def measure(directory: Path, count: int, *, imports_unsorted: bool) -> Iterator[tuple[str, object]]:
    """Yield what is measured, each with its name, as it comes."""
    begun = time.perf_counter()
    store, lines = directory / "store", directory / "lines"
    sample = write_lines(lines, count, is_sorted=True)
    yield "import_sorted", run_import(store, lines, count)
    lines.unlink()
    filter_begun = time.perf_counter()
    with OptOutStore(store) as opened:
        grow_if_needed(opened)
        opened.add((), position=Position(bytes(16), 1, "1-0"))  # which a snapshot has to have
    yield "filter_built_s", round(time.perf_counter() - filter_begun, 1)
    yield "look_up_us", run_look_ups(store, sample)
    yield "start_s", run_starts(directory, store)
    yield "snapshot_under_writes", run_snapshot(directory, store, count)
    yield "groups", run_groups(store)
    (directory / "filter").mkdir()
    yield "filter", optouts_filter.measure(count, directory / "filter")._asdict()
    yield "snapshot_merged_s", run_merge(directory, store)
    if imports_unsorted:
        write_lines(lines, count, is_sorted=False)
        yield "import_unsorted", run_import(directory / "unsorted", lines, count)
    yield "took_s", round(time.perf_counter() - begun)


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.optouts_store", description=__doc__)
    parser.add_argument("--millions", type=float, nargs="*", default=[1, 10])
    parser.add_argument("--unsorted-up-to", type=float, default=10, help="millions that are imported in no order, too")
    parser.add_argument("--directory", type=Path, help="on the file system to measure")
    options = parser.parse_args()
    for millions in options.millions:
        with tempfile.TemporaryDirectory(dir=options.directory) as name:
            imports_unsorted = millions <= options.unsorted_up_to
            count = int(millions * 1e6)
            for what, measured in measure(Path(name), count, imports_unsorted=imports_unsorted):
                print(json.dumps({"optouts": count, what: measured}), flush=True)


if __name__ == "__main__":
    main()
