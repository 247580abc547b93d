"""The filter in front of an opt-out store: `python -m benchmarks.optouts_filter [millions of ids ...]`.

Ids are random bytes, and the filter is as full as one gets before it grows. A look-up spends its time in memory, so no
line of the filter is looked at twice in a row: from Python, every id is another one; the kernel is given the same
tokens in every pass, but the key of the filter changes between passes, and with it the place of every id. Every answer
is checked. The unit is processor time of this process.
"""

import os
import sys
import time
from collections.abc import Sequence
from itertools import repeat
from pathlib import Path
from statistics import median
from tempfile import TemporaryDirectory
from typing import NamedTuple

from benchmarks.material import KeySet, Sample, make_samples, to_json
from bidstream_svc import parse_key_response
from bidstream_svc.core.kernel import Kernel, OptOutFilter, build_kernel
from bidstream_svc.optouts.control_words import ControlWords
from bidstream_svc.optouts.filter_file import FilterFile, new_identity

CHUNK_IDS = 100_000
LOOKED_UP = 1_000_000
TOKENS = 20_000
PASSES = 21
ID_BYTES = 33
SCOPE = b"\0"


class Measured(NamedTuple):
    """What is measured for a number of ids; the names of the columns are in COLUMNS."""

    ids_millions: float
    file_mb: float
    fill_ns: float
    false_positives_percent: float
    kernel_ns: float
    absent_ns: float
    present_ns: float


COLUMNS = (
    "ids, millions",
    "file, MB",
    "to add an id, ns",
    "false positives, %",
    "look-up in the kernel, not in it, ns",
    "from Python, not in it, ns",
    "from Python, in it, ns",
)


def measure(count: int, directory: Path) -> Measured:
    """Fill a filter of a size, and look ids up."""
    control = ControlWords(directory, create=True)
    control.generation = 1
    file = FilterFile.create(directory, new_identity(1, count, bytes(16)), 1)
    native = OptOutFilter(control.words, withholds=False)
    native.map(file.words, file.identity.key, 1)
    fill_ns, present = fill(native, count)
    absent_ns, wrong = time_look_ups(native, random_ids(LOOKED_UP, b""))
    present_ns, found = time_look_ups(native, present)
    check(found == len(present), "an id that was added is absent")
    kernel_ns = time_kernel(native, file)
    native.unmap()
    file.close()
    percent = 100 * wrong / LOOKED_UP
    return Measured(count / 1e6, file.identity.file_bytes / 1e6, fill_ns, percent, kernel_ns, absent_ns, present_ns)


def fill(native: OptOutFilter, count: int) -> tuple[float, list[bytes]]:
    """Add random ids; returns (ns for each, some of them)."""
    kept: list[bytes] = []
    taken_ns = 0
    for start in range(0, count, CHUNK_IDS):
        ids = random_ids(min(CHUNK_IDS, count - start), SCOPE)
        began = time.process_time_ns()
        native.add(ids)
        taken_ns += time.process_time_ns() - began
        kept += (each[1:] for each in ids[: -(-LOOKED_UP * len(ids) // count)])
    return taken_ns / count, kept


def random_ids(count: int, prefix: bytes) -> list[bytes]:
    """Make random ids behind a prefix."""
    content = os.urandom(count * ID_BYTES)
    return [prefix + content[start : start + ID_BYTES] for start in range(0, len(content), ID_BYTES)]


def time_look_ups(native: OptOutFilter, raw_ids: Sequence[bytes]) -> tuple[float, int]:
    """Look ids up from Python; returns (ns for each, without the loop; how many may be in the filter)."""
    began = time.process_time_ns()
    found = sum(map(native.may_contain, repeat(0), raw_ids))
    looked_up_ns = time.process_time_ns() - began
    began = time.process_time_ns()
    sum(map(bool, raw_ids))
    return (looked_up_ns - (time.process_time_ns() - began)) / len(raw_ids), found


def time_kernel(native: OptOutFilter, file: FilterFile) -> float:
    """Return what the filter adds to the answer of a kernel for an id that is not in it, in ns."""
    key_set = KeySet(4)
    snapshot = parse_key_response(key_set.response())
    samples = make_samples(key_set, TOKENS, client_side_every=None)
    plain, filtered = build_kernel(snapshot), build_kernel(snapshot)
    filtered.set_optouts(native)
    added_ns = []
    for _ in range(PASSES):
        native.map(file.words, os.urandom(16), 1)
        without_ns, unanswered = time_pass(plain, samples)
        check(unanswered == 0, "a good token is not answered")
        with_ns, unanswered = time_pass(filtered, samples)
        check(unanswered < TOKENS / 500, "too many ids are not absent")
        added_ns.append((with_ns - without_ns) / TOKENS)
    return median(added_ns)


def time_pass(kernel: Kernel, samples: Sequence[Sample]) -> tuple[int, int]:
    """Let a kernel answer requests; returns (ns for all, how many it leaves to Python). Others are checked."""
    bodies = [to_json({"token": each.token, "domain": each.domain}) for each in samples]
    now_ms = time.time_ns() // 1_000_000
    began = time.process_time_ns()
    answers = [kernel.answer(body, now_ms) for body in bodies]
    taken_ns = time.process_time_ns() - began
    for answer, sample in zip(answers, samples, strict=True):
        check(answer in {None, sample.answer()}, "an answer differs")
    return taken_ns, answers.count(None)


def check(is_right: bool, problem: str) -> None:  # noqa: FBT001 - as assert, but always
    """Raise AssertionError unless it is right."""
    if not is_right:
        raise AssertionError(problem)


def main() -> None:
    """Measure, and print a table."""
    print("|", " | ".join(COLUMNS), "|\n|" + "---|" * len(COLUMNS))
    for millions in map(float, sys.argv[1:] or ("1", "10", "100")):
        with TemporaryDirectory() as directory:
            measured = measure(int(millions * 1e6), Path(directory))
        print("|", " | ".join(f"{value:.3g}" for value in measured), "|", flush=True)


if __name__ == "__main__":
    main()
