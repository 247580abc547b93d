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
from benchmarks.fleet.sources import Answer, Result, Source
from bidstream_svc.keystore.early_refreshes import EarlyRefreshes
from bidstream_svc.keystore.refresh_schedule import MIN_EARLY_REFRESH_INTERVAL_S, draw_back_off_s, draw_interval_s

_STRANGER = -1  # the id of a key that nobody ever gets; other ids are generations


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
        self._is_sleeping, self._is_early = False, False
        self._early = self._new_early()
        self._start = 0
        self._asked_s: float | None = None
        self.is_ready = hosts.env.event()
        self._process = hosts.env.process(self._run(0, first_refresh_s))
        self.count()
        self._meet_stranger_later()

    def _new_early(self) -> EarlyRefreshes:
        return EarlyRefreshes(self._hosts.interval_s, self._hosts.random.uniform)

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
        self.is_down, self._failures, self._early = True, 0, self._new_early()
        self._is_sleeping = False
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
            asked_s = self._env.now
            self._is_early |= self._early.begin(asked_s, is_retry=self._failures > 0)
            max_age_s = self._max_age_s()
            answer = yield from hosts.choose().answer(max_age_s)
            if start != self._start:
                return
            if answer.result is Result.KEYS:
                yield from self._parse()
                if start != self._start:
                    return
                self._use(answer, asked_s)
                wait_s = draw_interval_s(hosts.interval_s, hosts.random.uniform)
            else:
                self._early.fail(self._env.now)
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

    def _use(self, answer: Answer, asked_s: float) -> None:
        self._failures, self._is_early, self._asked_s = 0, False, asked_s
        self.generation = max(self.generation, answer.generation)
        relayed_s = answer.relayed_s
        self._early.succeed(
            range(self.generation + 1),
            asked_s if relayed_s is None else relayed_s,
            self._env.now,
            is_relayed=relayed_s is not None,
        )
        self.count()
        if not self.is_ready.triggered:
            self.is_ready.succeed()

    def _sleep(self, start: int, wait_s: float) -> Generator[simpy.Event, Any, None]:
        """As `KeyRefresher._sleep`."""
        until_s = self._env.now + wait_s
        while start == self._start:
            at_s = until_s if self._failures else min(until_s, self._early.at_s)
            if at_s <= self._env.now:
                return
            self._is_sleeping = True
            with suppress(simpy.Interrupt):
                yield self._env.timeout(at_s - self._env.now)
            if start == self._start:
                self._is_sleeping = False

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
        self._meet(hosts.newest())
        # A later token changes something only after a minute; see EarlyRefreshes.
        self._notice_later(max(self._early.next_s - now, 0) + hosts.draw_notice_s(hosts.random.random()))

    def _meet(self, key_id: int) -> None:
        """As `KeyRefresher.meet_unknown_key`, which does nothing without keys."""
        if self.generation >= 0 and self._early.meet(key_id, self._env.now) and self._is_sleeping:
            self._is_sleeping = False
            self._process.interrupt()

    def _meet_stranger_later(self) -> None:
        hosts, env = self._hosts, self._env
        if hosts.stranger_s == math.inf:
            return
        # Of one stranger, whose next token changes nothing for a minute.
        wait_s = MIN_EARLY_REFRESH_INTERVAL_S / 2 + hosts.random.expovariate(1 / hosts.stranger_s)
        event = env.timeout(wait_s)
        assert event.callbacks is not None
        event.callbacks.append(lambda _: self._meet_stranger())

    def _meet_stranger(self) -> None:
        if not self.is_down:
            self._meet(_STRANGER)
        self._meet_stranger_later()
