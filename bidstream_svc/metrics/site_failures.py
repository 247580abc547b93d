"""Which sites the tokens that were not decrypted are of: estimates in bounded memory, for ten minutes and for an hour.

A SlotSketch keeps the sites with the most failures of ten minutes. It is the space-saving algorithm, except that it
takes the sample of a whole period at a time and then drops the sites with the least. What a site may have had before it
got its place is at most `floor`, and `floor` is at most a SITES-th of all failures: a flood of made-up sites cannot
displace one that has more. The names of a site are kept by the same rule.

Source: A. Metwally, D. Agrawal, A. El Abbadi, "Efficient Computation of Frequent and Top-k Elements in Data Streams",
2005.
"""

from collections.abc import Iterable, Mapping, Sequence
from heapq import nlargest
from math import sqrt
from typing import Any, NamedTuple, TypeVar

import msgspec

from bidstream_svc.core.identity import IdentityScope
from bidstream_svc.core.status import FailureReason

SLOT_S = 600
SLOTS = 7  # the one that runs, and an hour before it
SITES = 256
NAMES = 4
TOP = 50
_95_PERCENT = 1.96  # in standard deviations
_REASONS = list(FailureReason)
_PLACE_OF_REASON = {reason: place for place, reason in enumerate(_REASONS)}
_SCOPES = len(IdentityScope)

_Key = TypeVar("_Key", int, str)


class Site(NamedTuple):
    """A site of a programme."""

    site_id: int
    scope: IdentityScope


class SitedFailure(NamedTuple):
    """A failure of the sample.

    Attributes:
        site: of the token, or None if that cannot be read.
        name: the normalised domain or app name, or None.
    """

    reason: FailureReason
    site: Site | None
    name: str | None

    def __repr__(self) -> str:
        """Omit the name."""
        return f"SitedFailure(reason={self.reason!r}, site={self.site!r})"


class NameTally(msgspec.Struct, array_like=True, gc=False):
    """Failures of a site with a name: `seen` since it has its place, and at most `missed` before."""

    missed: float
    seen: float = 0.0


class SiteTally(msgspec.Struct, array_like=True):
    """Failures of a site: `seen` since it has its place, and at most `missed` before; by the place of the reason."""

    missed: float
    seen: float = 0.0
    reasons: dict[int, float] = msgspec.field(default_factory=dict)
    names: dict[str, NameTally] = msgspec.field(default_factory=dict)

    def __repr__(self) -> str:
        """Omit the names."""
        return f"SiteTally(missed={self.missed}, seen={self.seen})"

    def add(self, failure: SitedFailure, weight: float) -> None:
        """Add a failure that stands for `weight` failures."""
        self.seen += weight
        _add_reason(self.reasons, failure.reason, weight)
        if failure.name is not None:
            floor = 0.0 if len(self.names) < NAMES else min(map(_most, self.names.values()))
            self.names.setdefault(failure.name, NameTally(floor)).seen += weight
            _drop_least(self.names, NAMES)


class SlotSketch(msgspec.Struct, array_like=True):
    """The failures of ten minutes of one worker.

    Attributes:
        number: which ten minutes of the monotonic clock: its seconds divided by SLOT_S.
        failures: how many there were.
        sampled: how many of them were looked at.
        variance: at most that of the estimate of a site's failures, due to the sample.
        floor: at most so many failures has a site that is not in `sites`.
        without_site: by the place of the reason, failures whose site cannot be read.
        sites: by a number for the site and its programme.
    """

    number: int
    failures: int = 0
    sampled: int = 0
    variance: float = 0.0
    floor: float = 0.0
    without_site: dict[int, float] = msgspec.field(default_factory=dict)
    sites: dict[int, SiteTally] = msgspec.field(default_factory=dict)

    def __repr__(self) -> str:
        """Omit the names."""
        return f"SlotSketch(number={self.number}, failures={self.failures}, {len(self.sites)} sites)"

    def add(self, failures: int, sample: Sequence[SitedFailure]) -> None:
        """Add a period with so many failures, of which `sample` was drawn."""
        taken = len(sample)
        self.failures += failures
        self.sampled += taken
        if failures > taken:
            # That of drawing without replacement, if half of the failures are the site's.
            self.variance += failures**2 * (failures - taken) / (4 * taken * (failures - 1))
        for failure in sample:
            self._add(failure, failures / taken)
        self.floor = max(self.floor, _drop_least(self.sites, SITES))

    def _add(self, failure: SitedFailure, weight: float) -> None:
        if failure.site is None:
            _add_reason(self.without_site, failure.reason, weight)
            return
        key = failure.site.site_id * _SCOPES + failure.site.scope
        tally = self.sites.get(key)
        if tally is None:
            tally = self.sites[key] = SiteTally(self.floor)
        tally.add(failure, weight)


