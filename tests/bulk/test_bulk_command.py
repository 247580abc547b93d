"""`bulk decrypt`: options, what it tells, exit statuses, signals."""

import gc
import gzip
import json
import os
import pty
import resource
import signal
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest
from pyarrow import csv, parquet

from bidstream_svc.core.identity import IdentityScope
from tests.bulk.logs import outputs, rows, table, write_keys, write_parquet
from tests.support.cli import Outcome, run_command
from tests.support.optouts import opt_out
from tests.support.sidecar import DEADLINE_S, PROGRAM, environment, wait_until
from tests.support.terminals import read_to_end
from tests.vectors.inputs import NOW_MS
from tests.vectors.load import key_response

Decrypt = Callable[..., Outcome]
NO_STORE = "bidstream-svc: no opt-out store is given (--optouts): users who have opted out are decrypted, too"


@pytest.fixture
def decrypt(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path) -> Decrypt:
    key_file = str(write_keys(tmp_path / "keys.json"))

    def run(*args: str | Path) -> Outcome:
        command = ["bulk", "decrypt", *map(str, args), "--output", str(tmp_path / "out"), "--keys", key_file]
        if not any(str(each).startswith(("--at", "--time-column")) for each in args):
            command += ["--at", str(NOW_MS)]
        return run_command(monkeypatch, capsys, *command, stdin=None, settings={})

    return run


def summary_of(outcome: Outcome) -> Any:
    assert outcome.out == ""
    return json.loads(outcome.err.splitlines()[-1])


def written(tmp_path: Path, name: str = "a.parquet") -> Any:
    return parquet.read_table(tmp_path / "out" / name)


def test_a_log_and_its_summary(decrypt: Decrypt, tmp_path: Path) -> None:
    outcome = decrypt(write_parquet(tmp_path / "a.parquet"))
    assert outcome.status == 0
    assert outcome.err.splitlines()[:-1] == [NO_STORE]
    summary = summary_of(outcome)
    assert summary.pop("seconds") >= 0
    statuses: dict[str, int] = summary.pop("statuses")
    expected = table(100)["expected"].to_pylist()
    assert statuses == {status: expected.count(status) for status in sorted(set(expected))}
    assert summary == {
        "rows": 100,
        "written": 100,
        "damaged_rows": 0,
        "files": 1,
        "damaged_files": 0,
        "kept_files": 0,
    }
    assert written(tmp_path)["status"].to_pylist() == expected
    again = summary_of(decrypt(tmp_path / "a.parquet"))
    assert (again["rows"], again["kept_files"], again["statuses"]) == (100, 1, statuses)


def test_columns_and_what_is_kept(decrypt: Decrypt, tmp_path: Path) -> None:
    log = table(100).rename_columns(["id", "t", "d", "expected"])
    log = log.append_column("when", [[NOW_MS, NOW_MS + 10**12] * 50])
    log = log.append_column("programme", [["UID2", None, ""] * 33 + ["UID2"]])
    parquet.write_table(log, tmp_path / "a.parquet")
    options = ("--token-column=t", "--domain-column=d", "--scope-column=programme", "--keep-tokens", "--time-column")
    outcome = decrypt(tmp_path / "a.parquet", *options, "when")
    assert outcome.status == 0
    table_ = written(tmp_path)
    assert table_.column_names == [*log.column_names, "status", "uid", "established"]
    assert table_["status"].to_pylist()[::2] == log["expected"].to_pylist()[::2]
    assert "SUCCESS" not in table_["status"].to_pylist()[1::2]


def test_opt_outs_are_not_decrypted(decrypt: Decrypt, tmp_path: Path) -> None:
    outcome = decrypt(write_parquet(tmp_path / "a.parquet"))
    uids = [uid for uid in written(tmp_path)["uid"].to_pylist() if uid is not None]
    opt_out(tmp_path / "store", [(IdentityScope.UID2, uids[0])])
    (tmp_path / "out").rename(tmp_path / "before")
    outcome = decrypt(tmp_path / "a.parquet", "--optouts", tmp_path / "store")
    assert outcome.err.count("\n") == 1  # the summary
    assert summary_of(outcome)["statuses"]["USER_OPTED_OUT"] == uids.count(uids[0])
    assert uids[0] not in written(tmp_path)["uid"].to_pylist()


