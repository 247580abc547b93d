"""Refreshes ahead of their time, because a token names a key that no refresh has brought yet.

Time and randomness are parameters, so that `benchmarks/fleet` simulates a fleet with these very functions. Nothing here
is thread-safe.
"""

from collections import OrderedDict
from collections.abc import Container
from math import inf

from bidstream_svc.keystore.refresh_schedule import (
    INTERVAL_JITTER,
    MIN_EARLY_REFRESH_INTERVAL_S,
    Uniform,
    draw_back_off_s,
    draw_spread_s,
)

MAX_UNKNOWN_KEYS = 2_000
_FIRST_STALE = 4  # the back-off after a relay's first answer with old keys: up to 8 s


class UnknownKeys:
    """Key ids that tokens named and that no refresh has brought.

    An id is due at once when it is met first. Whenever a refresh has not brought it although it was due, the time until
    it is due again doubles, up to a little more than the interval of scheduled refreshes, which then ask for it anyway.
    So tokens of strangers soon cost nothing, and yet no id is given up.

    When it is full, the id is forgotten that was met longest ago. If it comes again, it is new: it is due at once. So a
    flood of ids that somebody has made up costs a refresh a minute, as a single new one does, and delays no other key:
    that refresh brings all keys there are.

    Args:
        interval_s: mean interval of the scheduled refreshes.
        capacity: how many ids are remembered.
    """

    def __init__(self, interval_s: float, capacity: int = MAX_UNKNOWN_KEYS) -> None:
        self._longest_s = interval_s * (1 + INTERVAL_JITTER)  # or else it would come before a scheduled refresh
        self._capacity = capacity
        # (until when it is not due, counted from the last refresh, 0 if no refresh was asked for it; when it was met)
        self._ids: OrderedDict[int, tuple[float, float]] = OrderedDict()
        self._asked_s = -inf

    def __len__(self) -> int:
        """Return how many are remembered."""
        return len(self._ids)

    def meet(self, key_id: int, now_s: float) -> bool:
        """Remember an unknown id. Returns whether it is due."""
        found = self._ids.get(key_id)
        if found is None:
            self._ids[key_id] = (0.0, now_s)
            if len(self._ids) > self._capacity:
                self._ids.popitem(last=False)
            return True
        self._ids.move_to_end(key_id)
        return now_s >= self._asked_s + found[0]

    def settle(self, known: Container[int], asked_s: float) -> bool:
        """Note what a refresh has brought.

        Args:
            known: the ids of its keys.
            asked_s: when the operator was asked for them.

        Returns:
            Whether there is an id left that was met after that, so that the refresh says nothing about it.
        """
        has_new = False
        for key_id, (wait_s, met_s) in tuple(self._ids.items()):
            if key_id in known:
                del self._ids[key_id]
            elif met_s > asked_s:
                has_new = True
            elif self._asked_s + wait_s <= asked_s:
                doubled_s = max(MIN_EARLY_REFRESH_INTERVAL_S, 2 * wait_s)
                self._ids[key_id] = (min(doubled_s, self._longest_s), met_s)
        self._asked_s = max(self._asked_s, asked_s)
        return has_new


class EarlyRefreshes:
    """When the next early refresh is made: at most one a minute.

    Hosts that ask an operator wait for a random time before, so that a fleet does not call within a second. Hosts that
    got their keys from a relay do not: it asks once for all of them. If its keys are older than the unknown id, or than
    the request of a client, the minute does not count: they come again when the relay may ask the operator again, or,
    if the relay should have newer ones and has not, after a growing random time.

    Args:
        interval_s: mean interval of the scheduled refreshes.
        uniform: draws a random number.

    Attributes:
        at_s: when the next one is made; infinity if none is wanted.
        next_s: from when on one is allowed.
        requested_s: when the last one was wanted.
    """

    def __init__(self, interval_s: float, uniform: Uniform) -> None:
        self.at_s, self.next_s, self.requested_s = inf, -inf, -inf
        self.unknown = UnknownKeys(interval_s)
        self._interval_s, self._uniform = interval_s, uniform
        self._is_relayed = False
        self._is_running = False
        self._is_for_ids = False
        self._stale_answers = 0  # in a row

    def meet(self, key_id: int, now_s: float) -> bool:
        """Note an unknown key id. Returns whether this has changed `at_s`."""
        if not self.unknown.meet(key_id, now_s) or self.at_s < inf:
            return False
        self._is_for_ids = True
        self._plan(now_s)
        return True

    def request(self, now_s: float) -> bool:
        """Want one at once for clients that wait, if it is allowed. Returns whether this has changed `at_s`."""
        if now_s < self.next_s or self.at_s < inf:
            return False
        self.at_s = self.requested_s = now_s
        return True

    def begin(self, now_s: float, *, is_retry: bool) -> bool:
        """Note that a refresh begins. Returns whether one was wanted: it must then ask for the newest keys.

        A wanted one counts for the minute now, when it is made. A retry comes anyway and does not count.
        """
        self._is_running = self.at_s < inf
        if self._is_running and not is_retry:
            self.next_s = now_s + MIN_EARLY_REFRESH_INTERVAL_S
        self.at_s = inf
        return self._is_running

    def fail(self, now_s: float) -> None:
        """Note that the refresh failed: what was wanted still is."""
        if self._is_running:
            self.at_s = min(self.at_s, now_s)

    def succeed(self, known: Container[int], asked_s: float, now_s: float, *, is_relayed: bool) -> None:
        """Note what the refresh has brought; see `UnknownKeys.settle`.

        What was wanted meanwhile is dropped if the refresh has brought it.

        Args:
            known: the ids of its keys.
            asked_s: when the operator was asked for them.
            now_s: the time now.
            is_relayed: whether the keys are from a relay.
        """
        self._is_relayed = is_relayed
        has_new = self.unknown.settle(known, asked_s)
        is_old = has_new if self._is_for_ids else asked_s < self.requested_s
        if is_relayed and self._is_running and is_old:
            self.next_s = asked_s + MIN_EARLY_REFRESH_INTERVAL_S
            if self.next_s <= now_s:
                self.next_s = now_s + draw_back_off_s(_FIRST_STALE + self._stale_answers, self._uniform)
                self._stale_answers += 1
        if not is_old:
            self._stale_answers = 0
        if not self._is_for_ids:
            return
        if not has_new:
            self._is_for_ids, self.at_s = False, inf
            return
        if self.at_s == inf or is_relayed:
            self._plan(now_s)

    def _plan(self, now_s: float) -> None:
        spread_s = 0.0 if self._is_relayed else draw_spread_s(self._interval_s, self._uniform)
        self.requested_s = now_s
        self.at_s = max(now_s, self.next_s) + spread_s
