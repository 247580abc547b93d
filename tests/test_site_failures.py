"""Failures by site: the sample is uniform, and the sketch is right within the bounds that it states."""

import math
from collections import Counter
from collections.abc import Iterable, Sequence
from random import Random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bidstream_svc import FailureReason
from bidstream_svc.core.domains import NameCandidates
from bidstream_svc.core.identity import IdentityScope
from bidstream_svc.metrics.failure_sample import SAMPLE_SIZE, Failure, FailureSample
from bidstream_svc.metrics.site_failures import NAMES, SITES, TOP, Site, SitedFailure, SiteFailures, SlotSketch

UID2, EUID = IdentityScope
EXPIRED = FailureReason.EXPIRED


def seeded(seed: int) -> Random:
    return Random(seed)  # noqa: S311 - the same in every run


def failure(site_id: int | None, name: str | None = None, reason: FailureReason = EXPIRED) -> SitedFailure:
    return SitedFailure(reason, None if site_id is None else Site(site_id, UID2), name)


def add_all(sketch: SlotSketch, stream: Sequence[SitedFailure], period: int = SAMPLE_SIZE) -> None:
    """Add a stream of which all is looked at."""
    for start in range(0, len(stream), period):
        part = stream[start : start + period]
        sketch.add(len(part), part)


def zipf(random: Random, sites: int, length: int) -> list[int]:
    return random.choices(range(sites), [1 / (rank + 1) for rank in range(sites)], k=length)


def assert_within_bounds(sketch: SlotSketch, exact: Counter[int]) -> None:
    """Nothing is off by more than the sketch says, and that is at most a SITES-th of all."""
    total = exact.total()
    assert sketch.floor <= total / SITES + 1e-6
    assert len(sketch.sites) <= SITES
    for site_id, count in exact.items():
        tally = sketch.sites.get(site_id * len(IdentityScope) + UID2)
        if tally is None:
            assert count <= sketch.floor + 1e-6
        else:
            assert tally.seen - 1e-6 <= count <= tally.seen + tally.missed + 1e-6
            assert tally.missed <= sketch.floor + 1e-6
            assert sum(tally.reasons.values()) == pytest.approx(tally.seen)


@pytest.mark.parametrize("flood", [0.0, 0.5, 0.9])
def test_the_sketch_is_within_its_bounds_for_real_sites_amid_a_flood_of_made_up_ones(flood: float) -> None:
    random, sketch = seeded(5), SlotSketch(0)
    real = zipf(random, 3_000, 40_000)
    sites = [random.getrandbits(32) if random.random() < flood else site for site in real]
    add_all(sketch, [failure(site) for site in sites])
    exact = Counter(sites)
    assert_within_bounds(sketch, exact)
    heavy = {site for site, count in exact.items() if count > len(sites) / SITES}
    assert len(heavy) >= 2
    shown = merged([sketch]).describe()["sites"]
    assert heavy <= {each["site_id"] for each in shown}
    top = exact.most_common(1)[0]
    assert (shown[0]["site_id"], shown[0]["failures"]) == top  # it has had its place from the start


def test_a_site_that_begins_to_fail_after_a_flood_gets_its_place() -> None:
    random, sketch = seeded(6), SlotSketch(0)
    add_all(sketch, [failure(random.getrandbits(32)) for _ in range(20_000)])
    later = [failure(7 if number % 10 == 0 else random.getrandbits(32)) for number in range(5_000)]
    add_all(sketch, later)
    assert merged([sketch]).describe()["sites"][0]["site_id"] == 7
    assert sketch.sites[14].seen == 500


@given(st.lists(st.integers(0, 2**10), max_size=2_000), st.integers(1, 64))
def test_bounds_for_any_stream(sites: list[int], period: int) -> None:
    sketch = SlotSketch(0)
    add_all(sketch, [failure(site) for site in sites], period)
    assert sketch.failures == len(sites)
    assert_within_bounds(sketch, Counter(sites))


