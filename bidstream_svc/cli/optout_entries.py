"""Opt-outs to send, from a file of lines: a raw uid in base64, or a raw uid and a Unix time in seconds."""

import re
from collections.abc import Iterator
from pathlib import Path

from bidstream_svc.cli.inputs import open_input
from bidstream_svc.cli.line_reader import InputError, LineReader
from bidstream_svc.core.errors import OptOutRecordError
from bidstream_svc.optouts.optout_records import decode_raw_id
from bidstream_svc.optouts.sender import OptOutEntry

_SEPARATOR = re.compile(r"[,;\t]")
_TIME_S = re.compile(r"[0-9]{1,11}", re.ASCII)
_MIN_ID_LENGTH = 43  # of base64 without padding


def read_entries(path: Path, time_s: int) -> Iterator[OptOutEntry]:
    """The opt-outs in a file, numbered by line; empty lines and a header in the first line are left out.

    Args:
        path: the file, or `-` for stdin.
        time_s: the time of lines without one, Unix time.

    Raises:
        ConfigurationError, InputError: while iterating, if the file cannot be read or a line is malformed. The message
            names the line's number only.
    """
    with open_input(path) as file:
        for number, line in enumerate(LineReader(file), 1):
            cells = [cell.strip().strip('"') for cell in _SEPARATOR.split(line.strip())]
            if cells == [""] or (number == 1 and len(cells[0]) < _MIN_ID_LENGTH):
                continue
            yield _to_entry(number, cells, time_s)


def _to_entry(number: int, cells: list[str], time_s: int) -> OptOutEntry:
    text, *rest = cells
    try:
        raw_id = decode_raw_id(text)
    except OptOutRecordError as error:
        raise InputError(f"line {number}: {error}") from None
    if rest and not _TIME_S.fullmatch(rest[0]):
        raise InputError(f"line {number}: the second cell is not a Unix time in seconds")
    return OptOutEntry(number, raw_id, int(rest[0]) if rest else time_s)
