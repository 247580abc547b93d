"""`python -m benchmarks.bulk_spark LOGS KEYS NOW_MS ROUNDS`: Spark that decrypts, and Spark that only reads and writes.

Prints JSON: seconds of each round. They do not count the start of the session, nor a first round.
"""

import json
import shutil
import sys
import tempfile
import time
import warnings
from functools import partial
from pathlib import Path

from pyspark.sql import DataFrame, SparkSession

from benchmarks.rounds import interleave
from bidstream_svc.bulk import BatchOptions
from bidstream_svc.bulk.spark import decrypt

_SETTINGS = {
    "spark.ui.enabled": "false",
    "spark.driver.memory": "3g",
    "spark.sql.execution.arrow.maxRecordsPerBatch": "65536",  # as in deploy/examples/spark
    "spark.sql.session.timeZone": "UTC",
}


def main() -> None:
    logs, keys, now_ms, rounds = Path(sys.argv[1]), Path(sys.argv[2]), int(sys.argv[3]), int(sys.argv[4])
    warnings.simplefilter("ignore")  # that there is no opt-out store
    builder = SparkSession.builder.master("local[2]")
    for name, value in _SETTINGS.items():
        builder = builder.config(name, value)
    spark = builder.getOrCreate()
    spark.sparkContext.setLogLevel("ERROR")
    options = BatchOptions(at_ms=now_ms)
    with tempfile.TemporaryDirectory(dir=logs.parent) as name:
        read = partial(spark.read.parquet, str(logs))
        variants = {
            "spark": lambda: _write(read(), Path(name) / "copied"),
            "spark, decrypting": lambda: _write(decrypt(read(), keys, options), Path(name) / "decrypted"),
        }
        interleave(variants, 1)
        seconds = interleave(variants, rounds)
        found = spark.read.parquet(str(Path(name) / "decrypted")).groupBy("status").count().collect()
    print(json.dumps({"seconds": seconds, "statuses": {row["status"]: row["count"] for row in found}}))
    spark.stop()


def _write(df: DataFrame, output: Path) -> float:
    shutil.rmtree(output, ignore_errors=True)
    start = time.perf_counter()
    df.write.parquet(str(output))
    return time.perf_counter() - start


if __name__ == "__main__":
    main()
