"""Logs and keys for the tests of files."""

import json
from collections.abc import Sequence
from functools import cache
from pathlib import Path
from typing import Any

import pyarrow as pa
from pyarrow import parquet

from bidstream_svc.bulk import BatchKeys, BatchOptions
from bidstream_svc.bulk.local_engine import process_parts
from bidstream_svc.bulk.part_work import OnBatch, PartResult
from bidstream_svc.bulk.run import open_run
from tests.vectors.inputs import NOW_MS
from tests.vectors.load import key_response, key_snapshot, load


@cache
def keys() -> BatchKeys:
    snapshot = key_snapshot("uid2")
    assert snapshot is not None
    return BatchKeys([snapshot])


@cache
def rows() -> list[dict[str, Any]]:
    """Rows with tokens of every outcome, as of NOW_MS."""
    vectors = [
        each
        for each in load("own.json")
        if (each["keys"], each["now_ms"]) == ("uid2", NOW_MS) and not each.get("optouts")
    ]
    vectors = [each for each in vectors if isinstance(each["token"], str) and isinstance(each["domain"], str | None)]
    vectors = [each for each in vectors if (each["token"] + (each["domain"] or "")).isascii()]
    assert len(vectors) > 50
    return [{"token": each["token"], "domain": each["domain"], "expected": each["status"]} for each in vectors]


def table(count: int) -> pa.Table:
    """`count` rows, numbered in the column `id`."""
    chosen = [{"id": number, **rows()[number % len(rows())]} for number in range(count)]
    return pa.Table.from_pylist(chosen)


def write_parquet(path: Path, count: int = 100, **options: Any) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    parquet.write_table(table(count), path, **options)
    return path


def write_keys(path: Path) -> Path:
    path.write_text(json.dumps(key_response("uid2")[0]))
    return path


def run(
    inputs: Sequence[Path | str],
    output: Path | str,
    *,
    now_ms: int = NOW_MS,
    output_format: str | None = None,
    options: BatchOptions | None = None,
    strict: bool = False,
    threads: int = 2,
    on_batch: OnBatch = lambda _rows, _bytes: None,
) -> tuple[list[PartResult], list[PartResult]]:
    """Run, or go on with a run; returns what was kept, and what was done."""
    options = BatchOptions() if options is None else options
    with open_run(list(map(str, inputs)), str(output), options, output_format=output_format, now_ms=now_ms) as opened:
        done = process_parts(
            opened.todo,
            str(output),
            keys(),
            options,
            opened.now_ms,
            strict=strict,
            threads=threads,
            on_batch=on_batch,
        )
        results = sorted(done, key=lambda result: result.name)
        return opened.kept, results


def outputs(directory: Path) -> dict[str, bytes]:
    """Files that are visible in an output directory."""
    found = (path for path in directory.rglob("*") if path.is_file())
    names = {path.relative_to(directory).as_posix(): path for path in found}
    return {name: path.read_bytes() for name, path in names.items() if not name.startswith("_bulk/")}
