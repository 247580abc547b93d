"""The wall clock, and how its times are written."""

import time


def wall_clock_ms() -> int:
    """Return the current time in Unix milliseconds."""
    return time.time_ns() // 1_000_000


def iso_time(time_ms: int) -> str:
    """Format Unix milliseconds as ISO 8601 in UTC, to the second."""
    return time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime(time_ms // 1_000))
