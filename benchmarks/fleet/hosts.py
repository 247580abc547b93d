"""Hosts: each fetches keys by the schedule of the service, notices a rotation by its tokens, and restarts."""

import math
from collections.abc import Callable, Generator
from contextlib import suppress
from dataclasses import dataclass
from random import Random
from typing import Any

import simpy

from benchmarks.fleet.capacity import SharedCapacity
from benchmarks.fleet.parameters import Costs
from benchmarks.fleet.series import Level
from benchmarks.fleet.sources import Result, Source
from bidstream_svc.keystore.refresh_schedule import EarlyRefreshLimit, draw_back_off_s, draw_interval_s


@dataclass(frozen=True, slots=True)
class HostSettings:
    """What all hosts are told, and what comes to them.

    Attributes:
        draw_notice_s: from a random number below 1 to the seconds from a rotation, or a start, to a new key's token.
        stranger_s: mean seconds between two tokens of which nobody will ever have the key.
    """

    interval_s: float
    has_cache: bool
    draw_notice_s: Callable[[float], float]
    stranger_s: float


class Hosts:
    """What the hosts of a fleet have in common.

    Args:
        choose: returns the source to ask.
        generation: returns that of the newest keys.
        settings: of all hosts.
        cpu: that all hosts share; None if each has its own.

    Attributes:
        down: hosts that do not answer.
        without_keys: hosts that answer NOT_INITIALIZED.
        behind: hosts that serve with keys from before the last rotation.
        not_level: hosts that are any of these.
    """

    def __init__(
        self,
        env: simpy.Environment,
        choose: Callable[[], Source],
        generation: Callable[[], int],
        costs: Costs,
        random: Random,
        *,
        settings: HostSettings,
        cpu: SharedCapacity | None = None,
    ) -> None:
        self.env, self.costs, self.random = env, costs, random
        self.choose, self.newest = choose, generation
        self.interval_s, self.has_cache = settings.interval_s, settings.has_cache
        self.draw_notice_s, self.stranger_s = settings.draw_notice_s, settings.stranger_s
        self.cpu = cpu
        self.down, self.without_keys, self.behind, self.not_level = Level(), Level(), Level(), Level()

    def compute(self, cpu_s: float) -> simpy.Event:
        """Use a core, which is the host's own unless they all share a machine."""
        return self.env.timeout(cpu_s) if self.cpu is None else self.cpu.use(cpu_s)

    def gauge(self, host: "Host") -> Level | None:
        """The gauge that a host counts in; None if it is level."""
        if host.is_down:
            return self.down
        if host.generation < 0:
            return self.without_keys
        return self.behind if host.generation < self.newest() else None


