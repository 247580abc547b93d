"""`python -m tests.faults.optout_receiver_kills --times 100`: kill -9 of receivers before they have appended.

Two receivers, a sidecar and a Redis server: all real processes. Webhooks arrive at a rate throughout. Before each kill
of a receiver, the server is stopped for a moment, or killed and started empty: so the receiver has acknowledged
opt-outs that are only in its store. It is started again at once, while the next one may be killed.

At the end all hosts must hold every id whose webhook was answered with 200, and nothing else that was not sent. Prints
how long after the last kill they do. Exit status 1 if not.
"""

import argparse
import random
import sys
import tempfile
import time
from pathlib import Path

from tests.faults.optout_fleet import Fleet, Webhooks, compare_stores, running_fleet, wait_level
from tests.support.processes import exit_on_sigterm

_MIN_PAUSE_S, _MAX_PAUSE_S = 0.05, 1.5


def kill_repeatedly(fleet: Fleet, times: int, moments: random.Random) -> None:
    """Kill receivers while what they have acknowledged cannot be appended."""
    for number in range(times):
        time.sleep(moments.uniform(_MIN_PAUSE_S, _MAX_PAUSE_S))
        place, is_emptied = number % 2, moments.random() < 0.2
        if is_emptied:
            fleet.redis.kill()
        else:
            fleet.redis.pause()
        time.sleep(moments.uniform(_MIN_PAUSE_S, _MAX_PAUSE_S))
        fleet.restart_receiver(place)
        if is_emptied:
            fleet.redis.start()
        else:
            fleet.redis.resume()


def run(directory: Path, times: int, rate: float, seed: int) -> bool:
    """Kill, and compare the stores. Returns whether all is well."""
    with running_fleet(directory, sidecars=1) as fleet:
        with Webhooks(fleet.ports, rate, seed=seed) as webhooks:
            kill_repeatedly(fleet, times, random.Random(seed))  # noqa: S311 - moments of a test
        level_s = wait_level(fleet, webhooks)
    sys.stdout.write(f"{times} kills; level after {level_s:.1f} s\n")
    return compare_stores(fleet, webhooks)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--times", type=int, default=100)
    parser.add_argument("--rate", type=float, default=500, help="webhooks a second")
    parser.add_argument("--seed", type=int, default=1)
    options = parser.parse_args()
    exit_on_sigterm()
    with tempfile.TemporaryDirectory() as scratch:
        sys.exit(not run(Path(scratch), options.times, options.rate, options.seed))


if __name__ == "__main__":
    main()
