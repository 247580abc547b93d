"""What a run is divided into."""

import os
import pickle
from pathlib import Path

import pytest
from pyarrow import parquet

from bidstream_svc.bulk import parts as parts_module
from bidstream_svc.bulk.parts import Part, find_parts
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
    (tmp_path / "logs" / "day=2").symlink_to(tmp_path / "elsewhere")
    assert names(tmp_path / "logs") == ["day=1/a.csv", "day=2/b.csv"]
    for target in ("day=1", "."):
        link = tmp_path / "logs" / "latest"
        link.symlink_to(target)
        with pytest.raises(ConfigurationError, match="would be read twice"):
            names(tmp_path / "logs")
        link.unlink()


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
    assert names(tmp_path, output_format="csv") == ["a.csv.bz2", "b.csv.lz4", "c.csv", "d.csv"]
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


def test_what_is_not_a_regular_file_is_a_part_that_cannot_be_read(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "a.csv")
    (tmp_path / "c.csv").symlink_to(touch(tmp_path / "d.csv"))
    found = find_parts([str(tmp_path)])
    assert [(part.format, part.name, part.size) for part in found] == [
        ("", "a.parquet", 0),
        ("csv", "c.csv", 1),
        ("csv", "d.csv", 1),
    ]


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
