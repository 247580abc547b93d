"""Logs in Parquet: all columns are kept, memory is bounded, and damage is named."""

import datetime as dt
import json
import random
from pathlib import Path

import pyarrow as pa
import pytest
from pyarrow import parquet

from bidstream_svc.bulk import BatchOptions
from bidstream_svc.bulk import parquet_files as module
from bidstream_svc.bulk.formats import MAX_BATCH_BYTES
from bidstream_svc.bulk.parquet_files import ParquetReader, open_reader, open_writer
from bidstream_svc.bulk.part_work import process_part
from bidstream_svc.bulk.parts import find_parts
from bidstream_svc.bulk.storage import locate
from bidstream_svc.core.errors import DamagedFileError
from tests.bulk.logs import keys, rows, run, table, write_parquet
from tests.vectors.inputs import NOW_MS


def reader(path: Path) -> ParquetReader:
    (part,) = find_parts([str(path)])
    place = locate(str(path))
    return open_reader(place.filesystem, place.path, part, BatchOptions())


def rewrite(path: Path, target: Path) -> None:
    source = reader(path)
    (part,) = find_parts([str(path)])
    with pa.OSFile(str(target), "wb") as file:
        writer = open_writer(file, source.schema, part, BatchOptions())
        for batch in source:
            writer.write(batch)
        writer.close()
    source.close()


def test_own_columns_come_back_as_they_were(tmp_path: Path) -> None:
    count = len(rows())
    moment = dt.datetime(2026, 11, 27, tzinfo=dt.UTC)
    columns = table(count).append_column("nested", pa.array([{"a": [1, None], "b": {"c": "x"}}] * (count - 1) + [None]))
    columns = columns.append_column("map", pa.array([[("k", 1)]] * count, pa.map_(pa.string(), pa.int64())))
    columns = columns.append_column("when", pa.array([moment] * count, pa.timestamp("ns", "Europe/Berlin")))
    columns = columns.append_column("dictionary", pa.array(["x"] * count).dictionary_encode())
    columns = columns.append_column("large", pa.array(["x"] * count, pa.large_string()))
    columns = columns.append_column("decimal", pa.array([None] * count, pa.decimal128(38, 9)))
    columns = columns.replace_schema_metadata({"pandas": "{}", "own": "kept"})
    parquet.write_table(columns, tmp_path / "a.parquet")
    run([tmp_path / "a.parquet"], tmp_path / "out")
    written = parquet.read_table(tmp_path / "out" / "a.parquet")
    own = columns.drop_columns("token")
    assert written.select(own.column_names).equals(own)
    assert written.schema.metadata == columns.schema.metadata
    assert written.column("status").to_pylist() == [row["expected"] for row in rows()]
    assert written.column_names[-3:] == ["status", "uid", "established"]


def test_no_dictionary_is_tried_for_raw_uids(tmp_path: Path) -> None:
    nested = table(100).append_column("nested", [[[{"a": ["x"]}]] * 100])
    parquet.write_table(nested, tmp_path / "a.parquet")
    run([tmp_path / "a.parquet"], tmp_path / "out")
    group = parquet.read_metadata(tmp_path / "out" / "a.parquet").row_group(0)
    columns = [group.column(number) for number in range(group.num_columns)]
    assert {column.path_in_schema for column in columns if not column.has_dictionary_page} == {"uid", "established"}


def test_no_dictionary_is_tried_for_columns_whose_values_hardly_repeat(tmp_path: Path) -> None:
    count = 20_000
    log = pa.table(
        {
            "id": [f"{number:012}" for number in range(count)],
            "time": pa.array(range(count), pa.timestamp("ms")),
            "price": [number % 9_000 / 100 for number in range(count)],
            "country": ["DE"] * count,
            "nested": [{"id": number} for number in range(count)],
            "dictionary": pa.array(["x"] * count).dictionary_encode(),
        }
    )
    for rows_written, without in ((count, {"id", "time"}), (1_000, set())):  # too few to tell
        parquet.write_table(log.slice(0, rows_written), tmp_path / "a.parquet")
        rewrite(tmp_path / "a.parquet", tmp_path / "b.parquet")
        group = parquet.read_metadata(tmp_path / "b.parquet").row_group(0)
        columns = [group.column(number) for number in range(group.num_columns)]
        assert {column.path_in_schema for column in columns if not column.has_dictionary_page} == without
        assert parquet.read_table(tmp_path / "b.parquet").equals(log.slice(0, rows_written))


