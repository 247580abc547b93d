"""Runs that were stopped go on; what is done is not done twice; nothing half is visible."""

import fcntl
import gc
import gzip
import json
import os
import stat
import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
from pyarrow import parquet

from bidstream_svc.bulk import BatchOptions
from bidstream_svc.bulk import parts as parts_module
from bidstream_svc.bulk.output_directory import OutputDirectory
from bidstream_svc.bulk.part_work import OnBatch, PartResult, process_part
from bidstream_svc.bulk.parts import find_parts
from bidstream_svc.core.errors import BidstreamError, ConfigurationError, DamagedFileError
from tests.bulk.logs import keys, outputs, rows, run, table, write_parquet
from tests.vectors.inputs import NOW_MS


@pytest.fixture
def logs(tmp_path: Path) -> Path:
    for name in ("day=1/a", "day=1/b", "day=2/a"):
        write_parquet(tmp_path / "logs" / f"{name}.parquet")
    return tmp_path / "logs"


def test_each_file_has_its_output_and_the_rows_their_order(logs: Path, tmp_path: Path) -> None:
    kept, done = run([logs], tmp_path / "out")
    assert kept == []
    assert [result.name for result in done] == ["day=1/a.parquet", "day=1/b.parquet", "day=2/a.parquet"]
    assert set(outputs(tmp_path / "out")) == {result.name for result in done}
    for result in done:
        written = parquet.read_table(tmp_path / "out" / result.name, partitioning=None)
        assert written["id"].to_pylist() == list(range(100))
        assert written["status"].equals(table(100)["expected"])
        assert (result.rows, result.written, result.damaged_rows) == (100, 100, 0)
        assert sum(result.statuses.values()) == 100
        assert result.output_bytes == (tmp_path / "out" / result.name).stat().st_size


def test_a_rerun_adds_nothing(logs: Path, tmp_path: Path) -> None:
    _, done = run([logs], tmp_path / "out")
    before = {path: path.stat().st_mtime_ns for path in (tmp_path / "out").rglob("*.parquet")}
    kept, again = run([logs], tmp_path / "out")
    assert (sorted(kept, key=lambda result: result.name), again) == (done, [])
    assert {path: path.stat().st_mtime_ns for path in (tmp_path / "out").rglob("*.parquet")} == before


