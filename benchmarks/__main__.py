"""`python -m benchmarks [SECTION|all] [--against DIR] [--quick]`; `make bench` measures all sections."""

import argparse
import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

from benchmarks.admin import measure_admin
from benchmarks.against import measure_against
from benchmarks.core import measure_core
from benchmarks.figures import KEPT
from benchmarks.machine import describe, raise_file_limit
from benchmarks.memory import measure_memory
from benchmarks.plot import plot
from benchmarks.report import render
from benchmarks.serving import measure_serving
from benchmarks.shots import FULL, QUICK
from benchmarks.stall import measure_stall
from benchmarks.sweeps import measure_sweeps

_CACHE = Path(__file__).parent / ".cache" / "results"  # of incomplete and quick runs


def main() -> None:
    arguments = _parse_arguments()
    raise_file_limit()
    results: dict[str, Any] = {"machine": describe()}
    failed = False
    for section, measure in _sections(arguments).items():
        print(f"measuring: {section} ...", flush=True)
        try:
            results[section] = measure()
        except (RuntimeError, TimeoutError, subprocess.SubprocessError) as error:
            # A wrong answer, or a server that does not start or hangs. The other sections are still measured.
            print(f"{section} FAILED: {error}", file=sys.stderr)
            failed = True
    is_complete = arguments.against is None and arguments.what == "all" and not arguments.quick and not failed
    _keep(results, KEPT if is_complete else _CACHE)
    sys.exit(failed)


def _parse_arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m benchmarks", description="Measure; see benchmarks/README.md.")
    sections = ["core", "stall", "http", "sweep", "memory", "admin", "all"]
    parser.add_argument("what", nargs="?", default="all", choices=sections)
    parser.add_argument("--against", type=Path, metavar="DIR", help="compare with another build of the package, only")
    parser.add_argument(
        "--quick", action="store_true", help="less than a minute; a check of the benchmarks, not a measurement"
    )
    parser.add_argument("--keys", type=int, default=5_000, help="stall: keys in the response")
    parser.add_argument("--domains", type=int, nargs="+", default=[20_000, 60_000], help="stall: site domains in it")
    return parser.parse_args()


def _sections(arguments: argparse.Namespace) -> dict[str, Callable[[], Any]]:
    effort = QUICK if arguments.quick else FULL
    if arguments.against is not None:
        return {"against": lambda: measure_against(arguments.against, effort)}
    repeats = 2 if arguments.quick else 10
    sections = {
        "core": lambda: measure_core(effort.rounds, 512),
        "stall": lambda: [measure_stall(arguments.keys, domains, repeats) for domains in arguments.domains],
        "http": lambda: measure_serving(effort),
        "sweeps": lambda: measure_sweeps(effort),
        "memory": lambda: measure_memory(1.0 if arguments.quick else 4.0),
        "admin": lambda: measure_admin(effort),
    }
    what = "sweeps" if arguments.what == "sweep" else arguments.what
    return sections if what == "all" else {what: sections[what]}


def _keep(results: dict[str, Any], directory: Path) -> None:
    directory.mkdir(parents=True, exist_ok=True)
    (directory / "latest.json").write_text(json.dumps(results, indent=1) + "\n", encoding="utf-8")
    if "http" in results:
        plot(results["http"], results["machine"], directory / "latest.png")
    print("\n" + render(results) + f"\nkept in {directory}")
    if directory == KEPT:
        print("`make figures` puts them into the documents")


if __name__ == "__main__":
    main()
