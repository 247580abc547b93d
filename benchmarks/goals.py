"""The results that have a goal, with the required and the desired value of each."""

from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

Results = Mapping[str, Any]


class Goal(NamedTuple):
    """One row of the table. If `at_least` is above `aim`, lower values are better.

    Attributes:
        read: returns the value from the results; KeyError or IndexError if it was not measured.
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


def _core(version: str) -> Callable[[Results], float]:
    return lambda results: float(results["core"]["decrypt"][version]["ratio"])


def _stall(results: Results) -> float:
    (stall,) = (row for row in results["stall"] if row["domains"] == 60_000)
    return float(stall["refresh_median_ms"])


def _scraped(results: Results) -> float:
    return max(float(load["100"]["more_p99_us"]) / 1e3 for load in results["admin"].values())


GOALS = (
    Goal("service / nginx static, TCP, 16 connections", _ratio("service, TCP / nginx"), 0.50, 0.60),
    Goal(
        "service / nginx static, Unix socket, 16 connections",
        _ratio("service, Unix socket / nginx, Unix socket"),
        0.45,
        0.55,
    ),
    Goal("service / aiohttp application", _ratio("service, TCP / aiohttp application"), 4, 5),
    Goal("service / (FastAPI + uid2-client)", _ratio("service, TCP / FastAPI + uid2-client"), 30, 40),
    Goal("service with a different head on every request / nginx", _ratio("service, traceparent / nginx"), 0.40, 0.50),
    Goal("median latency at 1 connection / nginx", lambda r: r["http"]["one_connection_p50_ratio"], 1.6, 1.4),
    Goal("v4 in-process, µs: uid2-client / service", _core("v4"), 40, 60),
    Goal("v2 in-process, µs: uid2-client / service", _core("v2"), 10, 15),
    Goal(
        "batch of 64, tokens a second / single requests a second",
        lambda r: r["sweeps"]["batch size"]["64"]["tokens_to_singles"],
        2.2,
        3,
    ),
    Goal("50,000 keys against 10: throughput", lambda r: r["sweeps"]["keys"]["50000 keys"]["rps_to_first"], 0.95, 1),
    Goal("longest stall at a refresh of 5,000 keys, 60,000 domains, ms (median of refreshes)", _stall, 10, 5),
    Goal("resident memory with 5,000 keys, MB", lambda r: r["memory"]["service"]["used"]["rss"], 90, 60),
    Goal("p99 of the data plane with 100 scrapers against none: more, ms", _scraped, 1, 0.5),
)
