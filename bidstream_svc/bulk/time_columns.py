"""Columns of times, of whatever type, as Unix milliseconds. Those that cannot be read are null."""

from typing import Any

import pyarrow as pa
import pyarrow.compute as pc

from bidstream_svc.core.errors import ConfigurationError
from bidstream_svc.core.moments import LEAST_MS, MOST_MS, parse_moment
from bidstream_svc.core.units import MS_PER_S

_UNITS_PER_MS = {"us": 1_000, "ns": 1_000_000}
_MAX_S = (2**63 - 1) // MS_PER_S
# The years 2 to 9998: beyond, Arrow reads what `datetime` does not have, or refuses.
_MIN_US, _MAX_US = -62_104_060_800_000_000, 253_370_764_799_999_999


def to_unix_ms(column: Any, name: str) -> Any:
    """Convert a column to int64, Unix ms.

    Numbers are seconds or milliseconds, and texts are these or ISO 8601, as of `parse_moment`. Times without a zone are
    in UTC. What is finer than a millisecond is cut off.

    Args:
        column: plain storage, no dictionary.
        name: of the column.

    Raises:
        ConfigurationError: the column is of a type that is no time.
    """
    kind = column.type
    if pa.types.is_null(kind):
        return column.cast(pa.int64())
    if pa.types.is_date(kind):
        return column.cast(pa.timestamp("ms")).cast(pa.int64())
    if pa.types.is_timestamp(kind):
        return _from_timestamps(column.cast(pa.int64()), kind.unit)
    if pa.types.is_integer(kind):
        return _from_integers(column)
    if pa.types.is_floating(kind) or pa.types.is_decimal(kind):
        return _from_floats(column.cast(pa.float64()))
    if kind in {pa.string(), pa.large_string(), pa.string_view(), pa.binary(), pa.large_binary(), pa.binary_view()}:
        return _from_texts(column)
    raise ConfigurationError(f"the column {name!r} has no times, but {kind}")


def _only_where(condition: Any, values: Any) -> Any:
    return pc.if_else(condition, values, pa.scalar(None, values.type))


def _from_timestamps(counts: Any, unit: str) -> Any:
    if unit == "ms":
        return counts
    if unit == "s":
        is_small = pc.and_(pc.greater_equal(counts, -_MAX_S), pc.less_equal(counts, _MAX_S))
        return pc.multiply(_only_where(is_small, counts), MS_PER_S)
    per_ms = _UNITS_PER_MS[unit]
    quotients = pc.divide(counts, per_ms)  # rounded towards zero
    return pc.if_else(pc.greater(pc.multiply(quotients, per_ms), counts), pc.subtract(quotients, 1), quotients)


def _from_integers(numbers: Any) -> Any:
    if pa.types.is_uint64(numbers.type):
        numbers = _only_where(pc.less(numbers, pa.scalar(MOST_MS, pa.uint64())), numbers)
    numbers = numbers.cast(pa.int64())
    is_moment = pc.and_(pc.greater_equal(numbers, 0), pc.less(numbers, MOST_MS))
    numbers = _only_where(is_moment, numbers)
    return pc.if_else(pc.less(numbers, LEAST_MS), pc.multiply(numbers, MS_PER_S), numbers)


def _from_floats(numbers: Any) -> Any:
    is_moment = pc.and_(pc.greater_equal(numbers, 0.0), pc.less(numbers, float(MOST_MS)))  # not NaN
    numbers = _only_where(is_moment, numbers)
    numbers = pc.if_else(pc.less(numbers, float(LEAST_MS)), pc.multiply(numbers, float(MS_PER_S)), numbers)
    # A decimal fraction of a second is not exact in binary: 0.123 s is less than 123 ms.
    return pc.floor(pc.add(numbers, 2.0**-10)).cast(pa.int64())


def _from_texts(texts: Any) -> Any:
    """Let Arrow read ISO 8601 if it can read all; `parse_moment` gives the same, but takes twenty times as long."""
    for kind in (pa.timestamp("us", "UTC"), pa.timestamp("us")):
        try:
            counts = texts.cast(kind).cast(pa.int64())
        except (pa.ArrowInvalid, pa.ArrowNotImplementedError):
            continue
        extremes = pc.min_max(counts).as_py()
        if counts.null_count == len(counts) or (extremes["min"] >= _MIN_US and extremes["max"] <= _MAX_US):
            return _from_timestamps(counts, "us")
    encoded = texts.dictionary_encode()
    # Arrow's strings may be no UTF-8, if they come from Parquet.
    values = encoded.dictionary.cast(pa.large_binary()).to_pylist()
    moments = pa.array(map(_moment_or_none, values), pa.int64())
    return moments.take(encoded.indices)


def _moment_or_none(text: bytes | None) -> int | None:
    try:
        return None if text is None else parse_moment(text.decode())
    except (ValueError, OverflowError):
        return None
