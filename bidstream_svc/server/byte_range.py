"""The header `Range` of a request, as far as it is needed to go on with a download (RFC 9110, section 14)."""

import re
from collections.abc import Sequence
from typing import NamedTuple

_RANGE = re.compile(r"[ \t]*([0-9]*)-([0-9]*)[ \t]*", re.ASCII)
_MAX_DIGITS = 18


class ByteRange(NamedTuple):
    """The bytes from `start` up to, but not with, `end`; at least one."""

    start: int
    end: int


class UnsatisfiableRangeError(Exception):
    """The range cannot be sent: it is malformed, several, or none of it is in the file."""


def parse_range(values: Sequence[str], size: int) -> ByteRange | None:
    """Parse the values of the header.

    Args:
        values: one for each time that it was sent.
        size: bytes of what it is a range of.

    Returns:
        The range, cut to the size; None if there is no such header, or it has another unit than bytes.

    Raises:
        UnsatisfiableRangeError: answer 416.
    """
    if not values:
        return None
    unit, _, ranges = values[0].partition("=")
    if unit.strip().lower() != "bytes":
        return None
    match = _RANGE.fullmatch(ranges)
    if match is None or len(values) > 1:
        raise UnsatisfiableRangeError
    first, last = match.groups()
    if max(len(first), len(last)) > _MAX_DIGITS or not (first or last):
        raise UnsatisfiableRangeError
    if first:
        start, end = int(first), min(size, int(last) + 1 if last else size)
    else:
        start, end = max(0, size - int(last)), size
    if start >= end:
        raise UnsatisfiableRangeError
    return ByteRange(start, end)
