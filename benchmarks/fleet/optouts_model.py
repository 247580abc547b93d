"""Opt-outs on their way: webhooks at the receivers, entries of the stream in Redis, stores of the hosts.

Hosts are aggregated, because 10,000 of them that each read hundreds of entries a second would be millions of events.
Those that Redis answers in the same turn of its loop, and whose next check is due at the same time, are one group.
Redis is one core, which serves in each turn all that have asked. So the model is a loop of turns and needs no simpy.
"""

import math
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from heapq import heappop, heappush
from itertools import count
from typing import NamedTuple

from benchmarks.fleet import parameters
from benchmarks.fleet.series import PerSecond
from bidstream_svc.optouts.follower import _MAX_ENTRIES, CHECK_S, READ_GAP_S
from bidstream_svc.optouts.stream_publisher import _ENTRY_OPTOUTS, APPEND_GAP_S

_SLOTS = 20  # times of the second at which hosts check
_COMMIT_S = parameters.COMMIT_S.value
_WARM_UP_S = 5.0  # of which no delays are kept


class Entry(NamedTuple):
    """An entry of the stream: how many opt-outs, and when the first and the last of them arrived at the receiver."""

    optouts: int
    first_s: float
    last_s: float


class Group(NamedTuple):
    """Hosts that do the same at the same time.

    Attributes:
        hosts: how many.
        cursor: the number of entries that they have read.
        check_s: when they check the stream next.
        has_checked: whether that was the last thing they did, so that a read follows.
    """

    hosts: int
    cursor: int
    check_s: float
    has_checked: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class Feed:
    """A run.

    Attributes:
        rate: opt-outs a second.
        append_gap_s: what a receiver waits between two appends, at least.
        read_gap_s: what a host waits between two reads, at least, unless it is far behind.
        check_every_s: how often a host checks the stream.
    """

    hosts: int
    rate: float
    receivers: int = 2
    duration_s: float = 60.0
    append_gap_s: float = APPEND_GAP_S
    read_gap_s: float = READ_GAP_S
    check_every_s: float = CHECK_S


@dataclass(slots=True)
class FeedRun:
    """What a run recorded.

    Attributes:
        delays: ms from the arrival at a receiver to the commit at a host: opt-outs, times hosts, times three.
    """

    feed: Feed
    entries: int = 0
    optouts: int = 0
    busy_s: float = 0.0
    longest_turn_s: float = 0.0
    sent_bytes: PerSecond = field(default_factory=PerSecond)
    delays: Counter[int] = field(default_factory=Counter)

    def delay_s(self, part: float) -> float:
        """Return the delay that a part of the opt-outs does not exceed, over all hosts."""
        wanted = part * self.delays.total()
        for delay_ms, number in sorted(self.delays.items()):
            wanted -= number
            if wanted <= 0:
                return delay_ms / 1000
        return math.inf


