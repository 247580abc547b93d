"""Times, numbers and foreign text in words that a person reads on a terminal."""

from datetime import UTC, datetime, timedelta

from bidstream_svc.core.units import MS_PER_S

_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_MINUTE_MS = 60 * MS_PER_S
_HOUR_MS = 60 * _MINUTE_MS
DAY_MS = 24 * _HOUR_MS
_YEAR_MS = 365 * DAY_MS + DAY_MS // 4
_MAX_SHOWN_YEARS = 10_000
_MAX_SHOWN = 100  # characters of foreign text
# Times of 2001 to 2286 in seconds, and in microseconds.
_SECONDS = range(10**9, 10**10)
_MICROSECONDS = range(10**15, 10**16)


def moment(time_ms: int) -> str:
    """Return a time as `2026-11-26T20:00:00Z`; a time that no calendar has, in words."""
    try:
        return (_EPOCH + timedelta(milliseconds=time_ms)).isoformat(timespec="seconds").replace("+00:00", "Z")
    except OverflowError:
        return "after the year 9999" if time_ms > 0 else "before the year 1"


def span(duration_ms: int) -> str:
    """Return a duration of either sign in its two largest units, rounded down: `2 h 5 min`, `1 day`, `56 years`."""
    duration_ms = abs(duration_ms)
    if duration_ms == 0:
        return "0 s"
    if duration_ms < MS_PER_S:
        return f"{duration_ms} ms"
    if duration_ms < _MINUTE_MS:
        return f"{duration_ms // MS_PER_S} s"
    if duration_ms < _HOUR_MS:
        return _two(duration_ms // _MINUTE_MS, "min", duration_ms % _MINUTE_MS // MS_PER_S, "s")
    if duration_ms < DAY_MS:
        return _two(duration_ms // _HOUR_MS, "h", duration_ms % _HOUR_MS // _MINUTE_MS, "min")
    if duration_ms < 10 * DAY_MS:
        days = duration_ms // DAY_MS
        return _two(days, "day" if days == 1 else "days", duration_ms % DAY_MS // _HOUR_MS, "h")
    if duration_ms < 2 * _YEAR_MS:
        return f"{duration_ms // DAY_MS} days"
    years = duration_ms // _YEAR_MS
    return f"{years} years" if years <= _MAX_SHOWN_YEARS else "more than 10,000 years"


def relative(time_ms: int, now_ms: int) -> str:
    """Return a time against now: `in 3 h (2026-...Z)`, `2 min 5 s ago (2026-...Z)`."""
    return f"{distance(time_ms, now_ms)} ({moment(time_ms)})"


def distance(time_ms: int, now_ms: int) -> str:
    """Return how far a time is from now: `in 3 h`, `2 min 5 s ago`."""
    if time_ms == now_ms:
        return "just now"
    words = span(time_ms - now_ms)
    return f"in {words}" if time_ms > now_ms else f"{words} ago"


def unit_slip(time_ms: int) -> str:
    """Return what to say of a number that looks like a time in another unit than milliseconds; else an empty string."""
    if time_ms in _SECONDS:
        return f"the number looks like seconds where milliseconds belong: {moment(time_ms * MS_PER_S)}"
    if time_ms in _MICROSECONDS:
        return f"the number looks like microseconds where milliseconds belong: {moment(time_ms // MS_PER_S)}"
    return ""


def plural(count: int, one: str, several: str = "") -> str:
    """Return `1 key`, `1,203 keys`."""
    return f"{count:,} {one if count == 1 else several or one + 's'}"


def printable(text: str, max_length: int = _MAX_SHOWN) -> str:
    r"""Escape what a terminal would obey or not show (`\x1b`, `\u202e`), and shorten what is long."""
    shown = "".join(each if each.isprintable() else _escaped(each) for each in text[:max_length])
    return shown if len(text) <= max_length else f"{shown}... ({len(text):,} characters)"


def quoted(text: str) -> str:
    """Return foreign text in quotes, with its IDNA form if it has letters that may look like others."""
    shown = f'"{printable(text)}"'
    if text.isascii() or not text.isprintable() or len(text) > _MAX_SHOWN:
        return shown
    return f"{shown} ({'.'.join(map(_a_label, text.split('.')))})"


def _two(count: int, unit: str, smaller_count: int, smaller_unit: str) -> str:
    return f"{count} {unit}" + (f" {smaller_count} {smaller_unit}" if smaller_count else "")


def _escaped(character: str) -> str:
    return character.encode("unicode_escape").decode()


def _a_label(label: str) -> str:
    return label if label.isascii() else f"xn--{label.encode('punycode').decode()}"