def test_memory_is_bounded_whatever_is_sent() -> None:
    random, sketch = seeded(7), SlotSketch(0)
    for number in range(20_000):
        name = f"{random.getrandbits(64):x}.example"
        sketch.add(1, [failure(number % 3 or random.getrandbits(32), name, random.choice(list(FailureReason)))])
    assert len(sketch.sites) == SITES
    assert max(len(tally.names) for tally in sketch.sites.values()) == NAMES
    assert max(len(tally.reasons) for tally in sketch.sites.values()) <= len(FailureReason)


# --- names


def test_the_name_most_often_given_is_found_amid_made_up_names() -> None:
    random, sketch = seeded(8), SlotSketch(0)
    names = ["news.example" if random.random() < 0.4 else f"{random.getrandbits(64):x}.example" for _ in range(20_000)]
    add_all(sketch, [failure(9, name) for name in names])
    (site,) = merged([sketch]).describe()["sites"]
    assert site["name"] == "news.example"
    exact = names.count("news.example") / len(names)
    assert exact - 1 / NAMES <= site["name_share"] <= exact + 1e-4


@given(st.lists(st.integers(0, 12), min_size=1, max_size=200))
def test_bounds_of_names(numbers: list[int]) -> None:
    sketch = SlotSketch(0)
    add_all(sketch, [failure(9, f"{number}.example") for number in numbers])
    (site,) = sketch.sites.values()
    assert len(site.names) <= NAMES
    for number, count in Counter(numbers).items():
        tally = site.names.get(f"{number}.example")
        if tally is None:
            assert count <= len(numbers) / NAMES
        else:
            assert tally.seen <= count <= tally.seen + tally.missed
            assert tally.missed <= len(numbers) / NAMES


def test_without_names_there_is_none() -> None:
    sketch = SlotSketch(0)
    sketch.add(2, [failure(9), failure(9)])
    (site,) = merged([sketch]).describe()["sites"]
    assert (site["name"], site["name_share"]) == (None, 0)


# --- the sum


def merged(sketches: Iterable[SlotSketch]) -> SiteFailures:
    found = SiteFailures()
    for sketch in sketches:
        found.add(sketch)
    return found


def test_what_is_shown() -> None:
    one, other = SlotSketch(0), SlotSketch(1)
    one.add(
        3, [failure(5, "a.example"), failure(5, "b.example"), failure(None, "c.example", FailureReason.BAD_ENCODING)]
    )
    other.add(3, [failure(5, "b.example", FailureReason.DOMAIN_NOT_LISTED), failure(6), failure(6)])
    other.add(2, [SitedFailure(EXPIRED, Site(5, EUID), None)])  # a sample of one in two
    assert merged([one, other]).describe() == {
        "failures": 8,
        "sampled": 7,
        "share_error": round(1.96 * math.sqrt(4 * 1 / 4) / 8, 4),
        "without_site": {"failures": 1, "reasons": {"bad_encoding": 1.0}},
        "sites": [
            {
                "site_id": 5,
                "scope": "UID2",
                "failures": 3,
                "share": 0.375,
                "reasons": {"expired": 0.6667, "domain_not_listed": 0.3333},
                "name": "b.example",
                "name_share": 0.6667,
            },
            {
                "site_id": 6,
                "scope": "UID2",
                "failures": 2,
                "share": 0.25,
                "reasons": {"expired": 1.0},
                "name": None,
                "name_share": 0.0,
            },
            {
                "site_id": 5,
                "scope": "EUID",
                "failures": 2,
                "share": 0.25,
                "reasons": {"expired": 1.0},
                "name": None,
                "name_share": 0.0,
            },
        ],
    }


def test_nothing_is_shown_of_nothing() -> None:
    assert merged([]).describe() == {
        "failures": 0,
        "sampled": 0,
        "share_error": 0.0,
        "without_site": {"failures": 0, "reasons": {}},
        "sites": [],
    }


def test_at_most_fifty_sites_are_shown() -> None:
    sketch = SlotSketch(0)
    add_all(sketch, [failure(site) for site in range(TOP + 20)])
    assert len(merged([sketch]).describe()["sites"]) == TOP


# --- the sample


