"""`optouts import`, `export`, `stat` and `check` on a store."""

import gzip
import json
import random
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pybase64
import pytest

from bidstream_svc.core.errors import OptOutStoreError
from bidstream_svc.core.identity import Identity, IdentityScope
from bidstream_svc.core.kernel import IS_NATIVE
from bidstream_svc.devoperator import DevOperator, OperatorState
from bidstream_svc.optouts import optout_import
from bidstream_svc.optouts.optout_import import OptOutImport
from bidstream_svc.optouts.optout_position import Position
from bidstream_svc.optouts.optout_records import OptOut
from bidstream_svc.optouts.optout_store import OptOutStore
from tests.support.cli import Cli
from tests.support.http_server import Reply, http_server_in_thread

TIME_S = 1_700_000_000


def text_of(raw_id: bytes) -> str:
    return pybase64.b64encode(raw_id).decode()


def make_ids(count: int, seed: int = 1) -> list[bytes]:
    random_ = random.Random(seed)  # noqa: S311
    return [random_.randbytes(random_.choice((32, 33))) for _ in range(count)]


def scope_of(raw_id: bytes) -> IdentityScope:
    return IdentityScope.EUID if len(raw_id) == 33 and raw_id[0] & 0x10 else IdentityScope.UID2


@pytest.fixture
def directory(tmp_path: Path) -> Path:
    return tmp_path / "store"


def read_all(directory: Path) -> dict[tuple[IdentityScope, bytes], OptOut]:
    with OptOutStore(directory) as store:
        found = [optout for scope in IdentityScope for optout in store.iterate(scope, maximum=10**9)]
    return {(optout.scope, optout.raw_id): optout for optout in found}


def summary(text: str) -> dict[str, Any]:
    read: dict[str, Any] = json.loads(text.splitlines()[-1])
    return read


@pytest.mark.parametrize("is_compressed", [False, True])
def test_text(cli: Cli, tmp_path: Path, directory: Path, *, is_compressed: bool) -> None:
    ids = make_ids(500)
    lines = [text_of(raw_id) for raw_id in ids]
    lines[::3] = [f"{line},{TIME_S + place}" for place, line in enumerate(lines[::3])]
    content = ("\ufeff" + "\r\n".join([*lines, "", lines[0]])).encode()
    (tmp_path / "ids").write_bytes(gzip.compress(content) if is_compressed else content)
    ran = cli("optouts", "import", str(tmp_path / "ids"), optout_store=directory)
    assert (ran.status, summary(ran.out)) == (0, {"read": 502, "new": 500, "malformed": 0, "optouts": 500})
    found = read_all(directory)
    assert found.keys() == {(scope_of(raw_id), raw_id) for raw_id in ids}
    assert found[scope_of(ids[3]), ids[3]].entry_s == TIME_S + 1
    assert found[scope_of(ids[1]), ids[1]].entry_s is None
    again = cli("optouts", "import", "-", stdin=content, optout_store=directory)
    assert summary(again.out) == {"read": 502, "new": 0, "malformed": 0, "optouts": 500}


