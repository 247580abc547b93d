"""`python -m tests.people_files --rows N`: map a CSV of N people of which one row in a hundred is damaged.

The operator and `identity map` are processes as users run them. A tenth of the rows is mapped first, so that memory can
be compared. Every output row is checked: each sound row has its person's raw uid, under its number, unless stderr names
lines that include it; no other row has one. Prints figures; the exit status is 1 if a row is wrong.
"""

import argparse
import json
import os
import re
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from bidstream_svc.devoperator import OperatorState
from tests.people_files.damage import HEADER, SOUND, Piece, check, write_pieces
from tests.support.processes import resident_bytes
from tests.support.sidecar import environment

_COMMAND = [sys.executable, "-m", "bidstream_svc"]
_SPAN = re.compile(r"bidstream-svc: row (\d+) \(lines (\d+) to (\d+)\)")
_SEED = 1
_POLL_S = 0.1


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m tests.people_files", description=__doc__)
    parser.add_argument("--rows", type=int, default=1_000_000)
    parser.add_argument("--damaged", type=float, default=0.01, help="share of the rows")
    parser.add_argument("--plain", action="store_true", help="without quotes in sound rows, which limit damage")
    options = parser.parse_args()
    sound = ["plain"] if options.plain else SOUND
    with _operator() as settings, tempfile.TemporaryDirectory() as directory:
        for rows in (options.rows // 10, options.rows):
            pieces = list(write_pieces(rows, _SEED, options.damaged, sound))
            sys.stdout.write(f"{rows} rows: {_map(pieces, settings, Path(directory))}\n")
            sys.stdout.flush()


@contextmanager
def _operator() -> Iterator[dict[str, Any]]:
    """The settings that lead to an embedded operator in a process of its own."""
    with subprocess.Popen([*_COMMAND, "operator", "--seed", str(_SEED)], stdout=subprocess.PIPE) as process:
        assert process.stdout is not None
        told = json.loads(process.stdout.readline())
        try:
            yield {"operator_url": told["url"], "api_key": told["api_key"], "client_secret": told["client_secret"]}
        finally:
            process.terminate()


def _map(pieces: list[Piece], settings: dict[str, Any], directory: Path) -> str:
    """Map people and check the output. Returns figures."""
    people, output, errors = directory / "people.csv", directory / "out", directory / "err"
    people.write_text(HEADER + "".join(piece.text for piece in pieces), errors="surrogateescape", newline="")
    with output.open("wb") as out, errors.open("wb") as err:
        begin_s = time.monotonic()
        command = [*_COMMAND, "identity", "map", "--input", str(people)]
        process = subprocess.Popen(command, env=environment(settings), stdout=out, stderr=err)
        peak_bytes = 0
        while os.waitid(os.P_PID, process.pid, os.WEXITED | os.WNOHANG | os.WNOWAIT) is None:
            peak_bytes = max(peak_bytes, resident_bytes(process.pid))
            time.sleep(_POLL_S)
        taken_s = time.monotonic() - begin_s
        _, status, usage = os.wait4(process.pid, 0)
        process.returncode = os.waitstatus_to_exitcode(status)
    assert process.returncode == 0, errors.read_text()
    found, lost = check(pieces, _persons(output, pieces), _spans(errors))
    processor_us = (usage.ru_utime + usage.ru_stime) * 1e6 / len(pieces)
    return (
        f"{len(pieces) / taken_s:,.0f} rows/s, {processor_us:.0f} us of processor time a row, at most "
        f"{peak_bytes / 2**20:.0f} MiB; {found} found, {lost} within named lines"
    )


def _persons(output: Path, pieces: list[Piece]) -> dict[int, str | None]:
    state = OperatorState(seed=_SEED)
    person_of_uid = {state.raw_uid(piece.person): piece.person for piece in pieces if piece.person}
    with output.open() as lines:
        rows = map(json.loads, lines)
        return {row["row"]: row["raw_uid"] and person_of_uid.get(row["raw_uid"], "unknown") for row in rows}


def _spans(errors: Path) -> dict[int, range]:
    found = (map(int, match.groups()) for match in _SPAN.finditer(errors.read_text()))
    return {row: range(first, last + 1) for row, first, last in found}


main()
