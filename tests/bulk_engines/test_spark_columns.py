"""Columns of times of every type of a real Spark: those that give times, and those that are one clear error."""

import json
import os
import sys
from pathlib import Path

import pytest

from tests.bulk.logs import write_keys
from tests.bulk_engines.programs import run

pytestmark = [pytest.mark.needs_tools("java", "pyspark"), pytest.mark.timeout(600)]

PROGRAM = """
import json, sys, warnings
from pyspark.errors import PySparkException
from pyspark.sql import SparkSession
from bidstream_svc import BidstreamError
from bidstream_svc.bulk import BatchOptions
from bidstream_svc.bulk.spark import decrypt
warnings.simplefilter("ignore")
spark = SparkSession.builder.master("local[1]").config("spark.ui.enabled", "false").getOrCreate()
spark.sparkContext.setLogLevel("OFF")
found = {}
for value in sys.argv[2:]:
    logs = spark.sql(f"select '' token, {value} as time from range(0, 1000, 1, 1)")
    try:
        rows = decrypt(logs, sys.argv[1], BatchOptions(time_column="time")).groupBy("status").count().collect()
        found[value] = sorted(row["status"] for row in rows)
    except (BidstreamError, PySparkException) as error:
        found[value] = next(line for line in str(error).splitlines() if "time" in line)
print(json.dumps(found))
"""

TIMES = [
    *("cast(7 as smallint)", "1800000000", "1800000000000L", "cast(1800000000.5 as decimal(18,3))", "1.8e9D"),
    *("timestamp'2027-01-15 08:00:00'", "timestamp_ntz'2027-01-15 08:00:00'", "date'2027-01-15'"),
    *("'2027-01-15T08:00:00Z'", "'1800000000'"),
]
NO_TIMES = ["true", "array(1)", "interval 1 day", "interval 1 year"]
UNREADABLE = ["'yesterday'", "null"]


def test_columns_of_times(tmp_path: Path) -> None:
    env = {**os.environ, "PYSPARK_PYTHON": sys.executable, "PYTHONPATH": str(Path(__file__).parents[2])}
    values = [*TIMES, *NO_TIMES, *UNREADABLE]
    keys = write_keys(tmp_path / "keys.json")
    printed = run(tmp_path / "run", sys.executable, "-c", PROGRAM, keys, *values, env=env).splitlines()
    found = json.loads(next(line for line in printed if line.startswith("{")))
    for value in TIMES:
        assert len(found[value]) == 1, (value, found[value])
        assert None not in found[value], value
    for value in NO_TIMES:
        assert "the column 'time' has no times, but" in found[value], value
    for value in UNREADABLE:
        assert "no row of a partition can be judged: there is no valid value in 'time'" in found[value], value