def test_damage_is_named_and_the_rest_goes_on(decrypt: Decrypt, tmp_path: Path) -> None:
    write_parquet(tmp_path / "logs" / "a.parquet")
    (tmp_path / "logs" / "b.parquet").write_bytes(b"PAR1")
    (tmp_path / "logs" / "c.txt").write_text("x")
    (tmp_path / "logs" / "d.parquet").symlink_to("nowhere")
    outcome = decrypt(tmp_path / "logs")
    assert outcome.status == 1
    assert sorted(outcome.err.splitlines()[1:-1]) == [
        f"bidstream-svc: {tmp_path}/logs/b.parquet: truncated: the footer of Parquet is missing",
        f"bidstream-svc: {tmp_path}/logs/c.txt: not a file of a known format; names end in .parquet, .ndjson or .csv",
        f"bidstream-svc: {tmp_path}/logs/d.parquet: a symbolic link that leads nowhere",
    ]
    summary = summary_of(outcome)
    assert [summary[name] for name in ("files", "damaged_files", "rows")] == [1, 3, 100]
    assert '"files":1,"damaged_files":3,"kept_files":0' in outcome.err
    assert decrypt(tmp_path / "logs", "--strict").status == 1
    for name in ("b.parquet", "c.txt"):
        (tmp_path / "logs" / name).unlink()
    strict = decrypt(tmp_path / "logs", "--strict")
    assert (strict.status, "a symbolic link that leads nowhere" in strict.err) == (1, True)


def test_a_name_of_a_file_makes_no_line(decrypt: Decrypt, tmp_path: Path) -> None:
    (tmp_path / "logs").mkdir()
    (tmp_path / "logs" / "a\n1 \u0085 2\x1b[2J.parquet").write_bytes(b"PAR1")
    outcome = decrypt(tmp_path / "logs")
    assert outcome.err.splitlines()[1:-1] == [
        f"bidstream-svc: {tmp_path}/logs/a\\n1 \\x85 2\\x1b[2J.parquet: truncated: the footer of Parquet is missing"
    ]
    (tmp_path / "logs" / "a\n1 \u0085 2\x1b[2J.parquet").rename(tmp_path / "a\nb")
    outcome = decrypt(tmp_path / "a\nb" / "c")
    assert outcome.err.splitlines()[1:] == [f"bidstream-svc: {tmp_path}/a\\nb/c: no such file or directory"]


def test_damaged_rows_are_named(decrypt: Decrypt, tmp_path: Path) -> None:
    parquet.write_table(table(3).append_column("when", [[NOW_MS, None, None]]), tmp_path / "a.parquet")
    outcome = decrypt(tmp_path / "a.parquet", "--time-column", "when")
    assert outcome.status == 1
    assert outcome.err.splitlines()[1] == (
        f"bidstream-svc: {tmp_path}/a.parquet: 2 of 3 rows damaged: row 1: its time or programme cannot be read; ..."
    )
    assert summary_of(outcome)["damaged_rows"] == 2
    outcome = decrypt(tmp_path / "a.parquet", "--time-column", "when", "--strict")  # the output is kept
    assert outcome.status == 1


