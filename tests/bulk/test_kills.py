"""A few rounds of what `python -m tests.bulk.kills` does 50 times."""

import random
from pathlib import Path

from tests.bulk.kills import finish, run_round
from tests.bulk.logs import write_keys, write_parquet


def test_killed_and_started_again(tmp_path: Path) -> None:
    write_keys(tmp_path / "keys.json")
    for number in range(20):
        write_parquet(tmp_path / "logs" / f"day={number % 3}" / f"{number}.parquet", 500)
    expected = finish(tmp_path, "expected")
    assert len(expected) == 20
    chance = random.Random(17)  # noqa: S311 - the moments differ anyway
    for number in range(2):
        run_round(tmp_path, f"out-{number}", expected, 1.5, chance)