def test_parts_of_one_file_make_its_rows(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(parts_module, "MAX_PART_ROWS", 25)
    write_parquet(tmp_path / "a.parquet", 95, row_group_size=10)
    run([tmp_path / "a.parquet"], tmp_path / "out")
    written = [parquet.read_table(path) for path in sorted((tmp_path / "out").glob("a.part-*.parquet"))]
    assert len(written) == 5
    assert [number for each in written for number in each["id"].to_pylist()] == list(range(95))


class StopError(BidstreamError):
    pass


def stopping_after(count: int) -> OnBatch:
    """An `on_batch` that fails at a batch, as a full disk would."""
    left = [count]
    lock = threading.Lock()

    def on_batch(rows: int, _bytes: int) -> None:
        with lock:
            left[0] -= rows > 0
            if left[0] < 0:
                raise StopError

    return on_batch


@pytest.mark.parametrize("threads", [1, 3])
@pytest.mark.parametrize("count", [0, 1, 2])
def test_a_run_that_failed_goes_on(logs: Path, tmp_path: Path, count: int, threads: int) -> None:
    run([logs], tmp_path / "expected")
    with pytest.raises(StopError):
        run([logs], tmp_path / "out", on_batch=stopping_after(count), threads=threads)
    visible = outputs(tmp_path / "out")
    assert visible.items() <= outputs(tmp_path / "expected").items()
    assert list((tmp_path / "out" / "_bulk" / "tmp").iterdir()) == []
    kept, done = run([logs], tmp_path / "out", now_ms=NOW_MS + 10**12)
    assert {result.name for result in kept} == set(visible)
    assert len(kept) + len(done) == 3
    assert outputs(tmp_path / "out") == outputs(tmp_path / "expected")  # as of the first start


def test_what_is_added_after_the_end_is_judged_as_of_then(logs: Path, tmp_path: Path) -> None:
    run([logs], tmp_path / "out")
    write_parquet(logs / "day=3" / "a.parquet")
    kept, (result,) = run([logs], tmp_path / "out", now_ms=NOW_MS + 10**12)
    assert len(kept) == 3
    assert "SUCCESS" not in result.statuses


def test_an_input_that_has_changed_is_done_again(logs: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    run([logs], tmp_path / "out")
    write_parquet(logs / "day=1" / "b.parquet", 50)
    kept, (result,) = run([logs], tmp_path / "out")
    assert (len(kept), result.name, result.rows) == (2, "day=1/b.parquet", 50)
    monkeypatch.setattr(parts_module, "MAX_PART_ROWS", 30)
    write_parquet(logs / "day=1" / "b.parquet", 60, row_group_size=20)
    _, done = run([logs], tmp_path / "out")
    assert "day=1/b.part-00000.parquet" in {result.name for result in done}
    assert "day=1/b.parquet" not in outputs(tmp_path / "out")
    assert not (tmp_path / "out" / "_bulk" / "parts" / "day=1" / "b.parquet.json").exists()


def test_the_output_of_an_input_that_is_gone_stays(logs: Path, tmp_path: Path) -> None:
    run([logs], tmp_path / "out")
    (logs / "day=1" / "b.parquet").unlink()
    kept, done = run([logs], tmp_path / "out")
    assert (len(kept), done) == (3, [])
    assert "day=1/b.parquet" in outputs(tmp_path / "out")


def test_the_output_of_an_input_that_cannot_be_read_any_longer_stays(logs: Path, tmp_path: Path) -> None:
    target = write_parquet(tmp_path / "archive" / "c.parquet")
    (logs / "c.parquet").symlink_to(target)
    run([logs], tmp_path / "out")
    before = outputs(tmp_path / "out")
    target.unlink()
    kept, (result,) = run([logs], tmp_path / "out")
    assert (len(kept), result.problem) == (4, "a symbolic link that leads nowhere")
    assert outputs(tmp_path / "out") == before


def test_an_output_goes_to_the_input_that_has_its_name_now(tmp_path: Path) -> None:
    first, second = write_parquet(tmp_path / "1" / "a.parquet"), tmp_path / "2" / "a.parquet"
    second.parent.mkdir()
    run([tmp_path / "1", tmp_path / "2"], tmp_path / "out")
    first.unlink()
    write_parquet(second, 50)
    kept, (result,) = run([tmp_path / "1", tmp_path / "2"], tmp_path / "out")
    assert (kept, result.url, result.rows) == ([], str(second), 50)


def test_an_output_that_was_removed_or_cut_is_written_again(logs: Path, tmp_path: Path) -> None:
    run([logs], tmp_path / "out")
    expected = outputs(tmp_path / "out")
    (tmp_path / "out" / "day=1" / "a.parquet").unlink()
    os.truncate(tmp_path / "out" / "day=1" / "b.parquet", 9)
    _, done = run([logs], tmp_path / "out")
    assert len(done) == 2
    assert outputs(tmp_path / "out") == expected


@pytest.mark.parametrize(
    "content",
    [b"", b"{", b"[]", b"{}", b'{"part": {"url": 1}, "result": {}}', b'{"part": "\xff"}', b'{"part":' + b"[" * 100_000],
    ids=range(7),
)
def test_a_record_of_another_version_is_not_believed(logs: Path, tmp_path: Path, content: bytes) -> None:
    run([logs], tmp_path / "out")
    (tmp_path / "out" / "_bulk" / "parts" / "day=1" / "a.parquet.json").write_bytes(content)
    kept, (result,) = run([logs], tmp_path / "out")
    assert (len(kept), result.name) == (2, "day=1/a.parquet")


def test_other_options_need_another_directory(logs: Path, tmp_path: Path) -> None:
    run([logs], tmp_path / "out")
    with pytest.raises(ConfigurationError, match=r"\(--at, --keep-tokens\); choose another directory"):
        run([logs], tmp_path / "out", options=BatchOptions(keep_tokens=True, at_ms=NOW_MS))
    with pytest.raises(ConfigurationError, match=r"\(--format\)"):
        run([logs], tmp_path / "out", output_format="parquet")
    with pytest.raises(ConfigurationError, match=r"\(LOGS\)"):
        run([logs / "day=1"], tmp_path / "out")
    (tmp_path / "out" / "_bulk" / "run.json").write_text("{}")
    with pytest.raises(ConfigurationError, match="version"):
        run([logs], tmp_path / "out")


def test_a_wrong_option_does_not_spoil_a_directory(logs: Path, tmp_path: Path) -> None:
    with pytest.raises(ConfigurationError, match="'nope'"):
        run([logs], tmp_path / "out", options=BatchOptions(token_column="nope"))
    _, done = run([logs], tmp_path / "out")
    assert len(done) == 3


def test_a_file_that_no_run_has_written_is_not_replaced(logs: Path, tmp_path: Path) -> None:
    path = tmp_path / "out" / "day=1" / "a.parquet"
    path.parent.mkdir(parents=True)
    path.write_text("precious")
    with pytest.raises(ConfigurationError, match=r"day=1/a\.parquet exists, and no run has written it"):
        run([logs], tmp_path / "out")
    assert path.read_text() == "precious"


@pytest.mark.parametrize("output", ["logs", "logs/out", "link/out"])
def test_the_output_is_not_among_the_inputs(logs: Path, tmp_path: Path, output: str) -> None:
    (tmp_path / "link").symlink_to(logs)
    with pytest.raises(ConfigurationError, match="which is an input"):
        run([logs], tmp_path / output)
    with pytest.raises(ConfigurationError, match="which is an input"):
        run([logs], f"file://{tmp_path / output}")
    with pytest.raises(ConfigurationError, match="which is an input"):
        run([f"file://{logs}"], tmp_path / output)


def test_the_output_is_not_in_a_directory_that_a_link_leads_to(logs: Path, tmp_path: Path) -> None:
    write_parquet(tmp_path / "elsewhere" / "a.parquet")
    (logs / "day=3").symlink_to(tmp_path / "elsewhere")
    with pytest.raises(ConfigurationError, match="which is an input"):
        run([logs], tmp_path / "elsewhere" / "out")
    assert not (tmp_path / "elsewhere" / "out").exists()


def test_an_empty_path_is_not_the_working_directory(
    logs: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(ConfigurationError, match="an empty path"):
        run([logs], "")
    with pytest.raises(ConfigurationError, match="an empty path"):
        run([""], tmp_path / "out")


def test_one_run_at_a_time(logs: Path, tmp_path: Path) -> None:
    run([logs], tmp_path / "out")
    with (tmp_path / "out" / "_bulk" / "lock").open() as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        with pytest.raises(ConfigurationError, match="another run writes to"):
            run([logs], tmp_path / "out")
    run([logs], tmp_path / "out")


def test_nothing_to_do_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(ConfigurationError, match="no files"):
        run([tmp_path], tmp_path.parent / f"{tmp_path.name}-out")


def test_unfinished_files_are_removed(logs: Path, tmp_path: Path) -> None:
    run([logs], tmp_path / "out")
    (tmp_path / "out" / "_bulk" / "tmp" / "left").write_text("x")
    run([logs], tmp_path / "out")
    assert list((tmp_path / "out" / "_bulk" / "tmp").iterdir()) == []


def modes(directory: Path) -> set[tuple[bool, int]]:
    return {(path.is_dir(), stat.S_IMODE(path.stat().st_mode)) for path in [directory, *directory.rglob("*")]}


def test_only_the_owner_may_read(logs: Path, tmp_path: Path) -> None:
    run([logs], tmp_path / "out")
    assert modes(tmp_path / "out") == {(True, 0o700), (False, 0o600)}


def test_a_directory_with_setgid_is_shared_with_its_group(logs: Path, tmp_path: Path) -> None:
    (tmp_path / "out").mkdir()
    (tmp_path / "out").chmod(0o2750)
    run([logs], tmp_path / "out")
    assert modes(tmp_path / "out") == {(True, 0o2750), (False, 0o640)}


def test_damaged_files_are_tried_again_and_the_others_kept(logs: Path, tmp_path: Path) -> None:
    good = (logs / "day=1" / "b.parquet").read_bytes()
    (logs / "day=1" / "b.parquet").write_bytes(good[:-9])
    _, done = run([logs], tmp_path / "out")
    assert [(result.name, result.problem) for result in done if result.problem] == [
        ("day=1/b.parquet", "truncated: the footer of Parquet is missing")
    ]
    (logs / "day=1" / "b.parquet").write_bytes(good)
    kept, (result,) = run([logs], tmp_path / "out")
    assert (len(kept), result.problem) == (2, None)


def test_damaged_rows_are_counted_and_the_first_named(tmp_path: Path) -> None:
    times = [NOW_MS, None, NOW_MS, None, NOW_MS]
    parquet.write_table(table(5).append_column("time", [times]), tmp_path / "a.parquet")
    options = BatchOptions(time_column="time")
    for _ in range(2):  # a rerun tells it, too
        kept, done = run([tmp_path / "a.parquet"], tmp_path / "out", options=options)
        (result,) = kept + done
        assert (result.rows, result.written, sum(result.statuses.values())) == (5, 5, 3)
        assert (result.damaged_rows, result.damage) == (2, ("row 1: its time or programme cannot be read",))
    with pytest.raises(DamagedFileError) as damaged:
        run([tmp_path / "a.parquet"], tmp_path / "strict", options=options, strict=True)
    assert damaged.value.__notes__ == [str(tmp_path / "a.parquet")]
    assert outputs(tmp_path / "strict") == {}


def test_a_damaged_file_whose_output_is_compressed_says_nothing_else(
    tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    whole = gzip.compress(json.dumps(rows()[0]).encode() + b"\n")
    (tmp_path / "a.ndjson.gz").write_bytes(whole + whole[:-1])
    _, (result,) = run([tmp_path / "a.ndjson.gz"], tmp_path / "out")
    assert result.problem == "the gzip data is damaged or truncated"
    gc.collect()
    assert capfd.readouterr().err == ""  # Arrow tells of streams that are not closed


def test_while_one_part_waits_for_storage_another_is_computed(
    logs: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    started: list[int] = []
    has_begun = threading.Event()
    publish = OutputDirectory.publish

    def wait(self: OutputDirectory, *args: Any) -> None:
        assert has_begun.wait(60)
        publish(self, *args)

    def on_batch(rows: int, _bytes: int) -> None:
        started.extend([rows] if rows else [])
        if len(started) == 2:
            has_begun.set()

    monkeypatch.setattr(OutputDirectory, "publish", wait)
    _, done = run([logs], tmp_path / "out", threads=1, on_batch=on_batch)
    assert len(done) == 3


def test_what_two_do_at_once_is_done_once(tmp_path: Path) -> None:
    """As where a task is tried again before its first attempt has ended."""
    write_parquet(tmp_path / "a.parquet", 5000)
    run([tmp_path / "a.parquet"], tmp_path / "expected")
    (part,) = find_parts([str(tmp_path / "a.parquet")])
    (tmp_path / "out" / "_bulk" / "tmp").mkdir(parents=True)
    both_have_begun = threading.Barrier(2)

    def on_batch(rows: int, _bytes: int) -> None:
        if rows:
            both_have_begun.wait(60)

    def attempt() -> PartResult:
        return process_part(part, str(tmp_path / "out"), keys(), BatchOptions(), NOW_MS, on_batch=on_batch)

    with ThreadPoolExecutor(2) as pool:
        first, second = pool.submit(attempt), pool.submit(attempt)
    assert first.result() == second.result()
    assert outputs(tmp_path / "out") == outputs(tmp_path / "expected")
    kept, _ = run([tmp_path / "a.parquet"], tmp_path / "out")
    assert kept == [first.result()]


def test_a_missing_column_names_the_file(logs: Path, tmp_path: Path) -> None:
    with pytest.raises(ConfigurationError, match="'nope'") as error:
        run([logs], tmp_path / "out", options=BatchOptions(token_column="nope"))
    assert error.value.__notes__[0].startswith(str(logs))
    run([logs], tmp_path / "out")  # nothing was written, so that the right name may be given
    assert len(outputs(tmp_path / "out")) == 3


def test_records_hold_no_personal_data(logs: Path, tmp_path: Path) -> None:
    run([logs], tmp_path / "out")
    for path in (tmp_path / "out" / "_bulk").rglob("*.json"):
        text = path.read_text()
        json.loads(text)
        assert not any(row["token"] in text for row in rows() if len(row["token"]) > 20)
