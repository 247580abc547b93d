"""What a run is divided into."""

import os
import pickle
import socket
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context
from pathlib import Path

import pytest
from pyarrow import parquet

from bidstream_svc.bulk import parts as parts_module
from bidstream_svc.bulk.parts import Part, find_parts, largest_first
from bidstream_svc.core.errors import ConfigurationError
from tests.bulk.logs import table, write_parquet


def touch(path: Path) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(b"x")
    return path


def names(*inputs: Path, output_format: str | None = None) -> list[str]:
    return [part.name for part in find_parts([str(path) for path in inputs], output_format)]


def test_directories_keep_their_paths_and_order(tmp_path: Path) -> None:
    for name in ("day=2/b.csv", "day=1/b.csv", "day=1/a.ndjson.gz", "c.tsv", "d.JSON.zst"):
        touch(tmp_path / name)
    for name in ("_SUCCESS", ".c.csv.crc", "_temporary/0/a.csv", "day=1/.hidden/a.csv"):
        touch(tmp_path / name)
    assert names(tmp_path) == ["c.tsv", "d.JSON.zst", "day=1/a.ndjson.gz", "day=1/b.csv", "day=2/b.csv"]
    assert names(tmp_path / "day=2" / "b.csv", tmp_path / "c.tsv") == ["b.csv", "c.tsv"]


def test_links_by_which_files_would_be_read_twice_are_refused(tmp_path: Path) -> None:
    touch(tmp_path / "logs" / "day=1" / "a.csv")
    touch(tmp_path / "elsewhere" / "b.csv")
    touch(tmp_path / "elsewhere.csv")
    (tmp_path / "logs" / "day=2").symlink_to(tmp_path / "elsewhere")
    (tmp_path / "logs" / "c.csv").symlink_to(tmp_path / "elsewhere.csv")
    assert names(tmp_path / "logs") == ["c.csv", "day=1/a.csv", "day=2/b.csv"]
    for target in ("day=1", ".", "..", "day=1/a.csv", "c.csv", "../elsewhere.csv"):
        link = tmp_path / "logs" / "latest.csv"
        link.symlink_to(target)
        with pytest.raises(ConfigurationError, match="would be read twice"):
            names(tmp_path / "logs")
        link.unlink()


def test_loops_of_links_are_refused_at_once(tmp_path: Path) -> None:
    """Each of them doubles the number of paths."""
    for name in ("a", "b", "c", "d"):
        (tmp_path / "logs" / name).mkdir(parents=True)
        (tmp_path / "logs" / name / "up").symlink_to("..")
    with pytest.raises(ConfigurationError, match="would be read twice"):
        names(tmp_path / "logs")


def test_what_cannot_be_read_is_a_part_of_its_own(tmp_path: Path) -> None:
    good = touch(tmp_path / "logs" / "a.csv")
    os.mkfifo(tmp_path / "logs" / "a.ndjson")
    (tmp_path / "logs" / "b.csv").symlink_to("nowhere")
    (tmp_path / "logs" / "c.csv").symlink_to("c.csv")
    (tmp_path / "logs" / "d").symlink_to("nowhere")
    (tmp_path / "logs" / "e.csv").symlink_to("/dev/null")
    (tmp_path / "logs" / ".#a.csv").symlink_to("someone@host.4711")  # an editor's lock
    touch(tmp_path / "logs" / "a.txt")
    with socket.socket(socket.AF_UNIX) as unix:
        unix.bind(str(tmp_path / "logs" / "f.csv"))
    # Without an output file, they do not have its name in common with another part.
    found = find_parts([str(tmp_path / "logs")], "csv")
    assert {part.name.removeprefix(f"{tmp_path}/logs/"): part.problem for part in found} == {
        "a.csv": None,
        "a.ndjson": "not a regular file",
        "a.txt": "not a file of a known format; names end in .parquet, .ndjson or .csv",
        "b.csv": "a symbolic link that leads nowhere",
        "c.csv": "cannot be read: Too many levels of symbolic links",
        "d": "a symbolic link that leads nowhere",
        "e.csv": "not a regular file",
        "f.csv": "not a regular file",
    }
    assert [part.url for part in largest_first(found)].index(str(good)) == len(found) - 1


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can become another user")
def test_a_directory_that_may_not_be_listed_is_a_part_that_cannot_be_read(tmp_path: Path) -> None:
    for directory in (tmp_path, *tmp_path.parents[:-1]):
        directory.chmod(directory.stat().st_mode | 0o011)
    touch(tmp_path / "logs" / "a.csv")
    touch(tmp_path / "logs" / "day=1" / "b.csv")
    (tmp_path / "logs").chmod(0o755)
    (tmp_path / "logs" / "day=1").chmod(0o700)
    with ProcessPoolExecutor(1, mp_context=get_context("fork"), initializer=os.setuid, initargs=(65534,)) as other_user:
        found = other_user.submit(find_parts, [str(tmp_path / "logs")]).result()
        assert [(part.url, part.problem) for part in found] == [
            (str(tmp_path / "logs" / "a.csv"), None),
            (str(tmp_path / "logs" / "day=1"), "cannot be read: Permission denied"),
        ]
        with pytest.raises(ConfigurationError, match="Permission denied"):
            other_user.submit(find_parts, [str(tmp_path / "logs" / "day=1")]).result()


