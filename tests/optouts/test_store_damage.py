"""A store that cannot be used: a clear line, no id is answered meanwhile, and the reader recovers by itself."""

import os
import shutil
import subprocess
import sys
import threading
from collections.abc import Callable
from pathlib import Path

import lmdb
import pybase64
import pytest
from structlog.testing import capture_logs

from bidstream_svc.core.errors import OptOutStoreError
from bidstream_svc.core.identity import IdentityScope
from bidstream_svc.core.kernel import IS_NATIVE
from bidstream_svc.core.status import FailureReason
from bidstream_svc.optouts import optout_environment, optout_reader
from bidstream_svc.optouts.filter_growth import grow_if_needed
from bidstream_svc.optouts.optout_reader import OptOutReader
from bidstream_svc.optouts.optout_records import OptOut
from bidstream_svc.optouts.optout_store import OptOutStore

IN_IT = OptOut(IdentityScope.UID2, b"\x01" * 32, 1_700_000_000)
OTHER = OptOut(IdentityScope.UID2, b"\x02" * 32, 1_700_000_000)


def text_of(optout: OptOut) -> str:
    return pybase64.b64encode(optout.raw_id).decode()


def ask(reader: OptOutReader, optout: OptOut = IN_IT) -> FailureReason | None:
    return reader.check(optout.scope, text_of(optout), 0)


@pytest.fixture
def directory(tmp_path: Path) -> Path:
    """A store with some ids."""
    return make_store(tmp_path / "store")


def make_store(directory: Path) -> Path:
    with OptOutStore(directory) as store:
        store.add([IN_IT, *(OptOut(IdentityScope.EUID, os.urandom(33), 1) for _ in range(1_000))])
    return directory


@pytest.fixture(autouse=True)
def _no_back_off(monkeypatch: pytest.MonkeyPatch) -> None:
    """Look at the file at each check, and open it again at once."""
    monkeypatch.setattr(optout_reader, "_FILE_CHECK_INTERVAL_S", 0)
    monkeypatch.setattr(optout_reader, "_MIN_BACK_OFF_S", 0)


def truncate(directory: Path) -> None:
    os.truncate(directory / "data.mdb", 3 * 4096)


def truncate_below_meta(directory: Path) -> None:
    os.truncate(directory / "data.mdb", 100)


def overwrite_meta(directory: Path) -> None:
    with (directory / "data.mdb").open("r+b") as file:
        file.write(b"\xa5" * 8192)


def overwrite_one_meta(directory: Path) -> None:
    with (directory / "data.mdb").open("r+b") as file:
        file.seek(4096)
        file.write(b"\xa5" * 4096)


def write_text(directory: Path) -> None:
    (directory / "data.mdb").write_bytes(b"not a database\n" * 1_000)


def set_meta(key: bytes, value: bytes | None) -> Callable[[Path], None]:
    def change(directory: Path) -> None:
        with lmdb.open(str(directory), max_dbs=8, map_size=2**30) as environment:
            meta = environment.open_db(b"meta")
            with environment.begin(db=meta, write=True) as transaction:
                if value is None:
                    transaction.delete(key)
                else:
                    transaction.put(key, value)

    return change


def drop_database(name: bytes) -> Callable[[Path], None]:
    def change(directory: Path) -> None:
        with lmdb.open(str(directory), max_dbs=8, map_size=2**30) as environment:
            is_table = b"." in name
            database = environment.open_db(name, dupsort=is_table, dupfixed=is_table)
            with environment.begin(write=True) as transaction:
                transaction.drop(database)

    return change


def make_foreign(directory: Path) -> None:
    (directory / "data.mdb").unlink()
    with lmdb.open(str(directory)) as environment, environment.begin(write=True) as transaction:
        transaction.put(b"key", b"value")