@pytest.mark.parametrize("codec", ["NONE", "SNAPPY", "ZSTD", "GZIP", "BROTLI", "LZ4"])
def test_the_codec_is_that_of_the_input(tmp_path: Path, codec: str) -> None:
    write_parquet(tmp_path / "a.parquet", compression=codec)
    rewrite(tmp_path / "a.parquet", tmp_path / "b.parquet")
    codecs = [
        parquet.read_metadata(tmp_path / name).row_group(0).column(0).compression for name in ("a.parquet", "b.parquet")
    ]
    assert codecs[0] == codecs[1] == codec.replace("NONE", "UNCOMPRESSED")


def test_a_large_row_group_is_read_in_small_batches(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    wide = pa.table({"token": ["x" * 10_000] * 1000, "id": range(1000)})
    parquet.write_table(wide, tmp_path / "wide.parquet", use_dictionary=False, compression="zstd")
    long = pa.table({"token": ["x"] * 200_000})
    parquet.write_table(long, tmp_path / "long.parquet")
    with monkeypatch.context() as patch:
        patch.setattr(module, "MAX_BATCH_BYTES", 2**20)
        batches = list(reader(tmp_path / "wide.parquet"))
    assert len(batches) > 9
    assert max(batch.nbytes for batch in batches) < 2 * 2**20
    assert pa.Table.from_batches(batches).equals(wide)
    assert max(batch.num_rows for batch in reader(tmp_path / "long.parquet")) <= 2**16


def test_a_long_value_in_a_dictionary_does_not_make_a_large_batch(tmp_path: Path) -> None:
    path = tmp_path / "a.parquet"
    parquet.write_table(pa.table({"token": ["x"] * 20_000, "own": ["v" * 10_000] * 20_000}), path)
    (part,) = find_parts([str(path)])
    reader = open_reader(*locate(part.url), part, BatchOptions())
    sizes = [batch.nbytes for batch in reader]
    assert sum(sizes) > 2e8
    assert max(sizes) < 2 * MAX_BATCH_BYTES
    reader.close()


def test_bid_requests_whose_rows_are_repeated_make_batches_of_bounded_size(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    written: list[int] = []
    write = module.ParquetWriter.write

    def note(writer: module.ParquetWriter, batch: pa.RecordBatch) -> None:
        written.append(batch.nbytes)
        write(writer, batch)

    monkeypatch.setattr(module.ParquetWriter, "write", note)
    eids = [{"source": "uidapi.com", "uids": [{"id": "x"}] * 30}]
    bids = [json.dumps({"user": {"eids": eids}, "number": number}) for number in range(40)]
    parquet.write_table(pa.table({"bid": bids, "own": ["o" * 100_000] * 40}), tmp_path / "a.parquet")
    _, (result,) = run([tmp_path / "a.parquet"], tmp_path / "out", options=BatchOptions(bid_request_column="bid"))
    assert (result.rows, result.written) == (40, 1_200)
    found = parquet.read_table(tmp_path / "out" / "a.parquet")
    assert found["row"].to_pylist() == [number for number in range(40) for _ in range(30)]
    assert sum(written) > 120e6
    assert max(written) < 40e6


def test_rows_and_bytes_are_counted(tmp_path: Path) -> None:
    write_parquet(tmp_path / "a.parquet", 100, row_group_size=40)
    opened = reader(tmp_path / "a.parquet")
    seen = [(opened.first_row, batch.num_rows, opened.done_bytes) for batch in opened]
    size = (tmp_path / "a.parquet").stat().st_size
    assert [each[:2] for each in seen] == [(0, 40), (40, 40), (80, 20)]
    assert [each[2] for each in seen] == [size * 40 // 100, size * 80 // 100, size]


def test_row_groups_that_are_written_are_bounded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_parquet(tmp_path / "a.parquet", 100, row_group_size=7)
    monkeypatch.setattr(module, "_GROUP_ROWS", 30)
    rewrite(tmp_path / "a.parquet", tmp_path / "b.parquet")
    metadata = parquet.read_metadata(tmp_path / "b.parquet")
    assert [metadata.row_group(number).num_rows for number in range(metadata.num_row_groups)] == [28, 28, 28, 16]
    monkeypatch.setattr(module, "_GROUP_BYTES", 1)
    rewrite(tmp_path / "a.parquet", tmp_path / "b.parquet")
    assert parquet.read_metadata(tmp_path / "b.parquet").num_row_groups == 15
    assert parquet.read_table(tmp_path / "b.parquet").equals(table(100))


@pytest.mark.parametrize("group_rows", [0, 1])
def test_a_file_without_rows_gives_one_without_rows(tmp_path: Path, group_rows: int) -> None:
    schema = table(1).schema
    with parquet.ParquetWriter(tmp_path / "a.parquet", schema) as writer:
        if group_rows:
            writer.write_table(schema.empty_table())
    _, (result,) = run([tmp_path / "a.parquet"], tmp_path / "out")
    assert (result.rows, result.problem) == (0, None)
    written = parquet.read_table(tmp_path / "out" / "a.parquet")
    assert written.column_names == ["id", "domain", "expected", "status", "uid", "established"]


def problem_of(path: Path, tmp_path: Path) -> str | None:
    (part,) = find_parts([str(path)])
    (tmp_path / "out" / "_bulk" / "tmp").mkdir(parents=True, exist_ok=True)
    return process_part(part, str(tmp_path / "out"), keys(), BatchOptions(), NOW_MS).problem


@pytest.mark.parametrize(
    ("content", "problem"),
    [
        (b"", "empty: not even the footer of Parquet"),
        (b"token,domain\n", "not Parquet"),
        (b"PAR1", "truncated: the footer of Parquet is missing"),
        (b"PAR1" + b"x" * 100, "truncated: the footer of Parquet is missing"),
        (b"PAR1" + b"\xff" * 100 + b"PAR1", "damaged Parquet"),
        (b"PARE" + b"x" * 100 + b"PARE", "encrypted Parquet, which cannot be read"),
    ],
)
def test_what_is_not_whole_is_named(tmp_path: Path, content: bytes, problem: str) -> None:
    (tmp_path / "a.parquet").write_bytes(content)
    assert problem_of(tmp_path / "a.parquet", tmp_path) == problem


def test_a_file_with_encrypted_columns_is_named(tmp_path: Path) -> None:
    """With a plain footer, the schema can be read and the columns cannot."""
    from pyarrow.parquet import encryption  # noqa: PLC0415 - not in every build

    class Kms(encryption.KmsClient):  # type: ignore[misc]
        def wrap_key(self, key_bytes: bytes, _master_key_identifier: str) -> str:
            return key_bytes.hex()

        def unwrap_key(self, wrapped_key: str, _master_key_identifier: str) -> bytes:
            return bytes.fromhex(wrapped_key)

    factory = encryption.CryptoFactory(lambda _: Kms())
    for plaintext_footer in (False, True):
        configuration = encryption.EncryptionConfiguration(
            footer_key="f", column_keys={"c": ["token"]}, plaintext_footer=plaintext_footer
        )
        properties = factory.file_encryption_properties(encryption.KmsConnectionConfig(), configuration)
        with parquet.ParquetWriter(tmp_path / "a.parquet", table(1).schema, encryption_properties=properties) as writer:
            writer.write_table(table(10))
        assert problem_of(tmp_path / "a.parquet", tmp_path) == "encrypted Parquet, which cannot be read"


def test_a_truncated_or_changed_file_gives_a_problem_or_its_rows_and_nothing_else(tmp_path: Path) -> None:
    """Never another exception, and never an output for a file that has a problem."""
    whole = write_parquet(tmp_path / "whole.parquet", 200, row_group_size=50, compression="gzip").read_bytes()
    path = tmp_path / "a.parquet"
    chance = random.Random(17)  # noqa: S311 - repeatable
    problems = 0
    for number in range(120):
        content = bytearray(whole)
        if number % 3:
            content[chance.randrange(len(content))] ^= 1 << chance.randrange(8)
        else:
            del content[chance.randrange(len(content)) :]
        path.write_bytes(content)
        problems += (problem := problem_of(path, tmp_path)) is not None
        assert (tmp_path / "out" / "a.parquet").exists() is (problem is None)
        (tmp_path / "out" / "a.parquet").unlink(missing_ok=True)
        assert list((tmp_path / "out" / "_bulk" / "tmp").iterdir()) == []
    assert problems > 40


def test_a_file_that_may_not_be_read_or_is_gone_is_named(tmp_path: Path) -> None:
    path = write_parquet(tmp_path / "a.parquet")
    (part,) = find_parts([str(path)])
    path.unlink()
    (tmp_path / "out" / "_bulk" / "tmp").mkdir(parents=True)
    result = process_part(part, str(tmp_path / "out"), keys(), BatchOptions(), NOW_MS)
    assert result.problem == "cannot be read: No such file or directory"


def test_strict_raises_for_a_damaged_file(tmp_path: Path) -> None:
    (tmp_path / "a.parquet").write_bytes(b"")
    with pytest.raises(DamagedFileError, match="empty"):
        run([tmp_path / "a.parquet"], tmp_path / "out", strict=True)