class Host:
    """A sidecar.

    Args:
        hosts: its fleet.
        generation: of the keys that it has at the beginning; -1 for none.
        first_refresh_s: when it refreshes them first.
    """

    def __init__(self, hosts: Hosts, generation: int, first_refresh_s: float) -> None:
        self.generation = generation
        self.is_down = False
        self._hosts, self._env = hosts, hosts.env
        self._counted_in: Level | None = None
        self._failures = 0
        self._is_woken, self._is_sleeping, self._is_early = False, False, False
        self._early = EarlyRefreshLimit()
        self._start = 0
        self._asked_s: float | None = None
        self.is_ready = hosts.env.event()
        self._process = hosts.env.process(self._run(0, first_refresh_s))
        self.count()
        self._meet_stranger_later()

    def count(self) -> None:
        """Count the host in the gauge of its state."""
        gauge, now = self._hosts.gauge(self), self._env.now
        if gauge is self._counted_in:
            return
        if self._counted_in is None:
            self._hosts.not_level.change(now, 1)
        else:
            self._counted_in.change(now, -1)
        if gauge is None:
            self._hosts.not_level.change(now, -1)
        else:
            gauge.change(now, 1)
        self._counted_in = gauge

    def notice_rotation(self) -> None:
        """Begin to get tokens with a new key."""
        self.count()
        self._notice_later(self._hosts.draw_notice_s(self._hosts.random.random()))

    def restart(self) -> None:
        """End at once, and start again."""
        self._start += 1
        self.is_down, self._failures, self._early = True, 0, EarlyRefreshLimit()
        self._is_sleeping = self._is_woken = False
        self.is_ready = self._env.event()
        self.count()
        self._process = self._env.process(self._begin(self._start))

    def _begin(self, start: int) -> Generator[simpy.Event, Any, None]:
        yield self._hosts.compute(self._hosts.costs.start_cpu_s)
        if not self._hosts.has_cache:
            self.generation = -1
        self._asked_s = None
        self._is_early = self._hosts.has_cache  # nobody knows how old the keys of a cache are
        self.is_down = False
        self.count()
        if self.generation >= 0:
            self.is_ready.succeed()
            if self._counted_in is not None:
                self._notice_later(self._hosts.draw_notice_s(self._hosts.random.random()))
        yield from self._run(start, 0.0)

    def _run(self, start: int, first_s: float) -> Generator[simpy.Event, Any, None]:
        """Refresh for ever, or until the host is started again. `first_s`: seconds until the first refresh."""
        hosts = self._hosts
        wait_s = first_s
        while True:
            yield from self._sleep(start, wait_s)
            if start != self._start:
                return
            asked_s, max_age_s = self._env.now, self._max_age_s()
            answer = yield from hosts.choose().answer(max_age_s)
            if start != self._start:
                return
            if answer.result is Result.KEYS:
                yield from self._parse()
                if start != self._start:
                    return
                self._use(answer.generation, asked_s)
                wait_s = draw_interval_s(hosts.interval_s, hosts.random.uniform)
            else:
                self._failures += 1
                wait_s = draw_back_off_s(
                    self._failures,
                    hosts.random.uniform,
                    retry_after_s=answer.retry_after_s,
                    longest_s=hosts.interval_s,
                )

    def _parse(self) -> Generator[simpy.Event, Any, None]:
        costs, begun_s = self._hosts.costs, self._env.now
        if self.generation < 0:
            yield self._hosts.compute(costs.first_parse_cpu_s)
            return
        # Short steps with pauses, during which others use the core.
        yield self._hosts.compute(costs.parse_cpu_s)
        paused_s = self._env.now - begun_s - costs.parse_cpu_s
        yield self._env.timeout(max(0.0, costs.parse_pause_s - paused_s))

    def _max_age_s(self) -> float | None:
        """As `KeyRefresher.max_age_s`."""
        if self._is_early:
            return None
        return self._hosts.interval_s if self._asked_s is None else self._env.now - self._asked_s

    def _use(self, generation: int, asked_s: float) -> None:
        self._failures, self._is_early, self._asked_s = 0, False, asked_s
        self.generation = max(self.generation, generation)
        self.count()
        if not self.is_ready.triggered:
            self.is_ready.succeed()

    def _sleep(self, start: int, wait_s: float) -> Generator[simpy.Event, Any, None]:
        if not self._is_woken and wait_s > 0:
            self._is_sleeping = True
            with suppress(simpy.Interrupt):
                yield self._env.timeout(wait_s)
            if start != self._start:
                return
            self._is_sleeping = False
        self._is_woken = False

    def _notice_later(self, wait_s: float) -> None:
        if wait_s < math.inf:
            event, start = self._env.timeout(wait_s), self._start
            assert event.callbacks is not None
            event.callbacks.append(lambda _: self._notice(start))

    def _notice(self, start: int) -> None:
        """A token has an unknown key. More of them follow, as long as the host has not got it."""
        hosts, now = self._hosts, self._env.now
        if start != self._start or self.generation >= hosts.newest():
            return
        self._refresh_for_unknown_key()
        self._notice_later(max(self._early.next_s - now, 0) + hosts.draw_notice_s(hosts.random.random()))

    def _refresh_for_unknown_key(self) -> None:
        """As `RefreshThread.refresh_for_unknown_key`."""
        if self.generation >= 0 and self._early.admit(self._env.now) and not self._failures:
            self._is_early = self._is_woken = True
            if self._is_sleeping:
                self._is_sleeping = False
                self._process.interrupt()

    def _meet_stranger_later(self) -> None:
        hosts, env = self._hosts, self._env
        if hosts.stranger_s == math.inf:
            return
        wait_s = max(self._early.next_s - env.now, 0) + hosts.random.expovariate(1 / hosts.stranger_s)
        event = env.timeout(wait_s)
        assert event.callbacks is not None
        event.callbacks.append(lambda _: self._meet_stranger())

    def _meet_stranger(self) -> None:
        if not self.is_down:
            self._refresh_for_unknown_key()
        self._meet_stranger_later()