DAMAGES = [
    (truncate, "data.mdb is truncated: it has 12288 of "),
    (truncate_below_meta, "data.mdb is damaged"),
    (overwrite_meta, "data.mdb is damaged"),
    (overwrite_one_meta, "data.mdb is damaged"),
    (write_text, "data.mdb is damaged"),
    (make_foreign, "data.mdb is not an opt-out store"),
    (set_meta(b"version", b"2"), "it has format 2, and this program knows 1"),
    (set_meta(b"version", b"0"), "it has format 0, and this program knows 1"),
    (set_meta(b"version", None), "it has format unknown, and this program knows 1"),
    (drop_database(b"meta"), "data.mdb is not an opt-out store: it has no meta"),
    (drop_database(b"outbox"), "data.mdb is not an opt-out store: it has no outbox"),
    (drop_database(b"euid.33"), "data.mdb is not an opt-out store: it has no euid.33"),
]


@pytest.mark.parametrize(("damage", "line"), DAMAGES)
def test_a_damaged_store_is_not_opened(directory: Path, damage: Callable[[Path], None], line: str) -> None:
    damage(directory)
    for open_store in (OptOutStore, OptOutReader):
        with pytest.raises(OptOutStoreError) as caught:
            open_store(directory)
        assert str(caught.value).startswith(f"opt-out store {directory}: {line}")
        assert "\n" not in str(caught.value)


@pytest.mark.parametrize(("damage", "line"), [each for each in DAMAGES if each[0] is not truncate_below_meta])
def test_a_reader_whose_store_is_replaced_by_a_damaged_one(
    tmp_path: Path, directory: Path, damage: Callable[[Path], None], line: str
) -> None:
    good = tmp_path / "good"
    shutil.copytree(directory, good)
    reader = OptOutReader(directory)
    assert (ask(reader), ask(reader, OTHER)) == (FailureReason.OPTED_OUT, None)
    with capture_logs() as lines:
        directory.rename(tmp_path / "old")
        make_store(directory)
        damage(directory)
        for _ in range(3):
            assert ask(reader) is ask(reader, OTHER) is FailureReason.OPTOUTS_NOT_SYNCED
        assert not reader.is_usable
        shutil.rmtree(directory)
        assert ask(reader, OTHER) is FailureReason.OPTOUTS_NOT_SYNCED
        shutil.copytree(good, directory)
        assert (ask(reader), ask(reader, OTHER)) == (FailureReason.OPTED_OUT, None)
        assert reader.is_usable
    assert [line["event"] for line in lines] == ["opt-out store unusable", "opt-out store usable again"]


def test_a_reader_whose_file_is_truncated(directory: Path) -> None:
    reader = OptOutReader(directory)
    content = (directory / "data.mdb").read_bytes()
    os.truncate(directory / "data.mdb", 8 * 4096)
    assert ask(reader) is ask(reader, OTHER) is FailureReason.OPTOUTS_NOT_SYNCED
    (directory / "data.mdb").write_bytes(content)
    assert (ask(reader), ask(reader, OTHER)) == (FailureReason.OPTED_OUT, None)


def test_a_reader_sees_what_others_add(directory: Path) -> None:
    reader = OptOutReader(directory)
    assert ask(reader, OTHER) is None
    add_elsewhere(directory)
    assert ask(reader, OTHER) is FailureReason.OPTED_OUT


def add_elsewhere(directory: Path) -> None:
    program = f"""if True:
        import sys; sys.path.insert(0, {str(Path(__file__).parent)!r})
        from pathlib import Path
        from test_store_damage import OTHER, OptOutStore
        with OptOutStore(Path({str(directory)!r})) as store:
            store.add([OTHER])
    """
    subprocess.run([sys.executable, "-c", program], check=True)


def test_a_writer_whose_directory_is_gone_acknowledges_nothing(tmp_path: Path, directory: Path) -> None:
    """It would write into files that no other process can open."""
    with OptOutStore(directory) as store:
        directory.rename(tmp_path / "elsewhere")
        with pytest.raises(OptOutStoreError, match=r"data\.mdb: No such file or directory"):
            store.add([OTHER])
        (tmp_path / "elsewhere").rename(directory)
        assert store.add([OTHER]) == 1
        (directory / "data.mdb").rename(directory / "data.old")
        shutil.copy(directory / "data.old", directory / "data.mdb")
        with pytest.raises(OptOutStoreError, match="replaced"):
            store.add([OTHER])


