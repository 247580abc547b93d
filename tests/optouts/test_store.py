"""The opt-out store: what is added is found, by every process, once it is committed."""

import os
import random
import subprocess
import sys
import threading
from collections.abc import Sequence
from itertools import chain
from pathlib import Path

import lmdb
import pytest
from hypothesis import given
from hypothesis import strategies as st

from bidstream_svc.core.errors import OptOutStoreError
from bidstream_svc.core.identity import IdentityScope
from bidstream_svc.optouts import optout_store, optout_tables
from bidstream_svc.optouts.optout_environment import Environment
from bidstream_svc.optouts.optout_position import Position
from bidstream_svc.optouts.optout_records import OptOut, decode_record, encode_record
from bidstream_svc.optouts.optout_store import OptOutStore
from bidstream_svc.optouts.optout_tables import Records

_SCOPES = st.sampled_from(IdentityScope)
_TIMES = st.integers(1, 2**32 - 1)


def optouts(count: int, seed: int = 1) -> list[OptOut]:
    """Opt-outs of both programmes and both lengths, in no order."""
    random_ = random.Random(seed)  # noqa: S311
    return [
        OptOut(
            random_.choice([*IdentityScope]),
            random_.randbytes(random_.choice((32, 33))),
            random_.randrange(1, 2**32),
            random_.choice((None, random_.randrange(1, 2**32))),
        )
        for _ in range(count)
    ]


def read_all(store: OptOutStore, maximum: int = 1_000) -> list[OptOut]:
    found: list[OptOut] = []
    for scope in IdentityScope:
        after = b""
        while chunk := store.iterate(scope, after, maximum):
            assert len(chunk) <= maximum
            found.extend(chunk)
            after = chunk[-1].raw_id
    return found


def in_order(records: Sequence[OptOut]) -> list[OptOut]:
    return sorted(records, key=lambda optout: (optout.scope, len(optout.raw_id), optout.raw_id))


@given(
    _SCOPES,
    st.one_of(st.binary(min_size=32, max_size=32), st.binary(min_size=33, max_size=33)),
    _TIMES,
    _TIMES | st.none(),
)
def test_records_parse_back(scope: IdentityScope, raw_id: bytes, arrived_s: int, entry_s: int | None) -> None:
    optout = OptOut(scope, raw_id, arrived_s, entry_s)
    assert decode_record(scope, encode_record(optout)) == optout


def test_what_is_added_is_found_with_its_times(tmp_path: Path) -> None:
    added = optouts(12_000)
    with OptOutStore(tmp_path / "new" / "store") as store:
        for start in range(0, len(added), 5_000):
            assert store.add(added[start : start + 5_000]) == len(added[start : start + 5_000])
        assert all(store.contains(optout.scope, optout.raw_id) for optout in added)
        assert not any(store.contains(optout.scope, optout.raw_id) for optout in optouts(1_000, seed=2))
        assert not any(store.contains(IdentityScope(1 - optout.scope), optout.raw_id) for optout in added)
        assert not store.contains(IdentityScope.UID2, b"of another length")
        assert read_all(store) == read_all(store, 7_001) == in_order(added)
        ids = [bytes([optout.scope]) + optout.raw_id for optout in in_order(added)]
        assert [*chain.from_iterable(store.filter_ids())] == ids
        store_id = store.store_id
    with OptOutStore(tmp_path / "new" / "store") as store:
        assert (store.count(), store.store_id) == (len(added), store_id)
        assert store.count(IdentityScope.UID2) + store.count(IdentityScope.EUID) == len(added)


@pytest.mark.parametrize("raw_id", [bytes(32), bytes(33), b"\xff" * 32, b"\xff" * 33])
def test_first_and_last_id(tmp_path: Path, raw_id: bytes) -> None:
    with OptOutStore(tmp_path) as store:
        assert not store.contains(IdentityScope.UID2, raw_id)
        assert store.add([OptOut(IdentityScope.UID2, raw_id, 5)]) == 1
        assert store.add([OptOut(IdentityScope.UID2, raw_id, 6)]) == 0
        assert store.contains(IdentityScope.UID2, raw_id)
        assert store.add(optouts(100)) == 100
        assert store.contains(IdentityScope.UID2, raw_id)
        assert OptOut(IdentityScope.UID2, raw_id, 5) in read_all(store, 7)


def test_the_first_record_of_an_id_is_kept(tmp_path: Path) -> None:
    first = OptOut(IdentityScope.UID2, b"1" * 32, 9, 8)
    later = [first._replace(arrived_s=7, entry_s=None), first._replace(arrived_s=7, entry_s=3)]
    with OptOutStore(tmp_path) as store:
        assert store.add([first, *later]) == 1
        assert store.add([*later, first]) == 0
        assert read_all(store) == [first]


def test_duplicates_are_not_written(tmp_path: Path) -> None:
    added = optouts(1_000)
    with OptOutStore(tmp_path) as store:
        store.add(added, is_owed=True)
        transaction = last_transaction(tmp_path, store)
        assert store.add(added, is_owed=True) == 0
        assert store.add([]) == 0
        assert last_transaction(tmp_path, store) == transaction
        assert len(store.read_outbox(0, 10)) == 1


def last_transaction(directory: Path, store: OptOutStore) -> int:
    with store.filter_transaction() as transaction:
        return transaction


