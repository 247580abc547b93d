"""Latency of the data plane while `/metrics` is scraped in a loop over many connections."""

import tempfile
from functools import partial
from pathlib import Path
from statistics import median
from typing import Any

from benchmarks.material import KeySet, write_requests
from benchmarks.rounds import interleave
from benchmarks.scrapers import scraping
from benchmarks.shots import Aim, Effort, Shot, shoot, summarise
from benchmarks.targets import key_server, service
from benchmarks.traffic import make_traffic, traffic_requests

SCRAPERS = {"0": 0, "1": 1, "4": 4, "100": 100}
_KEY_SET = KeySet(100)
_API_KEY = "admin"
_SHOTS = 2  # the length in other shots: a p99 needs many requests
# Closed loop over one connection, as a bidder's thread sends; and open loop, where no stall is hidden.
_LOADS = {"closed loop, 1 connection": (1, 0.0), "open loop, 2,000/s": (16, 2_000.0)}


def measure_admin(effort: Effort) -> dict[str, Any]:
    """Measure latency by the number of scrapers, interleaved."""
    with tempfile.TemporaryDirectory() as name:
        directory = Path(name)
        samples = make_traffic(_KEY_SET, effort.samples)
        requests = write_requests(directory / "requests", traffic_requests(samples))
        with (
            key_server(directory, {_API_KEY: _KEY_SET}) as url,
            service(directory, url, _API_KEY) as server,
        ):
            return {
                load: _measure(Aim(server, server.tcp, requests, connections), rate, effort)
                for load, (connections, rate) in _LOADS.items()
            }


def _measure(aim: Aim, rate: float, effort: Effort) -> dict[str, Any]:
    shots = interleave(
        effort.some({name: partial(_shoot, aim, count, rate, effort) for name, count in SCRAPERS.items()}),
        effort.sweep_rounds,
    )
    return {
        name: {**summarise(of_count), **{f"more_{q}_us": _growth(of_count, shots["0"], q) for q in ("p50", "p99")}}
        for name, of_count in shots.items()
    }


def _shoot(aim: Aim, scrapers: int, rate: float, effort: Effort) -> Shot:
    with scraping(aim.server.admin, scrapers):
        return shoot(aim, _SHOTS * effort.seconds, rate)


def _growth(shots: list[Shot], without: list[Shot], quantile: str) -> float:
    """Return the median over the rounds of the difference within each round."""
    return median(
        shot.load.quantiles_us[quantile] - other.load.quantiles_us[quantile]
        for shot, other in zip(shots, without, strict=True)
    )