def test_a_missing_store(tmp_path: Path) -> None:
    for directory in (tmp_path / "missing", tmp_path):
        with pytest.raises(OptOutStoreError, match=f"^opt-out store {directory}: No such file or directory$"):
            OptOutReader(directory)
    (tmp_path / "file").touch()
    for open_store in (OptOutReader, OptOutStore):
        with pytest.raises(OptOutStoreError, match=r"^opt-out store .*/file: (Not a directory|File exists)$"):
            open_store(tmp_path / "file")


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can become another user")
def test_a_directory_that_may_not_be_written(directory: Path) -> None:
    for path in (directory, *directory.iterdir()):
        path.chmod(0o555 if path.is_dir() else 0o444)
    for parent in directory.parents[:-1]:
        parent.chmod(parent.stat().st_mode | 0o055)
    program = f"""if True:
        import os, sys; sys.path.insert(0, {str(Path(__file__).parent)!r})
        from pathlib import Path
        from test_store_damage import OptOutReader, OptOutStore, OptOutStoreError
        os.setgid(65534); os.setuid(65534)
        for open_store in (OptOutReader, OptOutStore):
            try:
                open_store(Path({str(directory)!r}))
            except OptOutStoreError as error:
                print(error)
    """
    ran = subprocess.run([sys.executable, "-c", program], check=True, capture_output=True, text=True)
    assert ran.stdout.splitlines() == [f"opt-out store {directory}: Permission denied"] * 2


