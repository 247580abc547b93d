"""When keys are refreshed: intervals, waits after failures, and spreads of early refreshes.

Time and randomness are parameters, so that `benchmarks/fleet` simulates a fleet with these very functions.
"""

from collections.abc import Callable
from typing import TypeAlias

INTERVAL_JITTER = 0.1
MAX_BACK_OFF_S = 60.0
MIN_EARLY_REFRESH_INTERVAL_S = 60.0
MAX_SPREAD_S = 30.0
_INTERVALS_OF_SPREAD = 120  # where that is less: the spread of an interval of an hour is the longest one

# (low, high) -> a random number between them, as `random.uniform` draws it
Uniform: TypeAlias = Callable[[float, float], float]


def draw_interval_s(mean_s: float, uniform: Uniform) -> float:
    """Draw the wait after a refresh: ±10 % of the interval, so that hosts do not stay in step."""
    return mean_s * uniform(1 - INTERVAL_JITTER, 1 + INTERVAL_JITTER)


def draw_back_off_s(failures: int, uniform: Uniform, *, retry_after_s: float = 0.0, longest_s: float = 3600.0) -> float:
    """Draw the wait after a failure: full jitter, up to a limit of 1 s, which doubles with each failure to 60 s.

    Args:
        failures: how many there have been in a row, at least 1.
        uniform: draws a random number.
        retry_after_s: what the operator asked for. The random wait is added to it.
        longest_s: a limit for `retry_after_s`, because an error in it must not leave a host without keys for a day.
    """
    limit_s = min(MAX_BACK_OFF_S, 2.0 ** min(failures - 1, 10))
    return min(retry_after_s, longest_s) + uniform(0, limit_s)


def draw_spread_s(interval_s: float, uniform: Uniform) -> float:
    """Draw the wait before an early refresh: full jitter, so that a fleet does not call within a second."""
    return uniform(0, min(MAX_SPREAD_S, interval_s / _INTERVALS_OF_SPREAD))
