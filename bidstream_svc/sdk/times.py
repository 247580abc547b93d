"""Exact conversion between Unix milliseconds and UTC datetimes."""

from datetime import UTC, datetime, timedelta

_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_MS = timedelta(milliseconds=1)
_FIRST = datetime.min.replace(tzinfo=UTC)
_LAST = datetime.max.replace(tzinfo=UTC)


def to_unix_ms(time: datetime) -> int:
    """Convert a datetime to Unix milliseconds, rounded down. A naive one is local time."""
    return (time.astimezone(UTC) - _EPOCH) // _MS


def from_unix_ms(time_ms: int) -> datetime:
    """Convert Unix milliseconds to a UTC datetime, clamped to the years 1 to 9999."""
    try:
        return _EPOCH + time_ms * _MS
    except OverflowError:
        return _FIRST if time_ms < 0 else _LAST