class SiteFailures:
    """The sum of sketches."""

    def __init__(self) -> None:
        self.failures = 0
        self.sampled = 0
        self._variance = 0.0
        self._floor = 0.0
        self._without_site: dict[int, float] = {}
        self._sites: dict[int, list[SiteTally]] = {}

    def add(self, sketch: SlotSketch) -> None:
        """Add a sketch, of any slot and worker."""
        self.failures += sketch.failures
        self.sampled += sketch.sampled
        self._variance += sketch.variance
        self._floor += sketch.floor
        _add_all(self._without_site, sketch.without_site)
        for key, tally in sketch.sites.items():
            self._sites.setdefault(key, []).append(tally)

    @property
    def share_error(self) -> float:
        """By how much a site's share may be off, with a probability of 95 %; see docs/operations.md."""
        if not self.failures:
            return 0.0
        return min(1.0, (self._floor + _95_PERCENT * sqrt(self._variance)) / self.failures)

    def describe(self) -> dict[str, Any]:
        """Return what `GET /failures` answers, except the window."""
        top = nlargest(TOP, self._sites.items(), key=lambda item: _seen(item[1]))
        return {
            "failures": self.failures,
            "sampled": self.sampled,
            "share_error": round(self.share_error, 4),
            "without_site": {
                "failures": round(sum(self._without_site.values())),
                "reasons": _shares_of_reasons(self._without_site),
            },
            "sites": [self._describe_site(key, tallies) for key, tallies in top],
        }

    def _describe_site(self, key: int, tallies: Sequence[SiteTally]) -> dict[str, Any]:
        site_id, scope = divmod(key, _SCOPES)
        seen, reasons, names = _seen(tallies), dict[int, float](), dict[str, float]()
        for tally in tallies:
            _add_all(reasons, tally.reasons)
            _add_all(names, {name: of_name.seen for name, of_name in tally.names.items()})
        name, named = max(names.items(), key=lambda item: item[1], default=(None, 0.0))
        return {
            "site_id": site_id,
            "scope": IdentityScope(scope).name,
            "failures": round(seen),
            "share": round(seen / self.failures, 4),
            "reasons": _shares_of_reasons(reasons),
            "name": name,
            "name_share": round(named / seen, 4),
        }


def _seen(tallies: Iterable[SiteTally]) -> float:
    return sum(tally.seen for tally in tallies)


def _add_reason(reasons: dict[int, float], reason: FailureReason, weight: float) -> None:
    _add_all(reasons, {_PLACE_OF_REASON[reason]: weight})


def _add_all(totals: dict[_Key, float], weights: Mapping[_Key, float]) -> None:
    for key, weight in weights.items():
        totals[key] = totals.get(key, 0.0) + weight


def _most(tally: NameTally | SiteTally) -> float:
    """At most so many failures are behind a tally."""
    return tally.missed + tally.seen


def _drop_least(tallies: dict[_Key, Any], places: int) -> float:
    """Drop the least tallies if there are more than `places`, and return the largest of them; 0 if there are not."""
    surplus = len(tallies) - places
    if surplus <= 0:
        return 0.0
    least = sorted(tallies.items(), key=lambda item: _most(item[1]))[:surplus]
    for key, _ in least:
        del tallies[key]
    return _most(least[-1][1])


def _shares_of_reasons(reasons: Mapping[int, float]) -> dict[str, float]:
    total = sum(reasons.values())
    falling = sorted(reasons.items(), key=lambda item: item[1], reverse=True)
    return {_REASONS[place].value: round(weight / total, 4) for place, weight in falling}
