"""`python -m tests.attacks`: every attack on every variant of the sidecar, and the table of what came of them.

Exit status 1 if one of them succeeded: the sidecar died, answered wrongly, or did not become what it was before.
"""

import argparse
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

from benchmarks.machine import raise_file_limit
from bidstream_svc.logs import configure_logging
from tests.attacks.assault import AttackSucceededError, assault
from tests.attacks.cage import cage
from tests.attacks.catalogue import ATTACKS
from tests.attacks.good_clients import BRIEF, FULL, Effort
from tests.attacks.outcome import Outcome, to_table
from tests.attacks.victim import ALL, PAIRWISE, Variant
from tests.support.operator import operator_in_thread
from tests.support.processes import exit_on_sigterm
from tests.support.report import write_table


def _attack_all(names: list[str], variants: tuple[Variant, ...], at_most: int) -> Iterator[Outcome]:
    with operator_in_thread() as operator:
        for name in names:
            suitable = [variant for variant in variants if variant.is_tls or not ATTACKS[name].only_tls]
            for variant in suitable[:at_most]:
                effort: Effort = FULL if variant == suitable[0] else BRIEF
                with tempfile.TemporaryDirectory() as directory:
                    try:
                        outcome = assault(name, Path(directory), operator, variant, effort)
                    except AttackSucceededError as error:
                        outcome = Outcome(name, variant, problem=str(error))
                sys.stderr.write(f"{outcome}\n")
                yield outcome
                if outcome.problem:
                    break  # the other variants would not change the verdict, and waiting in vain takes long


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.attacks", description=__doc__)
    parser.add_argument("names", nargs="*", metavar="NAME", help=f"only these of {', '.join(ATTACKS)}")
    parser.add_argument("--all-variants", action="store_true", help="all eight, not only every pair of values")
    parser.add_argument("--first-variant", action="store_true", help="only the first one: 8 minutes, not 30")
    parser.add_argument("--write", type=Path, metavar="FILE", help="also put the table into this document")
    options = parser.parse_args()
    exit_on_sigterm()
    configure_logging("warning", None)  # of the operator, which runs in this process
    raise_file_limit()
    variants, at_most = ALL if options.all_variants else PAIRWISE, 1 if options.first_variant else len(ALL)
    outcomes = list(_attack_all(options.names or list(ATTACKS), variants, at_most))
    with cage() as caged:
        table = f"In {caged.description}.\n\n{to_table(outcomes)}"
    sys.stdout.write(table)
    if options.write is not None:
        write_table(options.write, "attacks", table)
    succeeded = [str(outcome) for outcome in outcomes if outcome.problem]
    sys.stdout.write("\n".join(["", *succeeded, f"{len(outcomes)} attacks, {len(succeeded)} succeeded", ""]))
    return 1 if succeeded else 0


if __name__ == "__main__":
    sys.exit(main())
