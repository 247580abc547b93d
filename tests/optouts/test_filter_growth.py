"""The filter of a store never says that an id is absent which is in the store, whoever writes, grows it, or dies."""

import resource
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from fcntl import LOCK_EX, flock
from itertools import count
from pathlib import Path
from unittest.mock import patch

import pytest

from bidstream_svc.core.kernel import IS_NATIVE
from bidstream_svc.optouts import filter_file, filter_reader, filter_writer
from bidstream_svc.optouts.filter_file import filter_generations, filter_path
from bidstream_svc.optouts.filter_growth import grow_if_needed, needs_growth
from tests.optouts.filtered_lmdb import FilteredLmdb, FilteredReader

pytestmark = pytest.mark.skipif(not IS_NATIVE, reason="there is no native kernel")

ROOT = Path(__file__).parents[2]
ABSENT = range(10**9, 10**9 + 500)
Open = Callable[[], FilteredLmdb]


@pytest.fixture(autouse=True)
def small(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(filter_writer, "MIN_CAPACITY", 500)


@pytest.fixture
def open_store(tmp_path: Path) -> Iterator[Open]:
    opened: list[FilteredLmdb] = []

    def open_store() -> FilteredLmdb:
        opened.append(FilteredLmdb(tmp_path))
        return opened[-1]

    yield open_store
    for store in opened:
        store.die()


def absent(reader: FilteredReader) -> int:
    """How many ids that are in no store the filter knows to be absent."""
    return sum(not reader.may_contain(number) for number in ABSENT)


def test_a_new_store_gets_a_filter(open_store: Open, tmp_path: Path) -> None:
    store = open_store()
    store.add(*range(100))
    reader = FilteredReader(tmp_path)
    assert absent(reader) == 0  # LMDB answers alone
    assert grow_if_needed(store)
    assert not needs_growth(store)
    assert not grow_if_needed(store)
    assert all(map(reader.may_contain, range(100)))
    assert absent(reader) > len(ABSENT) - 10
    store.add(100)
    assert reader.may_contain(100)
    reader.close()
    assert absent(reader) == 0


def test_a_full_one_grows_and_readers_follow(open_store: Open, tmp_path: Path) -> None:
    store = open_store()
    grow_if_needed(store)
    reader = FilteredReader(tmp_path)
    for generation in (1, 2, 3):
        assert reader.filter.native.generation == generation or not reader.may_contain(10**9)
        assert reader.filter.native.generation == generation
        first = store.count()
        capacity = store.filter.capacity
        store.add(*range(first, capacity))
        assert needs_growth(store)
        assert grow_if_needed(store)
        assert store.filter.capacity >= 2 * capacity
        assert filter_generations(tmp_path) == [generation + 1]
        assert all(map(reader.may_contain, range(capacity)))
        assert absent(reader) > len(ABSENT) - 10
    reader.close()


def test_ids_that_are_added_during_growth_are_in_the_new_filter(open_store: Open, tmp_path: Path) -> None:
    store = open_store()
    store.add(*range(1_000))
    numbers = count(1_000)

    def add_before_each_chunk() -> bool:
        store.add(next(numbers))
        return False

    assert grow_if_needed(store, add_before_each_chunk)
    reader = FilteredReader(tmp_path)
    assert store.count() > 1_009
    assert all(map(reader.may_contain, range(store.count())))
    assert absent(reader) > len(ABSENT) - 50
    reader.close()


def test_growth_that_is_stopped_leaves_the_filter_in_use(open_store: Open, tmp_path: Path) -> None:
    store = open_store()
    assert grow_if_needed(store)
    store.add(*range(600))
    assert not grow_if_needed(store, lambda: True)
    assert store.control.growing == 0
    assert filter_generations(tmp_path) == [1]
    reader = FilteredReader(tmp_path)
    assert all(map(reader.may_contain, range(600)))
    assert absent(reader) > 0
    assert grow_if_needed(store)
    reader.close()


def test_one_process_at_a_time_builds(open_store: Open, tmp_path: Path) -> None:
    store = open_store()
    with (tmp_path / "grow.lock").open("w") as lock:
        flock(lock, LOCK_EX)
        assert not grow_if_needed(store)
    assert grow_if_needed(store)


def test_without_room_for_a_larger_one_the_store_goes_on(open_store: Open, tmp_path: Path) -> None:
    store = open_store()
    grow_if_needed(store)
    store.add(*range(520))
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    with patch.object(filter_writer, "MIN_CAPACITY", 10**9):
        resource.setrlimit(resource.RLIMIT_FSIZE, (2**29, hard))
        try:
            with pytest.raises(OSError, match="large"):
                grow_if_needed(store)
        finally:
            resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    store.add(520)
    reader = FilteredReader(tmp_path)
    assert all(map(reader.may_contain, range(521)))
    assert absent(reader) > 0
    reader.close()
    assert grow_if_needed(store)


# What happens to a store with a filter and 300 ids in it, and whether the filter is used afterwards.
def _killed(store: FilteredLmdb) -> None:
    store.die()


def _closed(store: FilteredLmdb) -> None:
    store.close()


def _written_to_without_it(store: FilteredLmdb) -> None:
    store.add_without_filter(300)
    store.die()


def _written_to_after_the_close(store: FilteredLmdb) -> None:
    store.add_without_filter(300)
    store.add_without_filter(301)
    store.close()


def _written_to_without_the_kernel(store: FilteredLmdb) -> None:
    store.die()
    other = FilteredLmdb(store.directory, is_native=False)
    other.add(300)
    other.close()


def _damaged(store: FilteredLmdb) -> None:
    store.die()
    with filter_path(store.directory, 1).open("r+b") as file:
        file.seek(30)
        file.write(b"damaged")


def _truncated(store: FilteredLmdb) -> None:
    store.die()
    with filter_path(store.directory, 1).open("r+b") as file:
        file.truncate(5_000)


def _removed(store: FilteredLmdb) -> None:
    store.die()
    filter_path(store.directory, 1).unlink()


def _of_another_store(store: FilteredLmdb) -> None:
    store.die()
    other = store.directory / "other"
    other.mkdir()
    with patch("tests.optouts.filtered_lmdb.STORE_ID", b"another store   "):
        foreign = FilteredLmdb(other)
        foreign.store_id = b"another store   "
        grow_if_needed(foreign)
        foreign.die()
    filter_path(other, 1).replace(filter_path(store.directory, 1))


@pytest.mark.parametrize(
    ("fate", "is_used"),
    [
        (_killed, True),
        (_closed, True),
        (_written_to_without_it, False),
        (_written_to_after_the_close, False),
        (_written_to_without_the_kernel, False),
        (_damaged, False),
        (_truncated, False),
        (_removed, False),
        (_of_another_store, False),
    ],
    ids=lambda value: value.__name__.removeprefix("_") if callable(value) else None,
)
def test_what_a_filter_is_worth_afterwards(
    open_store: Open, tmp_path: Path, fate: Callable[[FilteredLmdb], None], *, is_used: bool
) -> None:
    store = open_store()
    grow_if_needed(store)
    store.add(*range(300))
    fate(store)
    reader = FilteredReader(tmp_path)  # before a writer has looked at it
    assert all(map(reader.may_contain, range(reader.count())))
    assert (absent(reader) > 0) == is_used
    store = open_store()
    assert (store.control.generation != 0) == is_used
    assert all(map(reader.may_contain, range(reader.count())))
    assert (absent(reader) > 0) == is_used
    assert grow_if_needed(store) != is_used
    with patch.object(filter_reader, "_RETRY_S", 0):
        reader.close()
        reader = FilteredReader(tmp_path)
    assert all(map(reader.may_contain, range(reader.count())))
    assert absent(reader) > 0
    reader.close()


@pytest.mark.parametrize("is_closed", [False, True])
def test_another_boot(open_store: Open, tmp_path: Path, *, is_closed: bool) -> None:
    store = open_store()
    grow_if_needed(store)
    store.add(*range(300))
    store.close() if is_closed else store.die()
    with patch.object(filter_file, "_boot_id", return_value=b"another"):
        store = open_store()
        assert (store.control.generation != 0) == is_closed
        assert grow_if_needed(store) != is_closed
        reader = FilteredReader(tmp_path)
        assert all(map(reader.may_contain, range(300)))
        assert absent(reader) > 0
        store.add(300)
        assert reader.may_contain(300)
        reader.close()
        store.die()
        assert open_store().control.generation != 0  # as that was in this boot


def test_a_writer_that_does_not_know_the_filter_puts_it_out_of_use(open_store: Open, tmp_path: Path) -> None:
    store = open_store()
    grow_if_needed(store)
    reader = FilteredReader(tmp_path)
    store.add_without_filter(1)
    store.add(2)
    assert store.control.generation == 0
    assert reader.may_contain(1)
    assert grow_if_needed(store)
    assert reader.may_contain(1)
    reader.close()


def test_a_generation_is_never_used_again(open_store: Open, tmp_path: Path) -> None:
    store = open_store()
    store.add(1)
    generations = []
    for _ in range(3):
        grow_if_needed(store, lambda: True)
        generations.append(store.control.newest)
    grow_if_needed(store)
    generations.append(store.control.generation)
    filter_path(tmp_path, store.control.generation).unlink()
    store.die()
    store = open_store()
    grow_if_needed(store)
    generations.append(store.control.generation)
    assert generations == [1, 2, 3, 4, 5]


WRITER = """
import os, sys
from pathlib import Path
from bidstream_svc.optouts import filter_writer
from bidstream_svc.optouts.filter_growth import grow_if_needed
from tests.optouts.filtered_lmdb import FilteredLmdb

filter_writer.MIN_CAPACITY = 50
directory, first, step, count = Path(sys.argv[1]), *map(int, sys.argv[2:5])
store = FilteredLmdb(directory)
print(flush=True)
for number in range(first, first + step * count, step):
    store.add(number)
    print(number, flush=True)
    if number % 10 == 0:
        grow_if_needed(store)
store.close()
"""
BUILDER_THAT_DIES = """
import os, signal, sys
from pathlib import Path
from bidstream_svc.optouts.filter_growth import grow_if_needed
from tests.optouts.filtered_lmdb import FilteredLmdb

store = FilteredLmdb(Path(sys.argv[1]))
grow_if_needed(store, lambda: os.kill(os.getpid(), signal.SIGKILL))
"""


def start(script: str, *arguments: object) -> "subprocess.Popen[str]":
    command = [sys.executable, "-c", script, *map(str, arguments)]
    return subprocess.Popen(command, stdout=subprocess.PIPE, text=True, cwd=ROOT)


def test_processes_that_add_and_grow_at_the_same_time(open_store: Open, tmp_path: Path) -> None:
    open_store().add(*range(10**6, 10**6 + 30))
    reader = FilteredReader(tmp_path)
    writers = [start(WRITER, tmp_path, first, 3, 400) for first in range(3)]
    added = list(range(10**6, 10**6 + 30))
    while writers:
        for writer in list(writers):
            assert writer.stdout is not None
            line = writer.stdout.readline()
            if not line:
                assert writer.wait() == 0
                writer.stdout.close()
                writers.remove(writer)
            elif line.strip():
                added.append(int(line))
                assert reader.may_contain(added[-1])  # since its transaction has been committed
    assert len(added) == 1_230
    assert all(map(reader.may_contain, added))
    assert reader.filter.native.generation is not None
    assert reader.filter.native.generation > 3
    assert absent(reader) > len(ABSENT) - 50
    reader.close()


def test_a_builder_that_is_killed(open_store: Open, tmp_path: Path) -> None:
    store = open_store()
    store.add(*range(300))
    builder = start(BUILDER_THAT_DIES, tmp_path)
    assert builder.wait() == -signal.SIGKILL
    assert builder.stdout is not None
    builder.stdout.close()
    assert store.control.growing == 1
    store.add(300)
    assert grow_if_needed(store)
    assert store.control.generation == 2
    assert filter_generations(tmp_path) == [2]
    reader = FilteredReader(tmp_path)
    assert all(map(reader.may_contain, range(301)))
    assert absent(reader) > 0
    reader.close()


def test_writers_that_are_killed(open_store: Open, tmp_path: Path) -> None:
    added: list[int] = []
    for first in range(0, 5_000, 1_000):
        writer = start(WRITER, tmp_path, first, 1, 1_000)
        assert writer.stdout is not None
        assert writer.stdout.readline() == "\n"
        added.extend(int(writer.stdout.readline()) for _ in range(100))
        writer.kill()
        writer.wait()
        added += [int(line) for line in writer.stdout if line.endswith("\n")]
        writer.stdout.close()
        reader = FilteredReader(tmp_path)
        assert all(map(reader.may_contain, added))
        reader.close()
    store = open_store()
    assert store.control.generation  # it is of the same boot
    grow_if_needed(store)
    reader = FilteredReader(tmp_path)
    assert all(map(reader.may_contain, added))
    assert absent(reader) > 0
    reader.close()
