"""`python -m benchmarks.optouts_store`: the opt-out store at 1 and 10 million opt-outs; --millions 100 for more.

Prints JSON, one line a size: import of a sorted and of an unsorted file (with decoding, without building the filter),
bytes on disk for each id after them, look-ups from Python in a fresh transaction, and groups of new ids at 2,000/s.
"""

import argparse
import json
import random
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import pybase64

from bidstream_svc.core.identity import IdentityScope
from bidstream_svc.optouts.filter_growth import grow_if_needed
from bidstream_svc.optouts.optout_environment import open_environment
from bidstream_svc.optouts.optout_import import OptOutImport
from bidstream_svc.optouts.optout_records import OptOut
from bidstream_svc.optouts.optout_store import OptOutStore
from bidstream_svc.optouts.optout_tables import contains

_TIME_S = 1_700_000_000
_BLOCK_LINES = 20_000
_LOOK_UPS = 200_000
_RATE, _GROUPS_S = 2_000, 10.0


def raw_id(number: int) -> bytes:
    """The id with a number, in no order, of 33 bytes as most ids are."""
    return random.Random(number).randbytes(33)


def sorted_ids(count: int) -> Iterator[bytes]:
    """Ids in order: random ones behind a counter that fills the first bytes."""
    step = 2**64 // count
    random_ = random.Random(1)
    for number in range(count):
        yield (number * step).to_bytes(8, "big") + random_.randbytes(25)


def blocks(ids: Iterator[bytes]) -> Iterator[bytes]:
    lines: list[bytes] = []
    for each in ids:
        lines.append(b"%b,%d\n" % (pybase64.b64encode(each), _TIME_S))
        if len(lines) == _BLOCK_LINES:
            yield b"".join(lines)
            lines.clear()
    yield b"".join(lines)


def run_import(directory: Path, ids: Iterator[bytes], count: int) -> dict[str, float]:
    """Import; what makes the lines does not count."""
    with OptOutStore(directory) as store:
        importer = OptOutImport(store, IdentityScope.UID2, _TIME_S)
        wall_s = cpu_s = 0.0
        for block in blocks(ids):
            begun, begun_cpu = time.perf_counter(), time.process_time()
            importer.add_lines(block)
            wall_s, cpu_s = wall_s + time.perf_counter() - begun, cpu_s + time.process_time() - begun_cpu
        begun, begun_cpu = time.perf_counter(), time.process_time()
        importer.finish()
        wall_s, cpu_s = wall_s + time.perf_counter() - begun, cpu_s + time.process_time() - begun_cpu
        assert store.count() == importer.added == count
    disk = (directory / "data.mdb").stat().st_blocks * 512
    return {"ids_per_s": round(count / wall_s), "ids_per_cpu_s": round(count / cpu_s), "bytes_per_id": disk / count}


def run_look_ups(directory: Path, ids: list[bytes], *, are_in: bool) -> float:
    """Microseconds of processor time for a look-up in LMDB in a transaction of its own, without the filter."""
    environment = open_environment(directory, is_writable=False)
    with environment:
        begun = time.process_time()
        for each in ids:
            assert contains(environment, IdentityScope.UID2, each) is are_in
        used_s = time.process_time() - begun
    environment.close()
    return used_s / len(ids) * 1e6


def run_groups(directory: Path) -> dict[str, float]:
    """Add ids that are due at a rate, all that are due in one group. Latency is from the due time to the disk."""
    latencies_ms: list[float] = []
    with OptOutStore(directory) as store:
        started, sent = time.perf_counter(), 0
        while sent < _RATE * _GROUPS_S:
            due = min(int((time.perf_counter() - started) * _RATE) + 1, int(_RATE * _GROUPS_S))
            if due == sent:
                time.sleep(max(0, started + sent / _RATE - time.perf_counter()))
                continue
            store.add(OptOut(IdentityScope.UID2, raw_id(-1 - number), _TIME_S) for number in range(sent, due))
            now = time.perf_counter()
            latencies_ms.extend((now - started - number / _RATE) * 1e3 for number in range(sent, due))
            sent = due
    latencies_ms.sort()
    return {f"p{part}_ms": latencies_ms[int(len(latencies_ms) * part / 100)] for part in (50, 99)}


def measure(directory: Path, count: int) -> dict[str, object]:
    in_order = run_import(directory / "sorted", sorted_ids(count), count)
    sample = [each for number, each in enumerate(sorted_ids(count)) if number % max(1, count // _LOOK_UPS) == 0]
    random.Random(2).shuffle(sample)
    hit_us = run_look_ups(directory / "sorted", sample, are_in=True)
    miss_us = run_look_ups(directory / "sorted", [raw_id(-number - 1) for number in range(_LOOK_UPS)], are_in=False)
    as_it_comes = run_import(directory / "unsorted", map(raw_id, range(count)), count)
    with OptOutStore(directory / "sorted") as store:
        begun = time.perf_counter()
        grow_if_needed(store)
        filter_s = time.perf_counter() - begun
    return {
        "optouts": count,
        "import_sorted": in_order,
        "import_unsorted": as_it_comes,
        "look_up_us": {"in": hit_us, "not_in": miss_us},
        "filter_s": filter_s,
        "groups": run_groups(directory / "sorted"),
    }


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.optouts_store", description=__doc__)
    parser.add_argument("--millions", type=float, nargs="*", default=[1, 10])
    parser.add_argument("--directory", type=Path, help="on the file system to measure")
    options = parser.parse_args()
    for millions in options.millions:
        with tempfile.TemporaryDirectory(dir=options.directory) as name:
            print(json.dumps(measure(Path(name), int(millions * 1e6))), flush=True)


if __name__ == "__main__":
    main()