def test_rows_that_cannot_be_read_are_named_and_stop_a_strict_run(decrypt: Decrypt, tmp_path: Path) -> None:
    good = [json.dumps(row) for row in table(3).to_pylist()]
    (tmp_path / "a.ndjson").write_text("\n".join([good[0], "[]", good[1], "{", good[2]]))
    outcome = decrypt(tmp_path / "a.ndjson")
    assert outcome.status == 1
    _, damage, _ = outcome.err.splitlines()
    assert damage.startswith(f"bidstream-svc: {tmp_path}/a.ndjson: 2 of 5 rows damaged: line 2: ")
    assert "; line 4: " in damage
    assert len((tmp_path / "out" / "a.ndjson").read_text().splitlines()) == 3
    (tmp_path / "out").rename(tmp_path / "before")
    outcome = decrypt(tmp_path / "a.ndjson", "--strict")
    assert outcome.status == 1
    assert outcome.err.splitlines()[1].startswith(f"bidstream-svc: {tmp_path}/a.ndjson: line 2: ")
    assert outputs(tmp_path / "out") == {}


@pytest.mark.parametrize("output_format", ["parquet", "ndjson", "csv"])
def test_each_format_can_become_each_other(decrypt: Decrypt, tmp_path: Path, output_format: str) -> None:
    log = table(100)
    write_parquet(tmp_path / "logs" / "a.parquet")
    (tmp_path / "logs" / "b.ndjson").write_text("".join(json.dumps(row) + "\n" for row in log.to_pylist()))
    csv.write_csv(log, tmp_path / "logs" / "c.csv")
    outcome = decrypt(tmp_path / "logs", "--format", output_format)
    assert outcome.status == 0
    assert summary_of(outcome)["written"] == 300
    readers = {
        "parquet": parquet.read_table,
        "ndjson": lambda path: pa.Table.from_pylist([json.loads(line) for line in path.read_text().splitlines()]),
        "csv": csv.read_csv,
    }
    for name in ("a", "b", "c"):
        table_ = readers[output_format](tmp_path / "out" / f"{name}.{output_format}")
        assert table_["status"].to_pylist() == log["expected"].to_pylist()
        assert [str(number) for number in table_["id"].to_pylist()] == [str(number) for number in range(100)]


@pytest.mark.parametrize(
    ("options", "complaint"),
    [
        (["--token-column=nope"], "'nope'"),
        (["--scope=UID2", "--scope-column=id"], "scope"),
        (["--ray=auto"], "--ray is for --engine ray"),
        (["--engine=ray", "--threads=2"], "--threads is for --engine local"),
        (["--threads=0"], "--threads"),
        (["--at=yesterday"], "--at"),
        (["--format=xls"], "--format"),
    ],
)
def test_wrong_options_write_nothing(decrypt: Decrypt, tmp_path: Path, options: list[str], complaint: str) -> None:
    outcome = decrypt(write_parquet(tmp_path / "a.parquet"), *options)
    assert outcome.status == 2
    assert complaint in outcome.err.splitlines()[-1]
    assert not (tmp_path / "out").exists() or outputs(tmp_path / "out") == {}


@pytest.mark.parametrize(
    ("options", "name"),
    [
        (["--token-column=nope"], "nope"),
        (["--domain-column=nope"], "nope"),
        (["--time-column=nope"], "nope"),
        (["--bid-request-column=nope"], "nope"),
    ],
)
def test_a_column_that_no_object_has_is_told(decrypt: Decrypt, tmp_path: Path, options: list[str], name: str) -> None:
    logs = tmp_path / "logs"
    logs.mkdir()
    told = f"bidstream-svc: no row has a valid value in the column {name!r}; check its name"
    for file in ("a", "b"):
        (logs / f"{file}.ndjson").write_text('{"token": "x"}\n' * 3)
    assert told in decrypt(logs, *options).err.splitlines()
    assert told in decrypt(logs, *options).err.splitlines(), "of files that are kept, too"
    (logs / "b.ndjson").write_text('{"token": "x"}\n{"token": "x", "nope": "0"}\n')
    assert told not in decrypt(logs, *options).err.splitlines()