def test_a_damaged_file_is_told_in_one_line(cli: Cli, directory: Path) -> None:
    lines = "".join(f"{text_of(raw_id)}\n" for raw_id in make_ids(500))
    packed = gzip.compress(lines.encode())
    damaged = [
        (packed[: len(packed) // 2], "not valid gzip"),
        (packed[:10] + b"\xff" * 20 + packed[30:], "not valid gzip"),  # an error of zlib
        (b'identity\n"' + lines.encode() * 8, "not valid CSV"),  # a cell without end
    ]
    for content, problem in damaged:
        ran = cli("optouts", "import", "-", stdin=content, optout_store=directory)
        assert ran.status == 1
        assert problem in ran.complaint


@pytest.mark.parametrize("time", ["soon", "0", "-5", "", "1700000000123", "9" * 5_000])
def test_an_id_counts_whatever_its_time_is(cli: Cli, directory: Path, time: str) -> None:
    ran = cli("optouts", "import", "-", stdin=f"{text_of(bytes(32))},{time}", optout_store=directory)
    assert ran.status == 0
    assert summary(ran.out) == {"read": 1, "new": 1, "malformed": 0, "optouts": 1}


def test_malformed_lines_are_named_and_not_shown(cli: Cli, tmp_path: Path, directory: Path) -> None:
    good = text_of(b"\x01" * 32)
    bad = ["secret!" + "x" * 37, text_of(b"\x01" * 31), "x" * 200_000, '"' + good + '"']
    ran = cli("optouts", "import", "-", stdin="\n".join([good, *bad, "", good]), optout_store=directory)
    assert ran.status == 1
    assert summary(ran.out) == {"read": 7, "new": 1, "malformed": 4, "optouts": 1}
    assert ran.err.splitlines() == [
        "bidstream-svc: -: not an opt-out in line 2, 3, 4, 5",
        "bidstream-svc: 4 lines are not opt-outs; all others have been imported",
    ]


def test_scope_option(cli: Cli, directory: Path) -> None:
    raw_ids = [b"\x01" * 32, b"\x02" * 33]
    stdin = "\n".join(map(text_of, raw_ids))
    assert cli("optouts", "import", "-", "--scope", "EUID", stdin=stdin, optout_store=directory).status == 0
    assert read_all(directory).keys() == {(IdentityScope.EUID, raw_id) for raw_id in raw_ids}


def test_csv_goes_out_and_in_again(cli: Cli, tmp_path: Path, directory: Path) -> None:
    added = [OptOut(IdentityScope(place % 2), raw_id, 9, place or None) for place, raw_id in enumerate(make_ids(300))]
    with OptOutStore(directory) as store:
        store.add(added)
    ran = cli("optouts", "export", "--format", "csv", optout_store=directory)
    rows = ran.out.splitlines()
    assert (ran.status, rows[0], len(rows)) == (0, "scope,identity,timestamp,arrived", 301)
    (tmp_path / "all.csv").write_text(ran.out)
    ran = cli("optouts", "import", str(tmp_path / "all.csv"), optout_store=tmp_path / "copy")
    assert summary(ran.out) == {"read": 300, "new": 300, "malformed": 0, "optouts": 300}
    copied = read_all(tmp_path / "copy")
    assert {key: optout.entry_s for key, optout in copied.items()} == {
        (optout.scope, optout.raw_id): optout.entry_s for optout in added
    }


def test_csv_with_other_columns(cli: Cli, tmp_path: Path, directory: Path) -> None:
    ids = [text_of(raw_id) for raw_id in make_ids(3)]
    (tmp_path / "a.csv").write_text(f'day,uid,when\n1,{ids[0]},5\n1,{ids[1]},\n1,"x\ny",5\n1,{ids[2]}\n')
    path = str(tmp_path / "a.csv")
    ran = cli("optouts", "import", path, "--column", "uid", "--time-column", "when", optout_store=directory)
    assert (ran.status, summary(ran.out)) == (1, {"read": 4, "new": 3, "malformed": 1, "optouts": 3})
    assert "not an opt-out in line 3\n" in ran.err
    for options in ((), ("--column", "uid", "--time-column", "hour")):
        ran = cli("optouts", "import", path, *options, optout_store=directory)
        assert (ran.status, ran.err.count("the input has no column")) == (2, 1)


@pytest.mark.parametrize("delimiter", [";", "\t"])
@pytest.mark.parametrize("name", ["a.tsv", "a"])
def test_csv_with_other_delimiters(cli: Cli, tmp_path: Path, directory: Path, delimiter: str, name: str) -> None:
    ids = make_ids(3)
    rows = [["day", "identity", "timestamp"], *(["1", text_of(raw_id), "5"] for raw_id in ids)]
    (tmp_path / name).write_text("\ufeff" + "".join(f"{delimiter.join(row)}\r\n" for row in rows), "utf-8")
    ran = cli("optouts", "import", str(tmp_path / name), optout_store=directory)
    assert (ran.status, summary(ran.out)) == (0, {"read": 3, "new": 3, "malformed": 0, "optouts": 3})
    assert {optout.entry_s for optout in read_all(directory).values()} == {5}


def test_parquet(cli: Cli, tmp_path: Path, directory: Path) -> None:
    pa = pytest.importorskip("pyarrow")
    parquet = pytest.importorskip("pyarrow.parquet")
    ids = make_ids(100)
    table = pa.table({"identity": [text_of(raw_id) for raw_id in ids], "timestamp": [TIME_S] * 99 + [None]})
    parquet.write_table(table, tmp_path / "ids.parquet")
    ran = cli("optouts", "import", str(tmp_path / "ids.parquet"), optout_store=directory)
    assert summary(ran.out) == {"read": 100, "new": 100, "malformed": 0, "optouts": 100}
    found = read_all(directory)
    assert found[scope_of(ids[0]), ids[0]].entry_s == TIME_S
    assert found[scope_of(ids[99]), ids[99]].entry_s is None
    (tmp_path / "bad.parquet").write_bytes(b"PAR1" + bytes(100))
    ran = cli("optouts", "import", str(tmp_path / "bad.parquet"), optout_store=directory)
    assert (ran.status, ran.err) == (1, "bidstream-svc: the input is not valid Parquet\n")


@pytest.mark.parametrize("unit", ["s", "ms", "us", "ns"])
@pytest.mark.parametrize("zone", [None, "UTC", "Asia/Tokyo"])
def test_times_in_parquet(
    cli: Cli, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, unit: str, zone: str | None
) -> None:
    pa = pytest.importorskip("pyarrow")
    parquet = pytest.importorskip("pyarrow.parquet")
    monkeypatch.setenv("TZ", "America/New_York")
    time.tzset()
    ids, per_s = make_ids(2), {"s": 1, "ms": 10**3, "us": 10**6, "ns": 10**9}[unit]
    values = [TIME_S * per_s + per_s - 1, 2**53 if unit == "ms" else None]  # the year 287396
    times = pa.array(values, pa.timestamp(unit, zone))
    parquet.write_table(pa.table({"identity": [*map(text_of, ids)], "timestamp": times}), tmp_path / "a.parquet")
    ran = cli("optouts", "import", str(tmp_path / "a.parquet"), optout_store=tmp_path / "store")
    monkeypatch.undo()
    time.tzset()
    assert ran.status == 0, ran.err
    assert {optout.raw_id: optout.entry_s for optout in read_all(tmp_path / "store").values()} == {
        ids[0]: TIME_S,
        ids[1]: None,
    }


def test_columns_of_the_same_name(cli: Cli, tmp_path: Path, directory: Path) -> None:
    pa = pytest.importorskip("pyarrow")
    parquet = pytest.importorskip("pyarrow.parquet")
    texts = [*map(text_of, make_ids(2))]
    parquet.write_table(pa.Table.from_arrays([texts, texts], names=["identity"] * 2), tmp_path / "a.parquet")
    (tmp_path / "a.csv").write_text(f"identity,identity\n{','.join(texts)}\n")
    for name in ("a.parquet", "a.csv"):
        ran = cli("optouts", "import", str(tmp_path / name), optout_store=directory)
        assert (ran.status, ran.err) == (2, "bidstream-svc: the input has several columns 'identity'\n")


def test_parquet_without_its_package(
    cli: Cli, tmp_path: Path, directory: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "pyarrow", None)
    (tmp_path / "ids").write_bytes(b"PAR1")
    ran = cli("optouts", "import", str(tmp_path / "ids"), optout_store=directory)
    assert (ran.status, ran.err) == (
        2,
        "bidstream-svc: Parquet needs the extra `parquet`: pip install 'bidstream-svc[parquet]'\n",
    )


def test_text_of_an_export(cli: Cli, directory: Path) -> None:
    with OptOutStore(directory) as store:
        store.add([OptOut(IdentityScope.UID2, b"\x02" * 32, 9, 7), OptOut(IdentityScope.UID2, b"\x01" * 33, 9)])
        store.add([OptOut(IdentityScope.UID2, b"\x01" * 32, 9)])
    wanted = [text_of(b"\x01" * 32), text_of(b"\x02" * 32) + ",7", text_of(b"\x01" * 33)]
    assert cli("optouts", "export", optout_store=directory).out.splitlines() == wanted
    with OptOutStore(directory) as store:
        store.add([OptOut(IdentityScope.EUID, b"\x01" * 32, 9)])
    assert cli("optouts", "export", optout_store=directory).status == 2
    assert cli("optouts", "export", "--scope", "UID2", optout_store=directory).out.splitlines() == wanted


@pytest.mark.parametrize("command", ["import -", "export", "stat", "check"])
def test_a_store_is_needed(cli: Cli, tmp_path: Path, command: str) -> None:
    ran = cli("optouts", *command.split())
    assert (ran.status, ran.err) == (
        2,
        "bidstream-svc: BIDSTREAM_OPTOUT_STORE: missing; accepted: the directory of the store\n",
    )
    if command != "import -":
        ran = cli("optouts", *command.split(), optout_store=tmp_path / "missing")
        assert (ran.status, ran.err) == (
            1,
            f"bidstream-svc: opt-out store {tmp_path / 'missing'}: No such file or directory\n",
        )


def test_sorted_ids_fill_the_pages(tmp_path: Path) -> None:
    """In whatever way ids tell their programme: the scope is given."""
    random_ = random.Random(1)  # noqa: S311
    ids = sorted(random_.randbytes(33) for _ in range(20_000))
    lines = b"".join(b"%b\n" % pybase64.b64encode(raw_id) for raw_id in ids)
    with OptOutStore(tmp_path) as store:
        importer = OptOutImport(store, IdentityScope.UID2, 3)
        importer.add_lines(lines)
        importer.finish()
        assert store.count(IdentityScope.UID2) == 20_000
    assert (tmp_path / "data.mdb").stat().st_blocks * 512 < 47 * 20_000  # a few pages are not of ids


@pytest.mark.parametrize("is_native", [pytest.param(True, marks=pytest.mark.skipif(not IS_NATIVE, reason="")), False])
def test_both_runs_read_the_same(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, *, is_native: bool) -> None:
    """And an import in small runs and transactions gives the same as in large ones."""
    monkeypatch.setattr(optout_import, "IS_NATIVE", is_native)
    monkeypatch.setattr(optout_import, "RUN_IDS", 70)
    monkeypatch.setattr(optout_import, "_MIN_CHUNK_IDS", 7)
    ids = make_ids(400)
    lines = [f" {text_of(raw_id)} , {place + 1}\r" for place, raw_id in enumerate(ids)]
    lines[5], lines[50], lines[90] = "", "?", text_of(ids[90]).rstrip("=").replace("+", "-").replace("/", "_")
    with OptOutStore(tmp_path) as store:
        importer = OptOutImport(store, None, 3)
        for start in range(0, 400, 50):
            importer.add_lines("".join(f"{line}\n" for line in lines[start : start + 50]).encode())
        importer.finish()
        assert (importer.lines, importer.added, importer.malformed, importer.malformed_lines) == (400, 398, 1, [51])
        found = {optout.raw_id: optout for scope in IdentityScope for optout in store.iterate(scope)}
    assert found == {
        raw_id: OptOut(scope_of(raw_id), raw_id, 3, None if place == 90 else place + 1)
        for place, raw_id in enumerate(ids)
        if place not in {5, 50}
    }


def test_a_run_that_cannot_be_written_while_the_next_one_is_read(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(optout_import, "RUN_IDS", 10)
    lines = [f"{text_of(raw_id)}\n".encode() for raw_id in make_ids(30)]
    with OptOutStore(tmp_path) as store:
        importer = OptOutImport(store, None, 3)
        importer.add_lines(b"".join(lines[:5]))
        importer.finish()
        assert importer.added == 5
        (tmp_path / "data.mdb").unlink()
        with pytest.raises(OptOutStoreError, match=r"data\.mdb"):  # noqa: PT012 - it is not known when
            importer.add_lines(b"".join(lines[5:20]))
            importer.add_lines(b"".join(lines[20:]))
            importer.finish()
        assert importer.added == 5


def test_stat(cli: Cli, directory: Path) -> None:
    with OptOutStore(directory) as store:
        store.add([OptOut(IdentityScope.UID2, b"\x01" * 32, 9)], position=Position(b"\xab" * 16, 7, "1-0"))
    told = json.loads(cli("optouts", "stat", optout_store=directory).out)
    assert told["optouts"] == {"UID2": 1, "EUID": 0}
    assert told["position"] == {"epoch": "ab" * 16, "sequence": 7}
    assert 0 < told["disk_bytes"] < 10**6


@contextmanager
def host(optouts: dict[str, Any] | None, status: int = 200, then: dict[str, Any] | None = None) -> Iterator[str]:
    """An admin plane with an /info of its own; `then` from the second request on."""
    answers = iter([optouts])

    def answer(_request: object) -> Reply:
        return Reply(status, json.dumps({"version": "1", "optouts": next(answers, then or optouts)}).encode())

    with http_server_in_thread(answer) as port:
        yield f"http://127.0.0.1:{port}"


def test_fleet(cli: Cli, monkeypatch: pytest.MonkeyPatch) -> None:
    level = {"position": {"epoch": "ab", "sequence": 8}, "last_contact": "2026-01-02T00:00:00Z"}
    behind = {"position": {"epoch": "ab", "sequence": 6}, "last_contact": "2026-01-01T00:00:00Z"}
    new = {"position": None, "last_contact": None}
    other = {"position": {"epoch": "cd", "sequence": 9}, "last_contact": "2026-01-02T00:00:00Z"}
    monkeypatch.setattr("bidstream_svc.cli.optouts_fleet._CATCH_UP_S", 0.1)
    with host(level) as one, host(behind) as two, host(new) as three, host(other) as four:
        for urls, options, problems in [
            ([one], [], []),
            ([three], [], []),
            ([one, one], [], []),
            ([one, two, three], [], ["", "behind", "behind"]),
            ([one, one, four], [], ["", "", "behind"]),
            ([one], ["--applied", "ab/8"], []),
            ([two], ["--applied", "ab/6"], []),
            ([one, two], ["--applied", "ab/7"], ["", "behind, not level"]),
            ([three], ["--applied", "ab/1"], ["not level"]),
            ([four], ["--applied", "ab/1"], ["not level"]),
            ([one], ["--until", "2026-01-01T12:00:00+00:00"], []),
            ([two], ["--until", "2026-01-01T12:00:00+00:00"], ["not level"]),
            ([one], ["--until", "1767268800"], []),
            ([two], ["--until", "1767268800"], ["not level"]),
            ([one], ["--until", "1767268800000"], []),  # milliseconds
            ([two], ["--until", "1767268800000"], ["not level"]),
            ([three], ["--until", "1"], ["not level"]),
        ]:
            fleet = [part for url in urls for part in ("--fleet", url)]
            ran = cli("optouts", "stat", *fleet, *options)
            lines = [json.loads(line) for line in ran.out.splitlines()]
            assert [", ".join(line["problems"]) for line in lines] == (problems or [""] * len(urls)), (urls, options)
            assert ran.status == bool(problems)
            # No host is called level that was not compared with anything.
            assert all(("level" in line) == bool(options) for line in lines)
    with host(None) as without, host({}, status=404) as missing:
        for url in (without, missing, one):  # the last one is gone
            ran = cli("optouts", "stat", "--fleet", url)
            assert (ran.status, "error" in json.loads(ran.out)) == (1, True)
            assert ran.err == "bidstream-svc: 1 of 1 hosts have problems: 1 no answer\n"
    assert cli("optouts", "stat", "--applied", "ab/1").status == 2
    for no_time in ("", "soon", "1767268800000000", "2026-13-01"):
        ran = cli("optouts", "stat", "--fleet", url, "--until", no_time)
        assert (ran.status, "a time is as 2026-11-26T20:00:00Z" in ran.err) == (2, True)
    for url in (
        "127.0.0.1:9464",
        "http://127.0.0.1:x",
        "http://127.0.0.1:70000",
        "http://",
        "http://[",
        f"http://{'a' * 70}",
    ):
        ran = cli("optouts", "stat", "--fleet", url)
        assert ran.status in {1, 2}
        assert "internal error" not in ran.err


def test_a_host_that_is_stale_or_has_a_gap(cli: Cli) -> None:
    good = {"position": None, "stream": {"connected": True, "owed": 0, "gap": False}, "stale": False}
    stale, gap = good | {"stale": True}, good | {"stream": {"connected": True, "owed": 0, "gap": True}}
    with host(good) as one, host(stale) as two, host(gap) as three:
        ran = cli("optouts", "stat", "--fleet", one, "--fleet", two, "--fleet", three)
    assert [json.loads(line)["problems"] for line in ran.out.splitlines()] == [[], ["stale"], ["gap"]]
    assert (ran.status, ran.err) == (1, "bidstream-svc: 2 of 3 hosts have problems: 1 stale, 1 gap\n")


def test_a_host_that_comes_along_is_not_behind(cli: Cli) -> None:
    """Entries are on their way for a moment."""
    first = {"position": {"epoch": "ab", "sequence": 8}}
    following = {"position": {"epoch": "ab", "sequence": 7}}
    with host(first) as one, host(following, then=first) as two:
        ran = cli("optouts", "stat", "--fleet", one, "--fleet", two)
    assert (ran.status, ran.err) == (0, "")


def test_check(cli: Cli, directory: Path) -> None:
    with OptOutStore(directory) as store:
        store.add([OptOut(IdentityScope.UID2, b"\x01" * 32, 9)])
    stdin = "\n".join(text_of(bytes([first]) * 32) for first in (1, 2))
    ran = cli("optouts", "check", stdin=stdin, optout_store=directory)
    first, second = stdin.splitlines()
    assert (ran.status, ran.out.splitlines()) == (0, [f"{first},in store", f"{second},not in store"])
    exported = cli("optouts", "export", optout_store=directory).out
    assert (
        cli("optouts", "check", stdin=f"{exported.strip()},1700000000", optout_store=directory).out
        == f"{first},in store\n"
    )
    ran = cli("optouts", "check", stdin=stdin + "\nsecret", optout_store=directory)
    assert ran.status == 1
    assert "secret" not in ran.out + ran.err
    assert cli("optouts", "check", "--add", optout_store=directory).status == 2


def test_check_online(cli: Cli, directory: Path, operator: DevOperator, settings: dict[str, str]) -> None:
    state: OperatorState = operator.state
    identity = Identity.from_email("gone@example.com")
    state.opted_out_since_ms[identity] = TIME_S * 1_000
    gone, other = state.salts.raw_uid(identity), state.salts.raw_uid(Identity.from_email("here@example.com"))
    with OptOutStore(directory):
        pass
    stdin = f"{gone}\n{other}\n"
    ran = cli("optouts", "check", "--online", stdin=stdin, optout_store=directory, **settings)
    assert ran.status == 1
    assert ran.out.splitlines() == [f"{gone},missing,{TIME_S}", f"{other},not in store"]
    ran = cli("optouts", "check", "--online", "--add", stdin=stdin, optout_store=directory, **settings)
    assert (ran.status, ran.err) == (0, "bidstream-svc: 1 opt-outs added\n")
    assert [optout.entry_s for optout in read_all(directory).values()] == [TIME_S]
    ran = cli("optouts", "check", "--online", stdin=stdin, optout_store=directory, **settings)
    assert (ran.status, ran.out.splitlines()) == (0, [f"{gone},in store", f"{other},not in store"])


def test_import_beside_a_service_that_writes(tmp_path: Path, directory: Path) -> None:
    """Neither loses anything, and the service has its turns."""
    imported, received = make_ids(60_000), make_ids(2_000, seed=2)
    (tmp_path / "ids").write_text("\n".join(map(text_of, imported)))
    with OptOutStore(directory) as store:
        command = [sys.executable, "-m", "bidstream_svc", "optouts", "import", str(tmp_path / "ids")]
        with subprocess.Popen(
            [*command, "--optout-store", str(directory)], stdout=subprocess.PIPE, text=True
        ) as process:
            turns = 0
            for raw_id in received:
                turns += process.poll() is None
                store.add([OptOut(scope_of(raw_id), raw_id, 1)])
            assert process.stdout is not None
            assert summary(process.stdout.read())["new"] == len(imported)
        assert turns > 1
        assert store.count() == len(imported) + len(received)
        assert all(store.contains(scope_of(raw_id), raw_id) for raw_id in (*imported, *received))
