"""Kills `bulk decrypt` at random moments and starts it again: `python -m tests.bulk.kills [ROUNDS]`.

Each round kills the program up to five times, lets it end then, and compares the output with that of a run which was
not killed. After every kill, each file that is visible is whole.
"""

import gzip
import json
import random
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from pyarrow import csv

from tests.bulk.logs import outputs, table, write_keys, write_parquet
from tests.support.sidecar import DEADLINE_S, PROGRAM, environment
from tests.vectors.inputs import NOW_MS

_KILLS = 5


def prepare(directory: Path) -> None:
    """Write logs: some in one part, and one in several."""
    write_keys(directory / "keys.json")
    for name in ("day=1/a", "day=1/b", "day=2/a", "day=2/b", "day=2/c", "day=3/a"):
        write_parquet(directory / "logs" / f"{name}.parquet", 20_000, row_group_size=3000)
    write_parquet(directory / "logs" / "large.parquet", 700_000, row_group_size=100_000)
    csv.write_csv(table(20_000), directory / "logs" / "d.csv")
    with gzip.open(directory / "logs" / "e.ndjson.gz", "wt") as file:
        file.writelines(json.dumps(row) + "\n" for row in table(20_000).to_pylist())


def start(directory: Path, output: str) -> subprocess.Popen[bytes]:
    options = ["--keys", "keys.json", "--at", str(NOW_MS), "--output", output]
    return subprocess.Popen(
        [*PROGRAM, "bulk", "decrypt", "logs", *options], cwd=directory, env=environment({}), stderr=subprocess.DEVNULL
    )


def finish(directory: Path, output: str) -> dict[str, bytes]:
    """Run to the end, and return the output."""
    with start(directory, output) as process:
        assert process.wait(DEADLINE_S * 5) == 0
    assert list((directory / output / "_bulk" / "tmp").iterdir()) == []
    return outputs(directory / output)


def run_round(directory: Path, output: str, expected: dict[str, bytes], longest_s: float, chance: random.Random) -> int:
    """Kill and start again; returns how many kills came before the end.

    Raises:
        AssertionError: a file was visible that is not whole, or the output differs.
    """
    kills = 0
    for _ in range(_KILLS):
        with start(directory, output) as process:
            try:
                process.wait(chance.uniform(0, longest_s))
            except subprocess.TimeoutExpired:
                process.kill()
                kills += 1
        assert outputs(directory / output).items() <= expected.items()
    assert finish(directory, output) == expected
    return kills


def main(rounds: int) -> None:
    """Run so many rounds, and print what they did."""
    seed = random.randrange(2**32)  # noqa: S311 - to repeat a run
    chance = random.Random(seed)  # noqa: S311
    with tempfile.TemporaryDirectory() as name:
        directory = Path(name)
        prepare(directory)
        began_s = time.monotonic()
        expected = finish(directory, "expected")
        longest_s = time.monotonic() - began_s
        for number in range(rounds):
            kills = run_round(directory, f"out-{number}", expected, longest_s, chance)
            print(f"round {number + 1}: killed {kills} times, {len(expected)} files as expected", flush=True)  # noqa: T201


if __name__ == "__main__":
    main(int(sys.argv[1]) if len(sys.argv) > 1 else 50)
