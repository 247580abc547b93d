"""The results that have a goal, with the required and the desired value of each."""

from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

Results = Mapping[str, Any]


class Goal(NamedTuple):
    """One row of the table. If `at_least` is above `aim`, lower values are better.

    Attributes:
        read: returns the value from the results; KeyError or ValueError if it was not measured, None without nginx.
        at_least: the required value.
        aim: the desired value.
    """

    name: str
    read: Callable[[Results], float | None]
    at_least: float
    aim: float

    def verdict(self, value: float) -> str:
        """Return whether a value reaches the goal, as text for the table."""
        sign = 1 if self.aim >= self.at_least else -1
        if sign * value >= sign * self.aim:
            return "aim met"
        return "met" if sign * value >= sign * self.at_least else "MISSED"


def _ratio(name: str) -> Callable[[Results], float]:
    return lambda results: float(results["http"]["ratios"][name])


def _kernel(version: str) -> Callable[[Results], float]:
    return lambda results: float(results["kernel"]["tokens"][version]["uid2_client / kernel"])


def _openrtb(route: str) -> Callable[[Results], float]:
    return lambda results: float(results["openrtb"]["http"][f"{route}, 3.3 KB"]["rps_to_decrypt"])


def _enforcement(results: Results) -> float:
    return float(results["enforcement"]["10,000,000 ids, none of them sent"]["rps_to_without"])


def _failures(results: Results) -> float:
    return float(results["failures"]["http"]["all tokens fail"]["rps_to_without"])


def _slowest_head(results: Results) -> float:
    return min(float(row["rps_to_plain"]) for row in results["heads"].values())


def _user_time(results: Results) -> float:
    servers = results["http"]["throughput"]
    return float(servers["service, TCP"]["user_us"] - servers["uvloop, fixed answer"]["user_us"])


def _stall(results: Results) -> float:
    (stall,) = (row for row in results["stall"] if row["domains"] == 60_000)
    return float(stall["beyond_idle_ms"])


GOALS = (
    Goal("service / nginx static, TCP, 16 connections", _ratio("service, TCP / nginx"), 0.80, 0.92),
    Goal(
        "service / nginx static, Unix socket, 16 connections",
        _ratio("service, Unix socket / nginx, Unix socket"),
        0.68,
        0.80,
    ),
    Goal("another `traceparent` in every request / nginx", _ratio("service, traceparent / nginx"), 0.72, 0.85),
    Goal("head of a stock client, the slowest / plain head", _slowest_head, 0.90, 0.97),
    Goal("service / (FastAPI + uid2-client)", _ratio("service, TCP / FastAPI + uid2-client"), 50, 58),
    Goal("median latency at 1 connection / nginx", lambda r: r["http"]["one_connection_p50_ratio"], 1.10, 1.0),
    Goal("v4, from body to answer: uid2-client / kernel", _kernel("v4"), 300, 450),
    Goal("v2, from body to answer: uid2-client / kernel", _kernel("v2"), 120, 180),
    Goal("user time of a request above that of a fixed answer on uvloop, µs", _user_time, 0.9, 0.6),
    Goal(
        "batch of 64, tokens a second / single requests a second",
        lambda r: r["sweeps"]["batch size"]["64"]["tokens_to_singles"],
        6,
        9,
    ),
    Goal(
        "30 % failing tokens / all good: throughput",
        lambda r: r["sweeps"]["failing tokens"]["30 % fail"]["rps_to_first"],
        0.75,
        0.9,
    ),
    Goal("`/openrtb` with 3.3 KB and one of five eids ours / `/decrypt`", _openrtb("/openrtb"), 0.50, 0.65),
    Goal("`/openrtb/rewrite` of the same / `/decrypt`", _openrtb("/openrtb/rewrite"), 0.40, 0.55),
    Goal("`/decrypt` with an opt-out store of 10 M other ids / without", _enforcement, 0.93, 0.98),
    Goal("failing tokens counted by site / not counted: throughput", _failures, 0.97, 0.99),
    Goal(
        "p99 at 50 % load / nginx at the same rate",
        lambda r: r["http"]["half_load_p99_ratio"],
        1.3,
        1.1,
    ),
    Goal(
        "longest stall at a refresh of 5,000 keys, 60,000 domains, beyond the machine's own, ms (median of refreshes)",
        _stall,
        3,
        1,
    ),
    Goal("resident memory of a worker with 5,000 keys, MB", lambda r: r["memory"]["service"]["used"]["rss"], 75, 60),
)