def test_key_files_of_one_programme_are_merged(decrypt: Decrypt, tmp_path: Path) -> None:
    response, _ = key_response("uid2")
    keys = response["body"]["keys"]
    older = tmp_path / "older.json"
    older.write_text(json.dumps({"body": {**response["body"], "keys": keys[::2]}}))
    outcome = decrypt(write_parquet(tmp_path / "a.parquet"), "--keys", older)
    assert outcome.status == 0
    assert written(tmp_path)["status"].equals(table(100)["expected"])
    older.write_text(json.dumps({"body": {**response["body"], "keys": [{**keys[0], "secret": "A" * 43 + "="}]}}))
    outcome = decrypt(tmp_path / "a.parquet", "--keys", older)
    assert outcome.status == 1
    assert "has different secrets in two key responses" in outcome.err


def start(tmp_path: Path, *options: str, **more: Any) -> subprocess.Popen[str]:
    arguments = ["logs", "--output", "out", "--keys", str(write_keys(tmp_path / "keys.json")), "--at", str(NOW_MS)]
    return subprocess.Popen(
        [*PROGRAM, "bulk", "decrypt", *arguments, *options],
        cwd=tmp_path,
        env=environment({}),
        stderr=subprocess.PIPE,
        text=True,
        **more,
    )


def test_without_the_extra_there_is_one_error(tmp_path: Path) -> None:
    program = (
        "import sys; sys.modules['pyarrow'] = None; sys.argv[1:] = ['bulk', 'decrypt', 'a', '--output', 'b'];"
        "from bidstream_svc.cli import main; main()"
    )
    done = subprocess.run(
        [PROGRAM[0], "-c", program], cwd=tmp_path, env=environment({}), capture_output=True, text=True, check=False
    )
    assert done.returncode == 2
    assert done.stderr == "bidstream-svc: needs the extra `bulk`: pip install 'bidstream-svc[bulk]'\n"