def test_a_full_map(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(optout_environment, "MAP_BYTES", 2**20)
    with OptOutStore(tmp_path) as store:
        store.add([IN_IT])
        with pytest.raises(OptOutStoreError, match=f"^opt-out store {tmp_path}: it is full: it has 1048576 bytes$"):
            store.add([OptOut(IdentityScope.EUID, os.urandom(33), 1) for _ in range(50_000)])
        assert store.contains(IN_IT.scope, IN_IT.raw_id)
        assert store.count() == store.add([IN_IT, OTHER]) == 1


def test_lmdb_is_opened_again_after_its_fatal_error(directory: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(number: int) -> None:
        raise lmdb.PanicError("MDB_PANIC")

    with OptOutStore(directory) as store:
        before = store._environment
        with monkeypatch.context() as patch:
            patch.setattr(store.filter, "begin", fail)
            with pytest.raises(OptOutStoreError):
                store.add([OTHER])
        assert store.add([IN_IT, OTHER]) == 1
        assert store._environment is not before


def test_several_readers_of_a_process_share_the_environment(directory: Path) -> None:
    readers = [OptOutReader(directory) for _ in range(3)]
    assert [ask(reader) for reader in readers] == [FailureReason.OPTED_OUT] * 3
    readers.pop().close()
    os.truncate(directory / "data.mdb", 8 * 4096)
    assert [ask(reader) for reader in readers] == [FailureReason.OPTOUTS_NOT_SYNCED] * 2


def test_a_reader_beside_a_writer_of_the_same_process(directory: Path) -> None:
    with OptOutStore(directory) as store:
        reader = OptOutReader(directory)
        assert ask(reader, OTHER) is None
        store.add([OTHER])
        assert ask(reader, OTHER) is FailureReason.OPTED_OUT
    with capture_logs() as lines:
        assert ask(reader, OTHER) is FailureReason.OPTED_OUT
    assert lines == []


def test_threads_look_up_while_the_environment_is_closed(directory: Path) -> None:
    reader = OptOutReader(directory)
    verdicts: set[FailureReason | None] = set()
    is_over = threading.Event()

    def look_up() -> None:
        while not is_over.is_set():
            verdicts.add(ask(reader))

    threads = [threading.Thread(target=look_up) for _ in range(4)]
    for thread in threads:
        thread.start()
    for _ in range(50):
        if (opened := reader._opened) is not None:
            opened.environment.close()
    is_over.set()
    for thread in threads:
        thread.join()
    assert FailureReason.OPTED_OUT in verdicts
    assert None not in verdicts


@pytest.mark.skipif(not IS_NATIVE, reason="there is no filter without the kernel")
def test_the_filter_is_asked_first_and_given_up_with_the_store(
    directory: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with OptOutStore(directory) as store:
        assert grow_if_needed(store)
        store.add([OTHER])
    reader = OptOutReader(directory)
    native = reader.native_filter
    assert native is not None
    absent = OptOut(IdentityScope.EUID, b"\x03" * 32, 1)
    assert not native.may_contain(absent.scope, absent.raw_id)
    with monkeypatch.context() as patch:  # LMDB is not asked
        patch.setattr(optout_reader, "contains", lambda *_: 1 / 0)
        assert ask(reader, absent) is None
    assert ask(reader) is ask(reader, OTHER) is FailureReason.OPTED_OUT
    os.truncate(directory / "data.mdb", 8 * 4096)
    assert not reader.check_file()
    assert native.may_contain(absent.scope, absent.raw_id)  # kernels leave all to Python
    assert ask(reader, absent) is FailureReason.OPTOUTS_NOT_SYNCED


@pytest.mark.parametrize(
    ("name", "change"), [("control", Path.unlink), ("control", lambda path: path.write_bytes(b""))]
)
def test_without_its_control_words(directory: Path, name: str, change: Callable[[Path], object]) -> None:
    """A new file is another one: an open store is not used with the words of the old one."""
    with OptOutStore(directory) as store:
        reader = OptOutReader(directory)
        content = (directory / name).read_bytes()
        (directory / name).rename(directory / "old")
        (directory / name).write_bytes(content)
        assert ask(reader, OTHER) is FailureReason.OPTOUTS_NOT_SYNCED
        with pytest.raises(OptOutStoreError, match="control has been replaced"):
            store.add([OTHER])
    change(directory / name)
    with pytest.raises(OptOutStoreError, match=f"^opt-out store {directory}: "):
        OptOutReader(directory)


def test_withheld_while_stale(directory: Path) -> None:
    with OptOutStore(directory) as store:
        store.control.fresh_until_ms = 1_000
        reader = OptOutReader(directory, withholds=True)
        assert reader.check(OTHER.scope, text_of(OTHER), 1_000) is None
        assert reader.check(OTHER.scope, text_of(OTHER), 1_001) is FailureReason.OPTOUTS_NOT_SYNCED
        assert reader.check(IN_IT.scope, text_of(IN_IT), 1_001) is FailureReason.OPTED_OUT
        assert OptOutReader(directory).check(OTHER.scope, text_of(OTHER), 1_001) is None


def test_a_store_that_is_not_required_is_opened_when_it_is_there(tmp_path: Path) -> None:
    reader = OptOutReader(tmp_path / "store", is_required=False)
    assert ask(reader, OTHER) is FailureReason.OPTOUTS_NOT_SYNCED
    make_store(tmp_path / "store")
    assert (ask(reader), ask(reader, OTHER)) == (FailureReason.OPTED_OUT, None)


def test_what_is_no_raw_uid_is_in_no_store(directory: Path) -> None:
    reader = OptOutReader(directory)
    for text in ("", "uid", text_of(IN_IT)[:-5], "é" * 44):
        assert reader.check(IdentityScope.UID2, text, 0) is None


def test_more_readers_than_slots(directory: Path) -> None:
    """The slots of processes that were killed are freed when there are none left."""
    program = f"""if True:
        import os, signal
        from pathlib import Path
        from bidstream_svc.optouts.optout_environment import open_environment
        environment = open_environment(Path({str(directory)!r}), is_writable=False).lmdb
        import lmdb
        transactions = []
        try:
            while True:
                transactions.append(environment.begin())
        except lmdb.ReadersFullError:
            os.kill(os.getpid(), signal.SIGKILL)
    """
    reader = OptOutReader(directory)
    subprocess.run([sys.executable, "-c", program], check=False)
    assert ask(reader) is FailureReason.OPTED_OUT
