"""The store alone, under a writer that is killed at random moments. `tests.optouts.kills` does that at length."""

import os
from itertools import count
from pathlib import Path
from random import Random

import pytest

from bidstream_svc.core.errors import OptOutStoreError
from bidstream_svc.core.identity import IdentityScope
from bidstream_svc.optouts.optout_records import OptOut
from bidstream_svc.optouts.optout_store import OptOutStore
from tests.optouts.kill_writer import group
from tests.optouts.kills import fill, kill_writers, small_disk

needs_root = pytest.mark.skipif(os.geteuid() != 0, reason="only root can mount a small file system")


def test_a_killed_writer_loses_nothing_and_invents_nothing(tmp_path: Path) -> None:
    assert kill_writers(tmp_path / "store", 30, Random(1)) >= 30  # noqa: S311


@needs_root
def test_nor_on_a_file_system_that_is_mostly_full(tmp_path: Path) -> None:
    with small_disk(tmp_path) as disk:
        assert kill_writers(disk / "store", 10, Random(2), disk / "filler") >= 10  # noqa: S311


def add_until_full(store: OptOutStore) -> None:
    for number in count(1):
        store.add(group(number), is_owed=True)


@needs_root
@pytest.mark.parametrize("kind", ["tmpfs", "ext4"])
def test_full_disk(tmp_path: Path, kind: str) -> None:
    with small_disk(tmp_path, kind) as disk, OptOutStore(disk / "store") as store:
        store.add(group(0))
        fill(disk / "filler")
        with pytest.raises(OptOutStoreError, match=r"^opt-out store .*/store: [Nn]o space left on device$"):
            add_until_full(store)  # some pages are free
        written = store.count() // len(group(0))
        assert store.add(group(0)) == 0  # duplicates need no room
        assert store.count() == written * len(group(0))
        with pytest.raises(OptOutStoreError):
            store.add([OptOut(IdentityScope.UID2, os.urandom(32), 1) for _ in range(10_000)])
        (disk / "filler").unlink()
        assert store.add(group(written)) == len(group(0))
        assert all(store.contains(optout.scope, optout.raw_id) for number in range(written) for optout in group(number))


@needs_root
def test_a_disk_that_fills_up_in_a_large_write_is_told(tmp_path: Path) -> None:
    """LMDB calls it an error of input or output, for which the runbook would have the disk replaced."""
    message = r"([Nn]o space left on device|Input/output error: the disk is full, or fails)$"
    chunks = ([OptOut(IdentityScope.UID2, os.urandom(32), 1) for _ in range(20_000)] for _ in range(100))
    with (
        small_disk(tmp_path) as disk,
        OptOutStore(disk / "store") as store,
        pytest.raises(OptOutStoreError, match=message),
    ):
        list(map(store.add, chunks))


@needs_root
def test_a_store_cannot_be_created_on_a_full_disk_and_can_later(tmp_path: Path) -> None:
    with small_disk(tmp_path, "ext4") as disk:
        fill(disk / "filler")
        with pytest.raises(OptOutStoreError, match=r"[Nn]o space left on device$"):
            OptOutStore(disk / "store")
        (disk / "filler").unlink()
        with OptOutStore(disk / "store") as store:
            assert store.add(group(0)) == len(group(0))
