"""What many share evenly: the bytes of a link, the time of processors."""

import math
from collections.abc import Callable
from heapq import heappop, heappush
from itertools import count

import simpy

# By how much a finish time may be missed, relative to all that one job could have had until then.
_TOLERANCE = 1e-12


class SharedCapacity:
    """A capacity that all jobs share evenly at each moment (processor sharing).

    It costs an event for each beginning and end of a job, however many there are: jobs end in the order of what one job
    would have got by then.

    Args:
        env: the simulation.
        total: units a second for all jobs.
        single: units a second that one job can use at most.
        on_work: called with (begin, end, units done in between).
    """

    def __init__(
        self,
        env: simpy.Environment,
        total: float,
        single: float = math.inf,
        on_work: Callable[[float, float, float], None] = lambda _begin, _end, _units: None,
    ) -> None:
        self._env = env
        self._total, self._single = total, single
        self._on_work = on_work
        self._jobs: list[tuple[float, int, simpy.Event]] = []
        self._running = 0
        self._share = 0.0  # what one job would have got since the beginning
        self._at = 0.0
        self._plans = 0
        self._numbers = count()

    def use(self, units: float, patience_s: float = math.inf) -> simpy.Event:
        """Begin a job. The event's value is True when it is done, False if it was given up after `patience_s`."""
        self._advance()
        done = self._env.event()
        heappush(self._jobs, (self._share + units, next(self._numbers), done))
        self._running += 1
        self._plan()
        if patience_s < math.inf:
            self._call_later(patience_s, lambda: self._give_up(done))
        return done

    def _rate(self) -> float:
        return min(self._single, self._total / self._running)

    def _advance(self) -> None:
        now = self._env.now
        if self._running and now > self._at:
            got = (now - self._at) * self._rate()
            self._share += got
            self._on_work(self._at, now, got * self._running)
        self._at = now

    def _plan(self) -> None:
        self._plans += 1
        while self._jobs and self._jobs[0][2].triggered:  # it was given up
            heappop(self._jobs)
        if self._jobs:
            plan = self._plans
            wait_s = max(0.0, (self._jobs[0][0] - self._share) / self._rate())
            self._call_later(wait_s, lambda: self._finish(plan))

    def _finish(self, plan: int) -> None:
        if plan != self._plans:
            return
        self._advance()
        due = self._jobs[0][0] + _TOLERANCE * max(1.0, self._share)  # the first is due, whatever the rounding
        while self._jobs and self._jobs[0][0] <= due:
            _, _, done = heappop(self._jobs)
            if not done.triggered:
                self._running -= 1
                done.succeed(True)
        self._plan()

    def _give_up(self, done: simpy.Event) -> None:
        if not done.triggered:
            self._advance()
            self._running -= 1
            done.succeed(False)
            self._plan()

    def _call_later(self, wait_s: float, call: Callable[[], None]) -> None:
        event = self._env.timeout(wait_s)
        assert event.callbacks is not None
        event.callbacks.append(lambda _: call())
