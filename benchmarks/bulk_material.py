"""A bid log with known verdicts: rows as in traffic, a tenth of which do not decrypt.

A few sites have most of the traffic. They are drawn by Zipf's law: the site of rank r has a share proportional to
r ** -ZIPF_EXPONENT. Of visits to 120,000 web sites, the first 0.1 % had 32.36 % (Adamic and Huberman, "The nature of
markets in the World Wide Web", 2000), which is this exponent.
Of the 15,000 sites here, the first 150 have 45 % of the rows.
"""

from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor
from itertools import accumulate
from multiprocessing import get_context
from pathlib import Path
from random import Random
from typing import NamedTuple

import pyarrow as pa
from pyarrow import parquet

from benchmarks.material import NOW_S, KeySet
from benchmarks.traffic import make_traffic

KEY_SET = KeySet(5_000, 60_000)
NOW_MS = NOW_S * 1000
FAILING_SHARE = 10
ZIPF_EXPONENT = 0.92
ROW_GROUP_ROWS = 2**17
FILE_ROWS = 10**6
_DISTINCT_A_CHUNK = 125_000
_COUNTRIES = ("DE", "FR", "US", "GB", "BR")
VERDICT_SCHEMA = pa.schema([("status", pa.string()), ("uid", pa.string()), ("established", pa.int64())])


class Log(NamedTuple):
    """A log and what is known of it.

    Attributes:
        directory: its Parquet files, of FILE_ROWS rows or fewer.
        keys: the file of the key response.
        rows: their number.
        verdicts: `status`, `uid`, `established` of each file's rows.
    """

    directory: Path
    keys: Path
    rows: int
    verdicts: list[pa.Table]


def make_log(directory: Path, rows: int, distinct: int) -> Log:
    """Write a log with so many distinct tokens, which repeat in the same order."""
    logs = directory / "logs"
    logs.mkdir(parents=True)
    keys = directory / "keys.json"
    keys.write_bytes(KEY_SET.response())
    columns = _make_distinct(min(distinct, rows))
    verdicts = []
    for number, start in enumerate(range(0, rows, FILE_ROWS)):
        table = _rows(columns, start, min(FILE_ROWS, rows - start))
        parquet.write_table(
            table.drop_columns(VERDICT_SCHEMA.names), logs / f"part-{number:04}.parquet", row_group_size=ROW_GROUP_ROWS
        )
        verdicts.append(table.select(VERDICT_SCHEMA.names))
    return Log(logs, keys, rows, verdicts)


def draw_sites(count: int, *, exponent: float = ZIPF_EXPONENT, seed: int = 0) -> list[int]:
    """Draw sites of KEY_SET by Zipf's law; an exponent of 0 makes all equally likely."""
    sites = list(range(1, KEY_SET.sites + 1))
    Random(KEY_SET.sites).shuffle(sites)  # ranks are not ids, and are the same for any seed
    shares = accumulate(rank**-exponent for rank in range(1, len(sites) + 1))
    return Random(seed).choices(sites, cum_weights=list(shares), k=count)


def _make_distinct(count: int) -> pa.Table:
    chunks = -(-count // _DISTINCT_A_CHUNK)
    with ProcessPoolExecutor(2, mp_context=get_context("spawn")) as pool:
        return pa.concat_tables(pool.map(_make_chunk, range(chunks))).slice(0, count)


def _make_chunk(number: int) -> pa.Table:
    count = _DISTINCT_A_CHUNK + number  # seeds what is made
    sites = draw_sites(count, seed=number)
    samples = make_traffic(KEY_SET, count, failing_share=FAILING_SHARE, sites=sites)[:_DISTINCT_A_CHUNK]
    return pa.table(
        {
            "domain": [each.domain for each in samples],
            "token": [each.token for each in samples],
            "status": [each.status.value for each in samples],
            "uid": [each.raw_uid for each in samples],
            "established": pa.array([each.established_ms for each in samples], pa.int64()),
        }
    )


def _rows(distinct: pa.Table, start: int, count: int) -> pa.Table:
    taken = pa.array([number % len(distinct) for number in range(start, start + count)])
    numbers = range(start, start + count)
    table = distinct.take(taken).combine_chunks()
    own = {
        "request_id": pa.array([f"{number * 2654435761 % 2**64:016x}-{number:012}" for number in numbers]),
        "timestamp": pa.array([NOW_MS - number for number in numbers], pa.timestamp("ms", "UTC")),
        "country": pa.array([_COUNTRIES[number * number % len(_COUNTRIES)] for number in numbers]),
        "price": pa.array([number % 9_973 / 1_000 for number in numbers]),
    }
    return pa.table({**own, **{name: table.column(name) for name in table.schema.names}})


def check_output(log: Log, directory: Path) -> None:
    """Raise RuntimeError unless the files in a directory have the log's verdicts, in its order, and nothing else."""
    for name, expected in zip(sorted(_names(log.directory)), log.verdicts, strict=True):
        found = pa.concat_tables(parquet.read_table(file) for file in _parts_of(directory, name))
        if not found.select(VERDICT_SCHEMA.names).combine_chunks().equals(expected.combine_chunks()):
            raise RuntimeError(f"{name}: wrong verdicts")
    total = sum(parquet.read_metadata(file).num_rows for file in directory.rglob("*.parquet"))
    if total != log.rows:
        raise RuntimeError(f"{total} rows, where the log has {log.rows}")


def _names(directory: Path) -> list[str]:
    return [file.stem for file in directory.glob("*.parquet")]


def _parts_of(directory: Path, name: str) -> Iterator[Path]:
    return iter(sorted(directory.glob(f"{name}*.parquet")))


def read_tokens(log: Log) -> dict[str, list[str]]:
    """Return the tokens and domains of the first file, for those who judge one at a time."""
    columns: dict[str, list[str]] = parquet.read_table(
        log.directory / "part-0000.parquet", columns=["token", "domain"]
    ).to_pydict()
    return columns