class _Receiver:
    """Takes webhooks at an even rate, commits them in groups and appends them, an entry after another."""

    def __init__(self, feed: Feed, number: int) -> None:
        self.free_s = 0.0
        self._rate = feed.rate / feed.receivers
        self._phase = number / feed.receivers / self._rate
        self._taken = 0

    def next_s(self) -> float:
        """Return when there is something to append."""
        return max(self.free_s, self._on_disk_s(self._arrival_s(self._taken)))

    def take(self, now_s: float) -> Entry:
        """Take what has been committed by now, up to a whole entry."""
        begun_s = (now_s // _COMMIT_S - 1) * _COMMIT_S  # of the last commit that has ended
        committed = int((begun_s - self._phase) * self._rate) + 1
        last = max(self._taken + 1, min(committed, self._taken + _ENTRY_OPTOUTS))
        entry = Entry(last - self._taken, self._arrival_s(self._taken), self._arrival_s(last - 1))
        self._taken = last
        return entry

    @staticmethod
    def _on_disk_s(arrival_s: float) -> float:
        """One commit follows another. An opt-out goes into the next one, with all that came meanwhile."""
        return (arrival_s // _COMMIT_S + 2) * _COMMIT_S

    def _arrival_s(self, number: int) -> float:
        return self._phase + number / self._rate


class _Redis:
    """The loop of turns."""

    def __init__(self, feed: Feed) -> None:
        self.run = FeedRun(feed)
        self._feed = feed
        self._receivers = [_Receiver(feed, number) for number in range(feed.receivers)]
        self._entries: list[Entry] = []
        self._first = 0  # the number of the first entry that is kept
        self._blocked: list[Group] = []
        self._asking: list[tuple[float, int, Group]] = []
        self._numbers = count()
        readers = feed.hosts + feed.receivers  # receivers follow, too
        for slot, hosts in enumerate(_divide(readers)):
            due_s = slot / _SLOTS * feed.check_every_s
            self._ask(due_s, Group(hosts, 0, due_s))

    def simulate(self) -> FeedRun:
        now_s = 0.0
        while now_s < self._feed.duration_s:
            begin_s = max(now_s, self._next_s())
            now_s = self._turn(begin_s)
            self.run.busy_s += now_s - begin_s
            self.run.longest_turn_s = max(self.run.longest_turn_s, now_s - begin_s)
        return self.run

    def _next_s(self) -> float:
        asking_s = self._asking[0][0] if self._asking else math.inf
        checks_s = min((group.check_s for group in self._blocked), default=math.inf)
        return min(asking_s, checks_s, *(receiver.next_s() for receiver in self._receivers))

    def _turn(self, begin_s: float) -> float:
        now_s = begin_s
        for receiver in self._receivers:
            if receiver.next_s() <= begin_s:
                now_s = self._append(receiver, now_s, begin_s)
        due = [group for group in self._blocked if group.check_s <= begin_s]
        self._blocked = [group for group in self._blocked if group.check_s > begin_s]
        while self._asking and self._asking[0][0] <= begin_s:
            due.append(heappop(self._asking)[2])
        for group in due:
            now_s = self._answer(group, now_s)
        return max(now_s, begin_s + 1e-6)

    def _append(self, receiver: _Receiver, now_s: float, begin_s: float) -> float:
        entry = receiver.take(begin_s)
        self._entries.append(entry)
        self.run.entries += 1
        self.run.optouts += entry.optouts
        now_s += parameters.REDIS_APPEND_S.value
        receiver.free_s = now_s + max(parameters.ROUND_TRIP_S.value, self._feed.append_gap_s)
        blocked, self._blocked = self._blocked, []
        for group in blocked:
            now_s = self._send(group, now_s)
        self._forget()
        return now_s

    def _answer(self, group: Group, now_s: float) -> float:
        if group.check_s <= now_s and not group.has_checked:
            check_s = now_s + self._feed.check_every_s
            now_s += group.hosts * parameters.REDIS_CHECK_S.value
            self.run.sent_bytes.add(now_s, group.hosts * parameters.CHECK_BYTES.value)
            checked = group._replace(check_s=check_s, has_checked=True)
            self._ask(now_s + parameters.ROUND_TRIP_S.value, checked)
        elif group.cursor < self._first + len(self._entries):
            now_s = self._send(group, now_s)
        else:
            self._blocked.append(group._replace(has_checked=False))
        return now_s

    def _send(self, group: Group, now_s: float) -> float:
        """Answer a read with the entries that the group has not got."""
        start = group.cursor - self._first
        sent = self._entries[start : start + _MAX_ENTRIES]
        cost_s = parameters.REDIS_READ_S.value + (len(sent) - 1) * parameters.REDIS_ENTRY_S.value
        begun_s, now_s = now_s, now_s + group.hosts * cost_s
        size = sum(parameters.ENTRY_BYTES.value + each.optouts * parameters.OPTOUT_BYTES.value for each in sent)
        self.run.sent_bytes.spread(begun_s, now_s, group.hosts * size)
        if begun_s > _WARM_UP_S:
            self._note_delays(group.hosts, sent, (begun_s + now_s) / 2 + _COMMIT_S)
        # Who is far behind reads without a pause.
        pause_s = max(_COMMIT_S, self._feed.read_gap_s) if len(sent) < _MAX_ENTRIES else _COMMIT_S
        again_s = now_s + parameters.ROUND_TRIP_S.value + pause_s
        self._ask(again_s, group._replace(cursor=group.cursor + len(sent), has_checked=False))
        return now_s

    def _note_delays(self, hosts: int, entries: list[Entry], applied_s: float) -> None:
        for each in entries:
            for arrived_s in (each.first_s, (each.first_s + each.last_s) / 2, each.last_s):
                self.run.delays[round(1000 * (applied_s - arrived_s))] += hosts * each.optouts

    def _ask(self, moment_s: float, group: Group) -> None:
        heappush(self._asking, (moment_s, next(self._numbers), group))

    def _forget(self) -> None:
        """Drop the entries that all have read."""
        if len(self._entries) > 2 * _MAX_ENTRIES:
            oldest = min(group.cursor for _, _, group in self._asking)
            del self._entries[: oldest - self._first]
            self._first = oldest


def _divide(hosts: int) -> Iterator[int]:
    """Divide hosts evenly over the slots."""
    for slot in range(_SLOTS):
        if part := hosts * (slot + 1) // _SLOTS - hosts * slot // _SLOTS:
            yield part


def simulate_feed(feed: Feed) -> FeedRun:
    """Run a feed of opt-outs."""
    return _Redis(feed).simulate()