def test_position_is_committed_with_the_ids(tmp_path: Path) -> None:
    first, second = Position(b"a" * 16, 1, "1700000000000-0"), Position(b"b" * 16, 2**40, "1700000000001-12")
    with OptOutStore(tmp_path) as store:
        assert store.position is None
        store.add(optouts(3), position=first)
        assert store.position == first
        store.add(optouts(3), position=second)
        assert store.position == second
    with OptOutStore(tmp_path) as store:
        assert store.position == second


def test_outbox_has_what_is_new_and_owed(tmp_path: Path) -> None:
    added = optouts(30)
    with OptOutStore(tmp_path) as store:
        store.add(added[:10])
        store.add(added[:20], is_owed=True)
        store.add(added[15:], is_owed=True)
        first, second = store.read_outbox(0, 10)
        assert (first.number, second.number) == (1, 2)
        assert in_order(first.optouts) == in_order(added[10:20])
        assert in_order(second.optouts) == in_order(added[20:])
        assert store.read_outbox(1, 10) == [second]
        assert store.read_outbox(0, 1) == [first]
        assert store.read_outbox(2, 10) == []


def test_ids_are_told_before_the_commit_and_only_new_ones(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    added = optouts(50)
    told: list[OptOut] = []

    def fail(scope: IdentityScope, pairs: bytes, pair_bytes: int) -> None:
        raise OSError(5, "Input/output error")

    def tell(scope: IdentityScope, pairs: bytes, pair_bytes: int) -> None:
        starts = range(0, len(pairs), pair_bytes)
        told.extend(decode_record(scope, pairs[start + 1 : start + pair_bytes]) for start in starts)

    with OptOutStore(tmp_path) as store:
        store.add(added[:20])
        monkeypatch.setattr(store.filter, "add", fail)
        with pytest.raises(OptOutStoreError, match="Input/output error"):
            store.add(added)
        assert store.count() == 20
        monkeypatch.setattr(store.filter, "add", tell)
        assert store.add(added) == 30
        assert sorted(told) == sorted(added[20:])


def test_what_another_process_adds_between_looking_and_writing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """An id must not be there twice, with other times."""
    added = optouts(100)
    program = f"""if True:
        import sys; sys.path.insert(0, {str(Path(__file__).parent)!r})
        from pathlib import Path
        from test_store import OptOutStore, optouts
        with OptOutStore(Path({str(tmp_path)!r})) as store:
            store.add([optout._replace(arrived_s=1) for optout in optouts(50)])
    """
    calls: list[Records] = []

    def look(environment: Environment, transaction: lmdb.Transaction, records: Records) -> Records:
        found = only_new(environment, transaction, records)
        if not calls:
            subprocess.run([sys.executable, "-c", program], check=True)
        calls.append(found)
        return found

    only_new = optout_tables.only_new
    monkeypatch.setattr(optout_store, "only_new", look)
    with OptOutStore(tmp_path) as store:
        assert store.add(added) == 50
        assert len(calls) == 2
        assert store.count() == 100
        assert read_all(store) == in_order([*(each._replace(arrived_s=1) for each in added[:50]), *added[50:]])


def test_threads_add_together(tmp_path: Path) -> None:
    added = optouts(2_000)
    counts: list[int] = []
    with OptOutStore(tmp_path) as store:
        work = [lambda part=part: counts.append(store.add(added[part * 250 : 1_000 + part * 250])) for part in range(5)]
        threads = [threading.Thread(target=each) for each in work]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert sum(counts) == store.count() == 2_000


def test_slots_of_killed_readers_are_freed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """They would keep all pages since from being used again."""
    program = f"""if True:
        import os, signal
        from pathlib import Path
        from bidstream_svc.optouts.optout_environment import open_environment
        transaction = open_environment(Path({str(tmp_path)!r}), is_writable=False).lmdb.begin()
        os.kill(os.getpid(), signal.SIGKILL)
    """
    with OptOutStore(tmp_path) as store:
        environment = store._environment
        assert environment is not None
        store.add(optouts(10))
        for _ in range(3):
            subprocess.run([sys.executable, "-c", program], check=False)
        dead = str(environment.lmdb.readers()).count("\n")
        store.add(optouts(20))
        assert str(environment.lmdb.readers()).count("\n") == dead  # not at each transaction
        monkeypatch.setattr(store, "_next_reader_check", 0.0)
        store.add(optouts(30))
        assert str(environment.lmdb.readers()).count("\n") == dead - 3


def test_files_are_for_their_owner(tmp_path: Path) -> None:
    old_mask = os.umask(0)
    try:
        with OptOutStore(tmp_path / "store") as store:
            store.add(optouts(1))
    finally:
        os.umask(old_mask)
    modes = {path.name: path.stat().st_mode & 0o777 for path in (tmp_path / "store").iterdir()}
    assert modes == dict.fromkeys(modes, 0o600)
    assert (tmp_path / "store").stat().st_mode & 0o777 == 0o700


def test_a_store_is_open_for_writing_once_in_a_process(tmp_path: Path) -> None:
    with OptOutStore(tmp_path), pytest.raises(OptOutStoreError, match="already open in this process"):
        OptOutStore(tmp_path)
    with OptOutStore(tmp_path) as store:
        assert store.add(optouts(1)) == 1
    with pytest.raises(OptOutStoreError, match="closed"):
        store.add(optouts(2))
