"""Decrypts the tokens of Parquet logs: spark-submit decrypt_job.py INPUT OUTPUT. README.md says what it needs."""

import argparse

from pyspark.sql import SparkSession

from bidstream_svc.bulk import BatchOptions
from bidstream_svc.bulk.spark import decrypt


def main() -> None:
    """Read, decrypt and write."""
    parser = argparse.ArgumentParser()
    parser.add_argument("input")
    parser.add_argument("output")
    parser.add_argument(
        "--keys",
        action="append",
        help="file with a key response, or directory of such files (*.json), instead of a call to the operator",
    )
    parser.add_argument("--optouts", help="directory of an opt-out store, on every worker")
    parser.add_argument("--token-column", default="token")
    parser.add_argument("--domain-column")
    parser.add_argument("--time-column")
    arguments = parser.parse_args()
    options = BatchOptions(
        token_column=arguments.token_column, domain_column=arguments.domain_column, time_column=arguments.time_column
    )
    spark = SparkSession.builder.appName("decrypt").getOrCreate()
    logs = spark.read.parquet(arguments.input)
    decrypt(logs, arguments.keys, options, optouts=arguments.optouts).write.parquet(arguments.output)
    spark.stop()


if __name__ == "__main__":
    main()