def draw(failures: int, seed: int) -> list[Failure]:
    sample = FailureSample(seeded(seed))
    for number in range(failures):
        sample.note(EXPIRED, UID2, str(number), None)
    period = sample.take()
    assert period.failures == failures
    return period.sample


@pytest.mark.parametrize("failures", [0, 1, SAMPLE_SIZE - 1, SAMPLE_SIZE])
def test_a_few_failures_are_all_taken(failures: int) -> None:
    assert [each.token for each in draw(failures, 1)] == [str(number) for number in range(failures)]


@pytest.mark.parametrize("failures", [SAMPLE_SIZE + 1, 100, 1000])
def test_every_failure_of_a_period_is_as_likely_to_be_taken(failures: int) -> None:
    rounds = 4_000
    taken = Counter(int(each.token) for seed in range(rounds) for each in draw(failures, seed))
    assert taken.total() == rounds * SAMPLE_SIZE
    # In tenths of the period, within five standard deviations.
    tenths = Counter(dict.fromkeys(range(10), 0))
    sizes = Counter(number * 10 // failures for number in range(failures))
    for number, times in taken.items():
        tenths[number * 10 // failures] += times
    for tenth, times in tenths.items():
        share = sizes[tenth] / failures
        expected = taken.total() * share
        assert abs(times - expected) < 5 * math.sqrt(expected * (1 - share)) + 1


def test_periods_are_independent() -> None:
    sample = FailureSample(seeded(1))
    for number in range(100_000):
        sample.note(EXPIRED, UID2, str(number), None)
    assert sample.take().failures == 100_000
    sample.note(EXPIRED, UID2, "first", None)
    assert sample.take() == (1, [Failure(EXPIRED, UID2, "first", None)])
    assert sample.take() == (0, [])


class _Extreme(Random):
    """Random numbers at an end of their range."""

    def __init__(self, number: float) -> None:
        super().__init__()
        self.number = number

    def random(self) -> float:
        return self.number


@pytest.mark.parametrize("number", [0.0, 2.0**-53, 1 - 2.0**-53])
def test_no_random_number_raises(number: float) -> None:
    sample = FailureSample(_Extreme(number))
    for _ in range(1_000):
        sample.note(EXPIRED, UID2, "token", None)
    assert sample.take().failures == 1_000


def test_what_is_kept_of_a_failure() -> None:
    sample = FailureSample()
    names = NameCandidates(lambda: [("site.domain", ""), ("site.page", "News.example")])
    sample.note(EXPIRED, UID2, "token", names)
    sample.note(EXPIRED, None, "t" * 3_000, "n" * 300)
    sample.note(FailureReason.NOT_A_TOKEN, None, 7, None)
    assert sample.take().sample == [
        (EXPIRED, UID2, "token", "News.example"),
        (EXPIRED, None, "", None),
        (FailureReason.NOT_A_TOKEN, None, "", None),
    ]
    assert "token" not in repr(Failure(EXPIRED, UID2, "token", "name"))


def test_shares_are_within_the_stated_error() -> None:
    """For several sites, and far more failures than are looked at."""
    off = trials = 0
    shares = {1: 0.5, 2: 0.3, 3: 0.02}
    for seed in range(60):
        random, sketch, sample, exact = seeded(seed), SlotSketch(0), FailureSample(seeded(seed)), Counter[int]()
        for _ in range(20):
            for _ in range(random.choice([10, 200, 400])):
                site = random.choices([1, 2, 3, 4], [0.5, 0.3, 0.02, 0.18])[0]
                exact[site] += 1
                sample.note(EXPIRED, UID2, str(site), None)
            period = sample.take()
            sketch.add(period.failures, [failure(int(each.token)) for each in period.sample])
        found = merged([sketch])
        shown = {each["site_id"]: each["share"] for each in found.describe()["sites"]}
        assert 0 < found.share_error < 0.06
        trials += len(shares)
        off += sum(abs(shown.get(site, 0.0) - exact[site] / exact.total()) > found.share_error for site in shares)
    assert off <= 0.05 * trials