def test_without_ray_its_extra_is_named_and_no_run_begins(tmp_path: Path) -> None:
    program = "import sys; sys.modules['ray'] = None; from bidstream_svc.cli import main; main()"
    keys = write_keys(tmp_path / "keys.json")
    write_parquet(tmp_path / "logs" / "a.parquet")
    done = subprocess.run(
        [PROGRAM[0], "-c", program, "bulk", "decrypt", "logs", "--output", "out", "--keys", keys, "--engine", "ray"],
        cwd=tmp_path,
        env=environment({}),
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 2
    assert done.stderr == "bidstream-svc: needs the extra `ray`: pip install 'bidstream-svc[ray]'\n"
    assert not (tmp_path / "out").exists()


def test_objects_are_not_left_out_of_collections_after_a_run(decrypt: Decrypt, tmp_path: Path) -> None:
    """A program that calls the command goes on."""
    before = gc.get_freeze_count(), gc.get_threshold()
    assert decrypt(write_parquet(tmp_path / "a.parquet")).status == 0
    assert (gc.get_freeze_count(), gc.get_threshold()) == before


def test_a_run_with_key_files_imports_no_client_no_store_and_no_log(tmp_path: Path) -> None:
    """They take longer than a short log."""
    write_parquet(tmp_path / "logs" / "a.parquet")
    program = "import sys; from bidstream_svc.cli import main\ntry: main()\nfinally: print(*sys.modules)"
    arguments = ["bulk", "decrypt", "logs", "--output=out", f"--keys={write_keys(tmp_path / 'keys.json')}"]
    done = subprocess.run(
        [PROGRAM[0], "-c", program, *arguments],
        cwd=tmp_path,
        env=environment({}),
        capture_output=True,
        text=True,
        check=True,
    )
    loaded = set(done.stdout.split())
    assert "bidstream_svc.bulk.parquet_files" in loaded
    of_others = {f"bidstream_svc.{name}" for name in ("operator", "logs", "metrics", "server", "optouts.optout_reader")}
    assert loaded & {"aiohttp", "asyncio", "lmdb", "prometheus_client", "structlog", "tenacity", *of_others} == set()


def test_a_store_that_cannot_be_used_is_logged(tmp_path: Path) -> None:
    """The log begins with the store."""
    write_parquet(tmp_path / "logs" / "a.parquet")
    opt_out(tmp_path / "store", [])
    program = (
        "import sys; from bidstream_svc.cli import main; from bidstream_svc.optouts import optout_log\n"
        "try: main()\nfinally: optout_log.get_logger('x').error('seen'); optout_log.get_logger('x').warning('unseen')"
    )
    arguments = ["bulk", "decrypt", "logs", "--output=out", f"--keys={write_keys(tmp_path / 'keys.json')}"]
    done = subprocess.run(
        [PROGRAM[0], "-c", program, *arguments, "--optouts=store"],
        cwd=tmp_path,
        env=environment({}),
        capture_output=True,
        text=True,
        check=True,
    )
    assert done.stdout == ""
    assert json.loads(done.stderr.splitlines()[-1])["event"] == "seen"


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_leaves_whole_files(tmp_path: Path, number: signal.Signals) -> None:
    whole = write_parquet(tmp_path / "logs" / "0.parquet", len(rows()))
    for each in range(1, 400):
        os.link(whole, tmp_path / "logs" / f"{each}.parquet")
    with start(tmp_path, "--threads", "1") as process:
        wait_until(lambda: list(tmp_path.glob("out/*.parquet")), "the first file")
        process.send_signal(number)
        _, err = process.communicate(timeout=DEADLINE_S)
    assert process.returncode == 1
    done = outputs(tmp_path / "out")
    assert 0 < len(done) < 400
    assert err.splitlines()[1:] == [
        "bidstream-svc: interrupted; files in the output are whole, and the same command goes on"
    ]
    assert len(set(done.values())) == 1
    assert list((tmp_path / "out" / "_bulk" / "tmp").iterdir()) == []


@pytest.mark.parametrize("name", ["large.parquet", "large.ndjson.gz", "large.csv"])
def test_storage_that_is_full_is_one_error_and_the_run_goes_on(tmp_path: Path, name: str) -> None:
    """A limit on the size of files stands for the disk: writes fail in the same way."""
    write_parquet(tmp_path / "logs" / "small.parquet", 10)
    log = table(20_000).append_column("unique", pa.array([os.urandom(9).hex() for _ in range(20_000)]))
    if name.endswith("parquet"):
        parquet.write_table(log, tmp_path / "logs" / name)
    elif name.endswith("csv"):
        csv.write_csv(log, tmp_path / "logs" / name)
    else:
        with gzip.open(tmp_path / "logs" / name, "wt") as file:
            file.writelines(json.dumps(row) + "\n" for row in log.to_pylist())

    def limit() -> None:
        resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, resource.RLIM_INFINITY))

    with start(tmp_path, "--threads", "1", preexec_fn=limit) as process:
        _, err = process.communicate(timeout=DEADLINE_S)
    assert process.returncode == 1
    assert err.splitlines()[1:] == ["bidstream-svc: cannot write to out: File too large"]
    assert set(outputs(tmp_path / "out")) <= {"small.parquet"}
    assert list((tmp_path / "out" / "_bulk" / "tmp").iterdir()) == []
    with start(tmp_path) as process:
        _, err = process.communicate(timeout=DEADLINE_S)
    assert process.returncode == 0
    assert json.loads(err.splitlines()[-1])["rows"] == 20_010


def test_progress_on_a_terminal(tmp_path: Path) -> None:
    write_parquet(tmp_path / "logs" / "a.parquet")
    write_keys(tmp_path / "keys.json")
    command = [*PROGRAM, "bulk", "decrypt", "logs", "--output=out", "--keys=keys.json", f"--at={NOW_MS}"]
    leader, terminal = pty.fork()
    if leader == 0:
        os.chdir(tmp_path)
        os.execvpe(command[0], command, environment({}))  # noqa: S606 - this process becomes the program
    shown = read_to_end(terminal)
    _, status = os.waitpid(leader, 0)
    assert status == 0
    assert b"decrypting" in shown
    assert b"rows/s" in shown
    assert b"100%" in shown
    assert json.loads(shown.splitlines()[-1])["rows"] == 100
