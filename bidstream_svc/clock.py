"""The wall clock."""

import time


def wall_clock_ms() -> int:
    """Return the current time in Unix milliseconds."""
    return time.time_ns() // 1_000_000
