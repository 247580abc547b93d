"""Growing, random waits between failed attempts."""

import asyncio
import random
from collections.abc import Callable

_random = random.SystemRandom()


class BackOff:
    """Waits between attempts: a random time up to a limit that doubles with every failure.

    Args:
        first_s, longest_s: the first limit and the last.
        least_part: the part of the limit that is waited in any case.
        uniform: draws a random number between two.
    """

    def __init__(
        self,
        first_s: float = 0.2,
        longest_s: float = 5.0,
        *,
        least_part: float = 0.5,
        uniform: Callable[[float, float], float] = _random.uniform,
    ) -> None:
        self._uniform = uniform
        self._first_s = first_s
        self._longest_s = longest_s
        self._least_part = least_part
        self._limit_s = first_s

    async def wait(self) -> None:
        """Wait after a failure."""
        await asyncio.sleep(self.draw_s())

    def draw_s(self) -> float:
        """Draw the seconds to wait after a failure."""
        limit_s, self._limit_s = self._limit_s, min(2 * self._limit_s, self._longest_s)
        return self._uniform(self._least_part * limit_s, limit_s)

    def reset(self) -> None:
        """Begin anew after a success."""
        self._limit_s = self._first_s
