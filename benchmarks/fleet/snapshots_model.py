"""All hosts need a snapshot of the opt-outs at once, for example because they restart with empty stores."""

import math
from collections.abc import Generator
from dataclasses import dataclass
from random import Random
from typing import Any

import simpy

from benchmarks.fleet import parameters
from benchmarks.fleet.capacity import SharedCapacity
from benchmarks.fleet.series import Level
from benchmarks.fleet.sources import Seen
from bidstream_svc.optouts.back_off import BackOff
from bidstream_svc.optouts.follower import SNAPSHOT_BACK_OFF_S
from bidstream_svc.optouts.snapshot_client import _MAX_RETRY_AFTER_S
from bidstream_svc.optouts.snapshot_file import _MAX_AGE_S
from bidstream_svc.server.optout_plane import _MAX_SNAPSHOTS, _RETRY_AFTER_S

_POLL_S = 1.0  # a follower looks once a second whether its snapshot has arrived
_SEED = 18


@dataclass(frozen=True, slots=True, kw_only=True)
class Rush:
    """A run.

    Attributes:
        hosts, receivers: how many.
        ids: opt-outs in a snapshot.
        at_once: snapshots that a receiver sends at the same time, at most.
        counts_waiting: whether that counts those that wait for a snapshot to be written.
        age_from_end: whether a snapshot's age counts from when it is complete; else from when it is begun.
        longest_s: the end of the run.
    """

    hosts: int
    ids: float
    receivers: int = 2
    at_once: int = _MAX_SNAPSHOTS
    counts_waiting: bool = True
    age_from_end: bool = True
    longest_s: float = 24 * 3600.0

    @property
    def snapshot_bytes(self) -> float:
        """The size of a snapshot."""
        return self.ids * parameters.SNAPSHOT_ID_BYTES.value


@dataclass(frozen=True, slots=True)
class RushRun:
    """What a run recorded: what each receiver saw, how many snapshots it wrote, and hosts without opt-outs."""

    rush: Rush
    receivers: list[Seen]
    written: list[int]
    without: Level

    @property
    def last_s(self) -> float:
        """When the last host had its snapshot; infinite if some never had."""
        last_s = self.without.last_above_s()
        return 0.0 if last_s is None else last_s

    @property
    def half_s(self) -> float:
        """When half of the hosts had theirs."""
        last_s = self.without.last_above_s(self.rush.hosts // 2)
        return math.inf if last_s is None else last_s


class _Receiver:
    """Writes a snapshot when there is none that is new enough, and sends it to several hosts at once."""

    def __init__(self, env: simpy.Environment, rush: Rush) -> None:
        self.seen = Seen()
        self.written = 0
        self._env, self._rush = env, rush
        self._making = simpy.Resource(env)
        self._fresh_until_s = -math.inf
        self._sending = 0
        single = min(
            parameters.HOST_BYTES_PER_S.value,
            parameters.SNAPSHOT_MERGE_IDS_PER_S.value * parameters.SNAPSHOT_ID_BYTES.value,
        )
        total = min(parameters.RECEIVER_BYTES_PER_S.value, parameters.SNAPSHOT_SEND_BYTES_PER_S.value)
        self._link = SharedCapacity(env, total, single, self.seen.sent_bytes.spread)

    def send(self) -> Generator[simpy.Event, Any, bool]:
        """Send a snapshot. False if others are being sent."""
        self.seen.requests.add(self._env.now)
        if self._sending >= self._rush.at_once:
            self.seen.refused.add(self._env.now)
            return False
        self._sending += self._rush.counts_waiting
        with self._making.request() as turn:
            yield turn
            if self._env.now > self._fresh_until_s:
                yield from self._write()
        self._sending += not self._rush.counts_waiting
        yield self._link.use(self._rush.snapshot_bytes)
        self._sending -= 1
        return True

    def _write(self) -> Generator[simpy.Event, Any, None]:
        begun_s = self._env.now
        yield self._env.timeout(self._rush.ids / parameters.SNAPSHOT_WRITE_IDS_PER_S.value)
        self.written += 1
        self._fresh_until_s = (self._env.now if self._rush.age_from_end else begun_s) + _MAX_AGE_S


def simulate_rush(rush: Rush) -> RushRun:
    """Run a rush for snapshots."""
    env, random = simpy.Environment(), Random(_SEED)
    receivers = [_Receiver(env, rush) for _ in range(rush.receivers)]
    without = Level(rush.hosts)
    finished = env.event()

    def get_snapshot() -> Generator[simpy.Event, Any, None]:
        back_off = BackOff(*SNAPSHOT_BACK_OFF_S, uniform=random.uniform)
        yield env.timeout(random.uniform(0, _POLL_S))
        while not (yield from random.choice(receivers).send()):
            yield env.timeout(min(_RETRY_AFTER_S, _MAX_RETRY_AFTER_S) + back_off.draw_s())
        without.change(env.now, -1)
        if not without.value:
            finished.succeed()

    for _ in range(rush.hosts):
        env.process(get_snapshot())
    env.run(until=env.any_of([finished, env.timeout(rush.longest_s)]))
    return RushRun(rush, [each.seen for each in receivers], [each.written for each in receivers], without)
