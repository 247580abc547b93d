"""The bytes that the connections of a process hold in memory together."""

from heapq import heapify, heappop, heappush

# Entries of the heap that are outdated are removed once they are this many more than the valid ones.
_MAX_OUTDATED = 64


class ByteBudget:
    """Tells which connections have to be refused because all together hold too much.

    Args:
        max_bytes: the maximum.

    Attributes:
        held_bytes: what all connections hold.
        peak_bytes: the most that they have held; the owner resets it.
    """

    def __init__(self, max_bytes: int) -> None:
        self.held_bytes = self.peak_bytes = 0
        self._max_bytes = max_bytes
        self._held: dict[int, int] = {}  # by number, of the connections that hold any
        self._newest: list[int] = []  # a heap of negative numbers; some are outdated

    def record(self, number: int, held_bytes: int) -> list[int]:
        """Record what a connection holds.

        Args:
            number: the connection's place in the order in which all were accepted.
            held_bytes: what it holds now; 0 for a closed one.

        Returns:
            the numbers of the connections to refuse, the newest first. They count as holding nothing from now on.
        """
        if held_bytes:
            if number not in self._held:
                heappush(self._newest, -number)
            self.held_bytes += held_bytes - self._held.get(number, 0)
            self._held[number] = held_bytes
            self.peak_bytes = max(self.peak_bytes, self.held_bytes)
        else:
            self.held_bytes -= self._held.pop(number, 0)
        refused = []
        while self.held_bytes > self._max_bytes:
            newest = -heappop(self._newest)
            if newest in self._held:
                self.held_bytes -= self._held.pop(newest)
                refused.append(newest)
        if len(self._newest) > 2 * len(self._held) + _MAX_OUTDATED:
            self._newest = [-each for each in self._held]
            heapify(self._newest)
        return refused
