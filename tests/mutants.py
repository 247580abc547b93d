"""`python -m tests.mutants [--ending DIGITS] MODULE...`: which small changes of the code does no test notice?

mutmut makes the changes, one at a time, and runs for each the tests that call the changed function, in a fork of the
process that has found out which these are. It misses calls in child processes, such as a supervisor's, and a cache that
was filled before the fork hides changes. So what survives is tried again, in a process of its own.

A MODULE is a package or a file of bidstream_svc: `core`, `server/hosts.py`. With `--ending 37` only those changes are
tried whose number ends in 3 or 7, which is a fifth of them.
"""

import argparse
import os
import subprocess
import sys
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from fnmatch import fnmatch
from pathlib import Path

PACKAGE = "bidstream_svc"
MUTMUT = Path(sys.executable).with_name("mutmut")
COPY = Path("mutants")  # the code with all changes in it, and the tests; an environment variable chooses a change
SECOND_TRIAL = {"core": "tests/core", "keystore": "tests/keystore", "server": "tests/workers"}
TIMEOUT_S = 300
NOTICED = {"killed", "timeout", "segfault"}


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m tests.mutants")
    parser.add_argument("modules", metavar="MODULE", nargs="+")
    parser.add_argument("--ending", metavar="DIGITS", default="0123456789")
    options = parser.parse_args()
    patterns = [pattern(module, options.ending) for module in options.modules]
    done = subprocess.run([MUTMUT, "run", *patterns], check=False)
    if done.returncode:
        sys.exit(f"mutmut ended with status {done.returncode}: do the tests pass without changes?")
    found = {name: status for name, status in results() if any(fnmatch(name, each) for each in patterns)}
    found |= try_again([name for name, status in found.items() if status not in NOTICED])
    report(found)


def pattern(module: str, ending: str) -> str:
    """What the names of a module's mutants look like, with `*` and `[...]` as in file names."""
    name = module.removeprefix(f"{PACKAGE}/").removesuffix(".py").strip("/").replace("/", ".")
    return f"{PACKAGE}.{name}.*__mutmut_*[{ending}]"


def results() -> list[tuple[str, str]]:
    """Name and status of every mutant there is."""
    listed = subprocess.run([MUTMUT, "results", "--all", "true"], capture_output=True, text=True, check=True).stdout
    lines = [line.strip().rpartition(": ") for line in listed.splitlines()]
    return [(name, status) for name, _, status in lines]


def try_again(names: list[str]) -> dict[str, str]:
    with ThreadPoolExecutor(os.cpu_count()) as pool:
        survives = pool.map(survives_alone, names)
        return {name: "survived" if each else "killed" for name, each in zip(names, survives, strict=True)}


def survives_alone(name: str) -> bool:
    """Whether the tests of the changed code's package pass."""
    tests = SECOND_TRIAL[name.split(".")[1]]
    command = [sys.executable, "-m", "pytest", "--quiet", "--exitfirst", tests]
    environment = os.environ | {"MUTANT_UNDER_TEST": name}
    try:
        done = subprocess.run(
            command, cwd=COPY, env=environment, stdout=subprocess.DEVNULL, timeout=TIMEOUT_S, check=False
        )
    except subprocess.TimeoutExpired:
        return False
    return done.returncode == 0


def report(found: dict[str, str]) -> None:
    unnoticed = [name for name, status in found.items() if status not in NOTICED]
    for name in unnoticed:
        subprocess.run([MUTMUT, "show", name], check=True)
    tried, left = (Counter(name.rpartition(".")[0] for name in names) for names in (found, unnoticed))
    for module, count in tried.items():
        print(f"{module}: {count - left[module]} of {count} noticed")  # noqa: T201 - this is a program


if __name__ == "__main__":
    main()
