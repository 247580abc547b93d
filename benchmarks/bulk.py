"""`python -m benchmarks.bulk [SECTION...]`: logs in bulk, on one machine and on the engines of clusters.

Prints JSON, a line or more for each section; every answer is checked. The engines are in requirements/bulk.txt. With
`--keep`, the results are kept for the documents, which `make figures` writes.

- `batch`: `decrypt_batch` in one thread and in two: version 4 tokens with sites as in traffic, or spread equally over
  all keys; and the rows of the log
- `parquet`: `bulk decrypt` from Parquet to Parquet, and the same threads that only read and write the same columns
- `uid2-client`: the loop of a pandas UDF over the published client, compared with `bulk decrypt`
- `memory`: peak memory of `bulk decrypt` for 1 million and for 100 million rows
- `ray`: `bulk decrypt --engine ray` on this machine, compared with its threads; the start of either is not counted
- `spark`: Spark that decrypts, compared with Spark that only reads and writes the same rows
"""

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from functools import partial
from pathlib import Path
from statistics import median
from typing import Any

import pyarrow as pa
from pyarrow import parquet
from uid2_client import BidstreamClient
from uid2_client.encryption import EncryptionError

from benchmarks.bulk_material import (
    FAILING_SHARE,
    KEY_SET,
    NOW_MS,
    VERDICT_SCHEMA,
    ZIPF_EXPONENT,
    Log,
    check_output,
    draw_sites,
    make_log,
    read_tokens,
)
from benchmarks.figures import KEPT
from benchmarks.keyserver import CLIENT_SECRET_BASE64
from benchmarks.machine import describe
from benchmarks.material import make_samples
from benchmarks.rounds import interleave, median_ratio
from bidstream_svc import parse_key_response
from bidstream_svc.bulk import BatchKeys, BatchOptions, decrypt_batch

_THREADS = os.cpu_count() or 1
_BATCH_ROWS = 2**16
_BATCH_TOKENS = 4 * _BATCH_ROWS
_TOKENS_TO_CLIENT = 5_000
_OPTIONS = BatchOptions(at_ms=NOW_MS)


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.bulk", description="Measure logs in bulk.")
    parser.add_argument("sections", nargs="*", metavar="SECTION", default=[*_SECTIONS], help=", ".join(_SECTIONS))
    parser.add_argument("--rows", type=int, default=5_000_000)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--keep", action="store_true", help="keep the results, for `make figures`, and no earlier ones")
    arguments = parser.parse_args()
    results: dict[str, Any] = {"machine": describe(), "rows": arguments.rows}
    with tempfile.TemporaryDirectory() as name:
        log = make_log(Path(name), arguments.rows, arguments.rows)
        for section in arguments.sections:
            results[section] = []
            for line in _SECTIONS[section](log, arguments.rounds):
                print(json.dumps({"section": section, **line}), flush=True)
                results[section].append(line)
    if arguments.keep:
        (KEPT / "bulk.json").write_text(json.dumps(results, indent=1) + "\n", encoding="utf-8")


# ---- one function ----


def _measure_batch(log: Log, rounds: int) -> Iterator[dict[str, Any]]:
    """Each kind of rows is a line."""
    keys = BatchKeys([parse_key_response(KEY_SET.response())])
    kinds = {
        "v4, sites as in traffic": _v4_batches(keys, ZIPF_EXPONENT),
        "v4, all sites equally likely": _v4_batches(keys, 0),
        f"traffic, {FAILING_SHARE} % failing": _log_batches(keys, log),
    }
    variants = {
        (kind, threads): partial(_rate, keys, batches, threads) for kind, batches in kinds.items() for threads in (1, 2)
    }
    rates = interleave(variants, rounds)
    for kind in kinds:
        one, two = rates[kind, 1], rates[kind, 2]
        yield {
            "rows": kind,
            "tokens_per_s": {"1 thread": round(median(one)), "2 threads": round(median(two))},
            "2 threads / 1 thread": median_ratio(two, one),
        }


def _v4_batches(keys: BatchKeys, exponent: float) -> list[pa.RecordBatch]:
    sites = draw_sites(_BATCH_TOKENS, exponent=exponent)
    samples = make_samples(KEY_SET, _BATCH_TOKENS, client_side_every=None, sites=sites)
    columns = {"token": [each.token for each in samples], "domain": [each.domain for each in samples]}
    return _checked(keys, pa.table(columns), pa.table({"uid": [each.raw_uid for each in samples]}))


