"""`python -m tests.optouts.kills --kills N [--full-disk]`: kills a process that writes to a store, at random moments.

After each kill, the store has all ids that were acknowledged and none that was not sent. With --full-disk, which needs
root, the store is on a file system that is full most of the time.
"""

import argparse
import os
import random
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from itertools import chain
from pathlib import Path

from bidstream_svc.core.identity import IdentityScope
from bidstream_svc.optouts.optout_store import OptOutStore
from tests.optouts.kill_writer import IDS_OF_A_GROUP, group

_DISK_BYTES = 24 * 1024**2
_MAX_RUN_S = 0.3


def kill_writers(directory: Path, kills: int, random_: random.Random, filler: Path | None = None) -> int:
    """Kill a writer so often. Returns the number of groups that are in the store, all of them checked."""
    groups = 0
    for _ in range(kills):
        acknowledged = _run_and_kill(directory, groups, random_, filler)
        found = _check(directory)
        assert acknowledged <= found <= acknowledged + 1, (acknowledged, found)
        groups = found
    return groups


def _run_and_kill(directory: Path, groups: int, random_: random.Random, filler: Path | None) -> int:
    """Let a writer write, and kill it; the number of groups that are acknowledged then."""
    command = [sys.executable, "-m", "tests.optouts.kill_writer", str(directory), str(groups)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as writer:
        assert writer.stdout is not None
        first = writer.stdout.readline()  # it has begun
        deadline = time.monotonic() + random_.uniform(0, _MAX_RUN_S)
        if filler is not None:
            _fill_and_empty(filler, deadline)
        time.sleep(max(0, deadline - time.monotonic()))
        writer.kill()
        lines = [first, *writer.stdout]
    complete = [line for line in lines if line.endswith("\n")]
    return int(complete[-1]) + 1


def _fill_and_empty(filler: Path, deadline: float) -> None:
    while time.monotonic() < deadline:
        fill(filler)
        time.sleep(0.02)
        filler.unlink()
        time.sleep(0.002)


def fill(filler: Path) -> None:
    """Fill the file system that a file is on."""
    with filler.open("ab", buffering=0) as file, suppress(OSError):
        for size in (1024**2, 4096, 1):
            with suppress(OSError):
                while True:
                    file.write(b"x" * size)


def _check(directory: Path) -> int:
    """The number of groups in the store, which are whole and the first ones."""
    with OptOutStore(directory) as store:
        groups, rest = divmod(store.count(), IDS_OF_A_GROUP)
        assert rest == 0
        wanted = sorted(chain.from_iterable(map(group, range(groups))))
        found = sorted(chain.from_iterable(store.iterate(scope, maximum=10**9) for scope in IdentityScope))
        assert found == wanted
        assert [entry.number for entry in store.read_outbox(0, 10**9)] == list(range(1, groups + 1))
        position = store.position
        assert (position.sequence + 1 if position else 0) == groups
        return groups


@contextmanager
def small_disk(directory: Path, kind: str = "tmpfs") -> Iterator[Path]:
    """A file system of 24 MiB; only for root."""
    mount_point = directory / "disk"
    mount_point.mkdir()
    if kind == "tmpfs":
        _run("mount", "-t", "tmpfs", "-o", f"size={_DISK_BYTES}", "tmpfs", mount_point)
    else:
        image = directory / "image"
        image.touch()
        os.truncate(image, _DISK_BYTES)
        _run("mkfs.ext4", "-q", image)
        _run("mount", "-o", "loop", image, mount_point)
    try:
        yield mount_point
    finally:
        _run("umount", "--lazy", mount_point)


def _run(*command: str | Path) -> None:
    subprocess.run(command, check=True, capture_output=True)


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m tests.optouts.kills", description=__doc__)
    parser.add_argument("--kills", type=int, default=1000)
    parser.add_argument("--full-disk", action="store_true")
    parser.add_argument("--seed", type=int, default=time.time_ns())
    options = parser.parse_args()
    sys.stdout.write(f"seed {options.seed}\n")
    random_ = random.Random(options.seed)  # noqa: S311
    kills, groups = 0, 0
    with tempfile.TemporaryDirectory() as name:
        while kills < options.kills:
            part = min(25, options.kills - kills)  # a new store, so that it does not fill the disk
            if options.full_disk:
                with tempfile.TemporaryDirectory() as place, small_disk(Path(place), "ext4") as disk:
                    groups += kill_writers(disk / "store", part, random_, disk / "filler")
            else:
                groups += kill_writers(Path(name) / str(kills), part, random_)
            kills += part
            sys.stdout.write(f"{kills} kills, {groups * IDS_OF_A_GROUP:,} ids, none lost, none invented\n")
            sys.stdout.flush()


if __name__ == "__main__":
    main()
