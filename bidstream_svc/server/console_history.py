"""The counters of the last hour, minute by minute, from the cells that all workers share."""

import asyncio
from collections import deque
from collections.abc import Callable, Mapping
from enum import StrEnum
from itertools import pairwise
from typing import NamedTuple

from bidstream_svc.clock import wall_clock_ms
from bidstream_svc.core.status import DecryptionStatus, FailureReason
from bidstream_svc.core.units import MS_PER_S
from bidstream_svc.metrics import MetricCells
from bidstream_svc.metrics.cells import DECRYPT_FAILURES, DECRYPTIONS, KEY_CELLS, ScopeLabel

_MINUTE_MS = 60 * MS_PER_S
_MINUTES = 60
_STATUSES = {str(status): [DECRYPTIONS[scope, status] for scope in ScopeLabel] for status in DecryptionStatus}
_REASONS = {str(reason): [DECRYPT_FAILURES[reason]] for reason in FailureReason}
_REFRESHES = {
    f"{scope} {result}": [cell] for scope in ScopeLabel for result, cell in KEY_CELLS[scope].refreshes.items()
}


class Group(StrEnum):
    """A group of counters."""

    STATUSES = "statuses"
    REASONS = "reasons"
    REFRESHES = "refreshes"


# What is counted: of each group, the cells to be added up for each of its members.
COUNTED: Mapping[Group, Mapping[str, list[int]]] = {
    Group.STATUSES: _STATUSES,
    Group.REASONS: _REASONS,
    Group.REFRESHES: _REFRESHES,
}


class Sample(NamedTuple):
    """The counters at a time: of each group, in the order of its members."""

    time_ms: int
    values: Mapping[Group, list[int]]


class History:
    """The samples of the last hour, one at each full minute of the wall clock.

    Args:
        metrics: the cells.
        now_ms: the wall clock.
    """

    def __init__(self, metrics: MetricCells, now_ms: Callable[[], int] = wall_clock_ms) -> None:
        self._metrics = metrics
        self._now_ms = now_ms
        self._samples = deque([self._read()], maxlen=_MINUTES + 1)

    async def run(self) -> None:
        """Take the samples."""
        while True:
            now_ms = self._now_ms()
            await asyncio.sleep((_MINUTE_MS - now_ms % _MINUTE_MS) / MS_PER_S)
            self.sample()

    def sample(self) -> None:
        """Take a sample now."""
        self._samples.append(self._read())

    def describe(self) -> dict[str, object]:
        """Return what was counted, without members that were not.

        `minutes` lists the intervals, the last of which ends now: `from_ms`, `to_ms`, and for each group the counts by
        member. `totals` are those of all intervals.
        """
        samples = [*self._samples, self._read()][-_MINUTES - 1 :]
        return {
            "minutes": [
                {"from_ms": before.time_ms, "to_ms": after.time_ms, **_differences(before, after)}
                for before, after in pairwise(samples)
            ],
            "totals": _differences(samples[0], samples[-1]),
        }

    def _read(self) -> Sample:
        rows = self._metrics.rows
        return Sample(
            self._now_ms(),
            {
                group: [sum(row[cell] for row in rows for cell in cells) for cells in members.values()]
                for group, members in COUNTED.items()
            },
        )


def _differences(before: Sample, after: Sample) -> dict[str, dict[str, int]]:
    return {
        str(group): {
            name: new - old
            for name, old, new in zip(members, before.values[group], after.values[group], strict=True)
            if new != old
        }
        for group, members in COUNTED.items()
    }