def _log_batches(keys: BatchKeys, log: Log) -> list[pa.RecordBatch]:
    rows = pa.table(read_tokens(log)).slice(0, _BATCH_TOKENS)
    return _checked(keys, rows, log.verdicts[0].slice(0, _BATCH_TOKENS))


def _checked(keys: BatchKeys, rows: pa.Table, verdicts: pa.Table) -> list[pa.RecordBatch]:
    """Batches of these rows, whose verdicts are as expected."""
    batches: list[pa.RecordBatch] = rows.combine_chunks().to_batches(max_chunksize=_BATCH_ROWS)
    found = pa.Table.from_batches([decrypt_batch(batch, keys, _OPTIONS, now_ms=NOW_MS) for batch in batches])
    if not found.select(verdicts.column_names).combine_chunks().equals(verdicts.combine_chunks()):
        raise RuntimeError("wrong verdicts")
    return batches


def _rate(keys: BatchKeys, batches: list[pa.RecordBatch], threads: int) -> float:
    """Return the tokens per second of all threads; each decrypts all batches, four times."""

    def decrypt_all() -> None:
        for batch in batches * 4:
            decrypt_batch(batch, keys, _OPTIONS, now_ms=NOW_MS)

    with ThreadPoolExecutor(threads) as pool:
        list(pool.map(lambda _: None, range(threads)))  # starts them
        start = time.perf_counter()
        for future in [pool.submit(decrypt_all) for _ in range(threads)]:
            future.result()
        return threads * 4 * sum(len(batch) for batch in batches) / (time.perf_counter() - start)


# ---- one machine ----


def _measure_parquet(log: Log, rounds: int) -> Iterator[dict[str, Any]]:
    seconds = interleave(
        {"bulk decrypt": lambda: _bulk_decrypt(log), "reading and writing alone": lambda: _read_and_write(log)}, rounds
    )
    added = median_ratio(seconds["bulk decrypt"], seconds["reading and writing alone"]) - 1
    yield {
        "rows": log.rows,
        "seconds": {name: round(median(each), 2) for name, each in seconds.items()},
        "rows_per_s": round(log.rows / median(seconds["bulk decrypt"])),
        "added": added,
    }


def _bulk_decrypt(log: Log, *options: str) -> float:
    """Return the seconds that the command took, start included."""
    with tempfile.TemporaryDirectory() as name:
        start = time.perf_counter()
        _run_bulk(log, Path(name) / "out", *options)
        seconds = time.perf_counter() - start
        check_output(log, Path(name) / "out")
        return seconds


def _run_bulk(log: Log, output: Path, *options: str) -> dict[str, Any]:
    """Run the command and return its summary."""
    command = [sys.executable, "-m", "bidstream_svc", "bulk", "decrypt", log.directory, "--output", output]
    command += ["--keys", log.keys, "--at", str(NOW_MS), *options]
    done = subprocess.run(list(map(str, command)), check=True, stderr=subprocess.PIPE, text=True)
    summary: dict[str, Any] = json.loads(done.stderr.strip().splitlines()[-1])
    return summary


def _read_and_write(log: Log) -> float:
    """Read all columns and write those of the output, whose last ones are known, with as many threads."""
    with tempfile.TemporaryDirectory() as name, ThreadPoolExecutor(_THREADS) as pool:
        files = sorted(log.directory.glob("*.parquet"))
        start = time.perf_counter()
        for _ in pool.map(partial(_copy, Path(name)), files, log.verdicts):
            pass
        return time.perf_counter() - start


def _copy(output: Path, file: Path, verdicts: pa.Table) -> None:
    source = parquet.ParquetFile(file)
    schema = pa.schema([field for field in source.schema_arrow if field.name != "token"] + list(VERDICT_SCHEMA))
    done = 0
    with parquet.ParquetWriter(output / file.name, schema) as writer:
        for batch in source.iter_batches(_BATCH_ROWS, use_threads=False):
            own = batch.drop_columns("token")
            known = verdicts.slice(done, len(batch)).combine_chunks().columns
            writer.write_batch(pa.record_batch([*own.columns, *(each.chunk(0) for each in known)], schema=schema))
            done += len(batch)


