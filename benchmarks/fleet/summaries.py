"""The figures of runs, as JSON."""

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from benchmarks.fleet.optouts_model import Feed, FeedRun, simulate_feed
from benchmarks.fleet.parameters import all_figures
from benchmarks.fleet.scenarios import Run, Scenario, key_scenarios, simulate
from benchmarks.fleet.snapshots_model import Rush, RushRun, simulate_rush

HOSTS = (10, 100, 1_000, 2_000, 10_000)
OPTOUT_RATES = (10.0, 100.0, 1_000.0, 5_000.0)
SNAPSHOT_IDS = (10e6, 100e6)
# What gathering opt-outs, reads in batches and rarer checks brought.
GAPS: Mapping[str, Mapping[str, Any]] = {
    "as it is": {},
    "before: none of that": {"append_gap_s": 0.0, "read_gap_s": 0.0, "check_every_s": 1.0},
    "appended at any time": {"append_gap_s": 0.0},
    "read at any time": {"read_gap_s": 0.0},
    "read at most twice a second": {"read_gap_s": 0.5},
    "checked every second": {"check_every_s": 1.0},
}


def describe_parameters() -> dict[str, dict[str, Any]]:
    """Return all figures that the model starts from."""
    return {name: figure._asdict() for name, figure in all_figures().items()}


def describe_run(run: Run) -> dict[str, Any]:
    """Return what servers and hosts saw."""
    scenario, operator = run.scenario, run.operator
    relays = run.relays
    return {
        "hosts": scenario.hosts,
        "relays": scenario.relays,
        "attempts_peak": operator.attempts.peak,
        "requests_peak": operator.requests.peak,
        "requests_an_hour": operator.requests.total / scenario.duration_s * 3600,
        "refused": operator.refused.total,
        "abandoned": operator.abandoned.total + sum(relay.abandoned.total for relay in relays),
        "bytes_peak": operator.sent_bytes.peak,
        "relay_requests_peak": max((relay.requests.peak for relay in relays), default=0.0),
        "relay_bytes_peak": max((relay.sent_bytes.peak for relay in relays), default=0.0),
        "not_initialized": run.not_initialized,
        "not_authorized": run.not_authorized,
        "unanswered": run.unanswered,
        "without_keys_peak": max(value for _, value in run.hosts.without_keys.changes),
        "level_after_s": run.level_after_s,
    }


def describe_feed(run: FeedRun) -> dict[str, float]:
    """Return what Redis and a receiver did, and how late opt-outs were."""
    feed, duration_s = run.feed, run.feed.duration_s
    return {
        "hosts": feed.hosts,
        "rate": feed.rate,
        "entries_per_s": run.entries / duration_s,
        "busy": min(1.0, run.busy_s / duration_s),
        "longest_turn_s": run.longest_turn_s,
        "redis_bytes_per_s": run.sent_bytes.total / duration_s,
        "receiver_requests_per_s": feed.rate / feed.receivers,
        **{f"delay_p{part}_s": run.delay_s(part / 100) for part in (50, 99, 100)},
    }


def describe_rush(run: RushRun) -> dict[str, float]:
    """Return what receivers did, and when hosts had their snapshots."""
    return {
        "hosts": run.rush.hosts,
        "ids": run.rush.ids,
        "written": max(run.written),
        "refused": sum(seen.refused.total for seen in run.receivers),
        "bytes_peak": max(seen.sent_bytes.peak for seen in run.receivers),
        "half_s": run.half_s,
        "last_s": run.last_s,
    }


def simulate_keys(hosts: Sequence[int]) -> Iterator[tuple[Scenario, Run]]:
    """Run all scenarios of keys."""
    for number in hosts:
        for scenario in key_scenarios(number):
            yield scenario, simulate(scenario)


def simulate_optouts(hosts: Sequence[int]) -> Iterator[tuple[str, FeedRun]]:
    """Run all feeds of opt-outs, as it is and with changes."""
    for name, gaps in GAPS.items():
        for number in hosts:
            for rate in OPTOUT_RATES:
                yield name, simulate_feed(Feed(hosts=number, rate=rate, **gaps))


def simulate_snapshots(hosts: Sequence[int]) -> Iterator[tuple[str, RushRun]]:
    """Run all rushes for snapshots."""
    for name, changes in RUSHES.items():
        for ids in SNAPSHOT_IDS:
            for number in hosts:
                yield name, simulate_rush(Rush(hosts=number, ids=ids, **changes))


_BEFORE: Mapping[str, Any] = {"counts_waiting": False, "at_once": 8}
RUSHES: Mapping[str, Mapping[str, Any]] = {
    "as it is": {},
    "before: a limit of 8 that did not count those that wait": _BEFORE,
    "with a limit of 8": {"at_once": 8},
    "before, and with the age from the beginning": {**_BEFORE, "age_from_end": False},
}
