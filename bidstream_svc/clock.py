"""The wall clock, in the unit that the protocol counts in."""

import time


def wall_clock_ms() -> int:
    """Unix milliseconds."""
    return time.time_ns() // 1_000_000
