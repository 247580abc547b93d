"""`python -m tests.fuzz TARGET [libFuzzer options]`: fuzz one target with atheris, from its corpus on.

An input that breaks it is written into the corpus, so that it becomes a regression test as soon as it is committed.
"""

import sys
import tempfile
from importlib import import_module
from pathlib import Path
from typing import Any

# In no lock but that of `make fuzz`.
atheris: Any = import_module("atheris")

with atheris.instrument_imports(include=["bidstream_svc", "aiohttp"]):
    from tests.fuzz.targets import TARGETS

CORPUS = Path(__file__).with_name("corpus")


def main() -> None:
    if len(sys.argv) < 2 or sys.argv[1] not in TARGETS:
        sys.exit(f"usage: python -m tests.fuzz {{{','.join(TARGETS)}}} [libFuzzer options]")
    program, target, *options = sys.argv
    seeds = CORPUS / target
    # libFuzzer writes what reaches new code into the first directory: not into the one that is committed.
    found = tempfile.mkdtemp(prefix=f"fuzz-{target}-")
    atheris.Setup([program, f"-artifact_prefix={seeds}/", *options, found, str(seeds)], TARGETS[target])
    atheris.Fuzz()


main()
