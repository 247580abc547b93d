"""`python -m benchmarks [SECTION|all] [--quick] [--package DIR | --against DIR]`; `make bench` measures everything."""

import argparse
import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

from benchmarks.admin import measure_admin
from benchmarks.against import measure_against
from benchmarks.client_heads import measure_heads
from benchmarks.enforcement import measure_enforcement
from benchmarks.failing import measure_failing
from benchmarks.figures import KEPT
from benchmarks.kernel import measure_kernel
from benchmarks.machine import describe, raise_file_limit
from benchmarks.memory import measure_memory
from benchmarks.openrtb import measure_openrtb
from benchmarks.plot import plot, plot_openrtb
from benchmarks.report import render
from benchmarks.serving import measure_serving
from benchmarks.shots import FULL, QUICK
from benchmarks.stall import measure_stall
from benchmarks.sweeps import measure_sweeps
from bidstream_svc.core.kernel import IS_NATIVE

_CACHE = Path(__file__).parent / ".cache" / "results"  # of incomplete and quick runs


def main() -> None:
    arguments = _parse_arguments()
    if not IS_NATIVE:
        sys.exit("the native kernel is not built: `make kernel` says what is missing")
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
    sections = ["http", "heads", "kernel", "sweeps", "stall", "memory", "admin", "openrtb", "enforcement"]
    sections += ["failures", "all"]
    parser.add_argument("what", nargs="?", default="all", choices=sections)
    parser.add_argument("--against", type=Path, metavar="DIR", help="compare with another build of the package, only")
    parser.add_argument("--package", type=Path, metavar="DIR", help="http: measure an installed wheel as well")
    parser.add_argument("--quick", action="store_true", help="a check of the benchmarks, not a measurement")
    parser.add_argument("--keys", type=int, default=5_000, help="stall: keys in the response")
    parser.add_argument("--domains", type=int, nargs="+", default=[60_000], help="stall: site domains in it")
    return parser.parse_args()


def _sections(arguments: argparse.Namespace) -> dict[str, Callable[[], Any]]:
    effort = QUICK if arguments.quick else FULL
    if arguments.against is not None:
        return {"against": lambda: measure_against(arguments.against, effort)}
    repeats = 2 if arguments.quick else 10
    sections = {
        "http": lambda: measure_serving(effort, arguments.package),
        "heads": lambda: measure_heads(effort),
        "kernel": lambda: measure_kernel(effort.rounds),
        "sweeps": lambda: measure_sweeps(effort),
        "stall": lambda: [measure_stall(arguments.keys, domains, repeats) for domains in arguments.domains],
        "memory": lambda: measure_memory(1.0 if arguments.quick else 4.0),
        "admin": lambda: measure_admin(effort),
        "openrtb": lambda: measure_openrtb(effort),
        "enforcement": lambda: measure_enforcement(effort),
        "failures": lambda: measure_failing(effort),
    }
    return sections if arguments.what == "all" else {arguments.what: sections[arguments.what]}


def _keep(results: dict[str, Any], directory: Path) -> None:
    directory.mkdir(parents=True, exist_ok=True)
    (directory / "latest.json").write_text(json.dumps(results, indent=1) + "\n", encoding="utf-8")
    if "http" in results:
        plot(results["http"], results["machine"], directory / "latest.png")
    if "openrtb" in results:
        plot_openrtb(results["openrtb"], directory / "openrtb.png")
    print("\n" + render(results) + f"\nkept in {directory}")
    if directory == KEPT:
        print("`make figures` puts them into the documents")


if __name__ == "__main__":
    main()