def _measure_client(log: Log, rounds: int) -> Iterator[dict[str, Any]]:
    columns = read_tokens(log)
    client = BidstreamClient("", "", CLIENT_SECRET_BASE64)
    client._refresh_json(KEY_SET.response())

    def decrypt_with_client() -> float:
        start = time.perf_counter()
        for token, domain in zip(columns["token"][:_TOKENS_TO_CLIENT], columns["domain"], strict=False):
            with suppress(EncryptionError):
                client.decrypt_token_into_raw_uid(token, domain)
        return _TOKENS_TO_CLIENT / (time.perf_counter() - start)

    rates = interleave(
        {"uid2-client": decrypt_with_client, "bulk decrypt": lambda: log.rows / _bulk_decrypt(log)}, min(rounds, 3)
    )
    yield {
        "rows_per_s": {name: round(median(each)) for name, each in rates.items()},
        "bulk decrypt / uid2-client": median_ratio(rates["bulk decrypt"], rates["uid2-client"]),
    }


def _measure_memory(log: Log, _: int) -> Iterator[dict[str, Any]]:
    """The same files under many names, so that 100 million rows take no more disk."""
    peaks = {millions: _peak_mb(log, millions) for millions in (1, 100)}
    yield {
        "peak_mb": {f"{millions} million rows": round(peak, 1) for millions, peak in peaks.items()},
        "ratio": peaks[100] / peaks[1],
    }


def _peak_mb(log: Log, millions: int) -> float:
    with tempfile.TemporaryDirectory(dir=log.directory.parent) as name:
        directory, output = Path(name) / "in", Path(name) / "out"
        directory.mkdir()
        files = sorted(log.directory.glob("*.parquet"))
        for number in range(millions):
            os.link(files[number % len(files)], directory / f"{number:04}.parquet")
        before = log._replace(directory=directory, rows=millions * 10**6)
        child = (  # not `ru_maxrss`, which begins with the peak of the process that started this one
            "import pathlib, runpy\n"
            "try:\n runpy.run_module('bidstream_svc', run_name='__main__', alter_sys=True)\n"
            "finally:\n print(pathlib.Path('/proc/self/status').read_text().partition('VmHWM:')[2].split()[0])"
        )
        arguments = ["bulk", "decrypt", str(before.directory), "--output", str(output), "--keys", str(log.keys)]
        done = subprocess.run(
            [sys.executable, "-c", child, *arguments, "--at", str(NOW_MS)], check=True, capture_output=True, text=True
        )
        summary = json.loads(done.stderr.strip().splitlines()[-1])
        if summary["rows"] != before.rows:
            raise RuntimeError(f"{summary['rows']} rows, where the log has {before.rows}")
        return int(done.stdout.split()[-1]) / 1024


# ---- engines ----


def _measure_ray(log: Log, rounds: int) -> Iterator[dict[str, Any]]:
    seconds = interleave(
        {engine: partial(_seconds_without_start, log, engine) for engine in ("local", "ray")}, min(rounds, 3)
    )
    yield {
        "rows_per_s": {engine: round(log.rows / median(each)) for engine, each in seconds.items()},
        "ray / local": median_ratio(seconds["local"], seconds["ray"]),
    }


def _seconds_without_start(log: Log, engine: str) -> float:
    """Return the seconds for the log, less those for one of its files with a single row."""
    with tempfile.TemporaryDirectory() as name:
        short = make_log(Path(name), 1, 1)._replace(keys=log.keys)
        start_s = _bulk_decrypt(short, "--engine", engine)
    return _bulk_decrypt(log, "--engine", engine) - start_s


def _measure_spark(log: Log, rounds: int) -> Iterator[dict[str, Any]]:
    command = [sys.executable, "-m", "benchmarks.bulk_spark", log.directory, log.keys, NOW_MS, min(rounds, 3)]
    done = subprocess.run(list(map(str, command)), check=True, stdout=subprocess.PIPE, text=True)
    found = json.loads(done.stdout)
    expected = Counter(status for table in log.verdicts for status in table["status"].to_pylist())
    if found["statuses"] != expected:
        raise RuntimeError("wrong statuses")
    seconds = found["seconds"]
    yield {
        "rows_per_s": {name: round(log.rows / median(each)) for name, each in seconds.items()},
        "decrypting / not": median_ratio(seconds["spark"], seconds["spark, decrypting"]),
    }


_SECTIONS: dict[str, Callable[[Log, int], Iterator[dict[str, Any]]]] = {
    "batch": _measure_batch,
    "parquet": _measure_parquet,
    "uid2-client": _measure_client,
    "memory": _measure_memory,
    "ray": _measure_ray,
    "spark": _measure_spark,
}

if __name__ == "__main__":
    main()