def test_an_input_that_is_not_a_regular_file_is_refused(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "a.csv")
    with pytest.raises(ConfigurationError, match=r"a\.csv: not a regular file"):
        names(tmp_path / "a.csv")


def test_an_input_within_another_is_refused(tmp_path: Path) -> None:
    path = touch(tmp_path / "logs" / "day=1" / "a.csv")
    for other in (path, path.parent):
        with pytest.raises(ConfigurationError, match="given twice"):
            names(tmp_path / "logs", other)


def test_the_format_of_the_output_is_that_of_the_input_or_the_one_named(tmp_path: Path) -> None:
    for name in ("a.csv.bz2", "b.jsonl.lz4", "c.pq", "d.txt"):
        touch(tmp_path / name)
    found = find_parts([str(tmp_path)])
    assert [(part.format, part.output_format, part.compression) for part in found] == [
        ("csv", "csv", "bz2"),
        ("ndjson", "ndjson", "lz4"),
        ("parquet", "parquet", None),
        ("", "parquet", None),
    ]
    assert names(tmp_path, output_format="csv") == ["a.csv.bz2", "b.csv.lz4", "c.csv", str(tmp_path / "d.txt")]
    assert names(tmp_path, output_format="parquet")[:3] == ["a.parquet", "b.parquet", "c.pq"]


def test_two_inputs_with_one_output_are_refused(tmp_path: Path) -> None:
    first, second = touch(tmp_path / "1" / "a.csv"), touch(tmp_path / "2" / "a.csv")
    with pytest.raises(ConfigurationError, match=r"1/a\.csv and .*2/a\.csv would both be written to a\.csv"):
        names(first, second)
    assert names(tmp_path) == ["1/a.csv", "2/a.csv"]


def test_the_same_input_twice_is_refused(tmp_path: Path) -> None:
    first = touch(tmp_path / "a.csv")
    with pytest.raises(ConfigurationError, match="twice"):
        names(first, first)


def test_an_input_that_is_missing_is_named(tmp_path: Path) -> None:
    with pytest.raises(ConfigurationError, match=r"nowhere: no such file or directory"):
        names(tmp_path / "nowhere")


def test_a_name_that_is_not_utf8_is_refused(tmp_path: Path) -> None:
    path = touch(tmp_path / os.fsdecode(b"\xff.csv"))
    for url in (path, tmp_path):
        with pytest.raises(ConfigurationError, match="not in UTF-8; rename it"):
            names(url)


def test_large_parquet_is_divided_at_row_groups(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(parts_module, "MAX_PART_ROWS", 25)
    write_parquet(tmp_path / "a.parquet", 95, row_group_size=10, compression="zstd")
    found = find_parts([str(tmp_path)])
    assert [(part.name, part.row_groups, part.first_row) for part in found] == [
        ("a.part-00000.parquet", (0, 2), 0),
        ("a.part-00001.parquet", (2, 4), 20),
        ("a.part-00002.parquet", (4, 6), 40),
        ("a.part-00003.parquet", (6, 8), 60),
        ("a.part-00004.parquet", (8, 10), 80),
    ]
    assert {part.compression for part in found} == {"ZSTD"}
    assert sum(part.size for part in found) < found[0].file_size
    write_parquet(tmp_path / "a.parquet", 95, row_group_size=95)
    assert names(tmp_path) == ["a.parquet"]


def test_a_row_group_that_is_too_large_is_a_part(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(parts_module, "MAX_PART_ROWS", 5)
    with parquet.ParquetWriter(tmp_path / "a.parquet", table(1).schema) as writer:
        for count in (3, 9, 1, 1, 4):
            writer.write_table(table(count))
    assert [part.row_groups for part in find_parts([str(tmp_path)])] == [(0, 1), (1, 2), (2, 4), (4, 5)]


def test_parts_are_plain_values(tmp_path: Path) -> None:
    path = write_parquet(tmp_path / "a.parquet")
    os.utime(path, ns=(1, 123_456_789))
    (part,) = find_parts([str(path)])
    assert pickle.loads(pickle.dumps(part)) == part  # noqa: S301
    assert part == Part(
        url=str(path),
        format="parquet",
        size=path.stat().st_size,
        file_size=path.stat().st_size,
        mtime_ns=123_456_789,
        name="a.parquet",
        output_format="parquet",
        compression="SNAPPY",
    )
