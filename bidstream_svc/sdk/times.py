"""Unix milliseconds and UTC datetimes, exactly."""

from datetime import UTC, datetime, timedelta

_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_MS = timedelta(milliseconds=1)
_FIRST = datetime.min.replace(tzinfo=UTC)
_LAST = datetime.max.replace(tzinfo=UTC)


def to_unix_ms(time: datetime) -> int:
    """Whole milliseconds since 1970; a naive `time` is local."""
    return (time.astimezone(UTC) - _EPOCH) // _MS


def from_unix_ms(time_ms: int) -> datetime:
    """The moment in UTC. What lies beyond the years 1 to 9999 becomes the first or last moment that there is."""
    try:
        return _EPOCH + time_ms * _MS
    except OverflowError:
        return _FIRST if time_ms < 0 else _LAST
