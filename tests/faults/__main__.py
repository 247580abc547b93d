"""`python -m tests.faults`: every fault at length, and the table of what came of them.

Exit status 1 if a request was answered wrongly or not at all, or if something did not recover.
"""

import argparse
import sys
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path

from bidstream_svc.core.identity import IdentityScope
from bidstream_svc.logs import configure_logging
from tests.faults.clients import Tally
from tests.faults.clock import try_clock_jumps
from tests.faults.operator_faults import OPERATOR_FAULTS, scene, scene_behind_a_relay, try_operator_fault
from tests.faults.outcome import FULL, QUICK, Effort, Outcome, to_table
from tests.faults.processes import PROCESS_FAULTS
from tests.faults.programmes import programme_faults, programmes, try_programme_fault, try_programme_rotation
from tests.faults.restarts import RESTARTS
from tests.faults.slow_clients import SLOW_CLIENTS
from tests.support.processes import exit_on_sigterm
from tests.support.report import write_table


def _guarded(name: str, attempt: Callable[[], Outcome]) -> Outcome:
    """The outcome; one that did not hold what it promises says why, and does not keep the others from being tried."""
    try:
        outcome = attempt()
        outcome.check()
    except Exception as error:  # noqa: BLE001 - whatever it is, it belongs in the table
        outcome = Outcome(name, Tally(bad=1), None, f"**FAILED**: {type(error).__name__}: {error}")
    sys.stderr.write(f"{outcome.fault}: {outcome.remark}\n")
    return outcome


def _try_all(effort: Effort) -> Iterator[Outcome]:
    for make_scene in (scene, scene_behind_a_relay):
        with tempfile.TemporaryDirectory() as name, make_scene(Path(name)) as good:
            for fault in OPERATOR_FAULTS:
                yield _guarded(
                    fault.name,
                    lambda fault=fault, good=good: try_operator_fault(fault, good, effort),  # type: ignore[misc]
                )
    with tempfile.TemporaryDirectory() as name, programmes(Path(name)) as both:
        for row in programme_faults(both.operators):
            yield _guarded(row.name, lambda row=row: try_programme_fault(row, both, effort))  # type: ignore[misc]
        for scope in IdentityScope:
            yield _guarded(scope.name, lambda scope=scope: try_programme_rotation(scope, both, effort))  # type: ignore[misc]
    for attempt in (*PROCESS_FAULTS, try_clock_jumps, *RESTARTS, *SLOW_CLIENTS):
        with tempfile.TemporaryDirectory() as name:
            yield _guarded(
                attempt.__name__,
                lambda attempt=attempt, name=name: attempt(Path(name), effort),  # type: ignore[misc]
            )


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.faults", description=__doc__)
    parser.add_argument("--quick", action="store_true", help="no waiting, smaller numbers: what `make test` runs")
    parser.add_argument("--write", type=Path, metavar="FILE", help="also put the table into this document")
    options = parser.parse_args()
    exit_on_sigterm()
    configure_logging("warning", None)  # of the one service part that runs in this process
    outcomes = list(_try_all(QUICK if options.quick else FULL))
    table = to_table(outcomes)
    sys.stdout.write(table)
    if options.write is not None:
        write_table(options.write, "faults", table)
    bad = sum(outcome.tally.bad for outcome in outcomes)
    asked = sum(outcome.tally.sent for outcome in outcomes)
    sys.stdout.write(f"\n{len(outcomes)} faults, {asked:,} requests, {bad} wrong or failed\n")
    return 1 if bad else 0


if __name__ == "__main__":
    sys.exit(main())
