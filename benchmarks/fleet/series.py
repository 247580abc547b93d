"""What is recorded of a run: amounts per second, and how many hosts are in a state."""

import math
from collections import defaultdict
from collections.abc import Callable


class PerSecond:
    """Amounts in bins of one second."""

    def __init__(self) -> None:
        self._bins: defaultdict[int, float] = defaultdict(float)

    def add(self, now_s: float, amount: float = 1.0) -> None:
        """Add an amount at a moment."""
        self._bins[int(now_s)] += amount

    def spread(self, begin_s: float, end_s: float, amount: float) -> None:
        """Add an amount, evenly over a time."""
        first, last = int(begin_s), int(end_s)
        if first == last:
            self._bins[first] += amount
            return
        rate = amount / (end_s - begin_s)
        self._bins[first] += rate * (first + 1 - begin_s)
        for second in range(first + 1, last):
            self._bins[second] += rate
        self._bins[last] += rate * (end_s - last)

    @property
    def total(self) -> float:
        """All amounts."""
        return sum(self._bins.values())

    @property
    def peak(self) -> float:
        """The largest amount of a second."""
        return max(self._bins.values(), default=0.0)

    def between(self, begin_s: float, end_s: float) -> float:
        """The amounts of the seconds from `begin_s`, up to but not including `end_s`."""
        return sum(amount for second, amount in self._bins.items() if begin_s <= second < end_s)

    def values(self, duration_s: float) -> list[float]:
        """The amount of each second."""
        return [self._bins.get(second, 0.0) for second in range(math.ceil(duration_s))]


class Level:
    """A number that changes at moments."""

    def __init__(self, value: int = 0) -> None:
        self.value = value
        self.changes: list[tuple[float, int]] = [(0.0, value)]

    def change(self, now_s: float, by: int) -> None:
        """Add to the number at a moment."""
        self.value += by
        if self.changes[-1][0] == now_s:
            self.changes[-1] = (now_s, self.value)
        else:
            self.changes.append((now_s, self.value))

    def at(self, moments_s: list[float]) -> list[int]:
        """The number at each of these moments, which are in order."""
        values, place = [], 0
        for moment_s in moments_s:
            while place + 1 < len(self.changes) and self.changes[place + 1][0] <= moment_s:
                place += 1
            values.append(self.changes[place][1])
        return values

    def last_above_s(self, limit: int = 0) -> float | None:
        """When the number was last above a limit; None if it never was. Infinite if it still is."""
        if self.value > limit:
            return math.inf
        above = [place for place, (_, value) in enumerate(self.changes) if value > limit]
        return self.changes[above[-1] + 1][0] if above else None

    def weigh(self, antiderivative: Callable[[float], float], until_s: float) -> float:
        """Return the integral of the number times a weight over the time, by the antiderivative of the weight."""
        ends = [time_s for time_s, _ in self.changes[1:]] + [until_s]
        return sum(
            value * (antiderivative(end_s) - antiderivative(begin_s))
            for (begin_s, value), end_s in zip(self.changes, ends, strict=True)
            if value and end_s > begin_s
        )
