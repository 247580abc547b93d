"""Throughput and latency over HTTP of nginx, of the service, and of an application on the published SDK."""

import tempfile
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import replace
from functools import partial
from pathlib import Path
from statistics import median
from typing import Any

from benchmarks.heads import TRACED
from benchmarks.material import KeySet, write_requests
from benchmarks.rounds import interleave, median_ratio
from benchmarks.shots import Aim, Effort, Shot, quantiles, rates, shoot, summarise
from benchmarks.targets import fastapi_client, find_nginx, fixed_answer, key_server, nginx, service
from benchmarks.traffic import make_traffic, traffic_requests

_KEY_SET = KeySet(100)
_API_KEY = "serving"
_OPEN_CONNECTIONS = 64
_OPEN_SHOTS = 2  # the length in other shots: high quantiles at low rates need more time
_CURVE_RATES = (500, 2_000, 5_000, 10_000, 20_000, 40_000, 60_000, 80_000, 100_000, 130_000, 160_000)
_CURVE_TARGETS = ("nginx", "service, TCP", "service, Unix socket", "FastAPI + uid2-client")
# (numerator, denominator); a ratio is named after both.
_RATIOS = (
    ("service, TCP", "nginx"),
    ("service, Unix socket", "nginx, Unix socket"),
    ("service, TCP, interpreted", "nginx"),
    ("service, Unix socket, interpreted", "nginx, Unix socket"),
    ("service, TCP, from the wheel", "nginx"),
    ("service, traceparent", "nginx"),
    ("uvloop, fixed answer", "nginx"),
    ("service, TCP", "aiohttp application"),
    ("service, TCP", "FastAPI + uid2-client"),
)


def measure_serving(effort: Effort, package: Path | None) -> dict[str, Any]:
    """Measure throughput at 16 connections, latency at one, and latency against offered load, all in one run."""
    with tempfile.TemporaryDirectory() as directory, _targets(Path(directory), effort, package) as aims:
        shots = {name: partial(shoot, aim, effort.seconds) for name, aim in aims.items()}
        throughput = interleave(shots, effort.rounds)
        capacity = {name: median(rates(shots)) for name, shots in throughput.items()}
        alone = _at_one_connection(aims, effort)
        half_rate = capacity["service, TCP"] / 2
        half = _at_rate(aims, half_rate, effort)
        return {
            "connections": 16,
            "throughput": {name: summarise(shots) for name, shots in throughput.items()},
            "ratios": {
                f"{above} / {below}": median_ratio(rates(throughput[above]), rates(throughput[below]))
                for above, below in _RATIOS
                if {above, below} <= throughput.keys()
            },
            "one_connection": {name: summarise(shots) for name, shots in alone.items()},
            "one_connection_p50_ratio": _to_nginx(alone, "p50"),
            "half_load": {name: summarise(shots) for name, shots in half.items()},
            "half_load_rate": half_rate,
            "half_load_p99_ratio": _to_nginx(half, "p99"),
            "curve": _curve(aims, capacity, effort),
        }


@contextmanager
def _targets(directory: Path, effort: Effort, package: Path | None) -> Iterator[dict[str, Aim]]:
    """Start the servers. Those that are compared are adjacent, because the speed of the machine drifts."""
    samples = make_traffic(_KEY_SET, effort.samples)
    prepared = traffic_requests(samples)
    requests = write_requests(directory / "requests", prepared)
    traced = write_requests(directory / "traced", traffic_requests(samples, [TRACED]))
    answer = samples[0].answer()
    static = write_requests(directory / "static", [(request, answer) for request, _ in prepared])
    with ExitStack() as stack:
        start = stack.enter_context
        limit = start(fixed_answer(directory, answer))
        yardstick = None if find_nginx() is None else start(nginx(directory, answer))
        url = start(key_server(directory, {_API_KEY: _KEY_SET}))
        ours = start(service(directory, url, _API_KEY))
        interpreted = start(service(directory, url, _API_KEY, without="kernel"))
        plain = start(service(directory, url, _API_KEY, without="fast path"))
        user = start(fastapi_client(directory, url, _API_KEY))
        aims = {"uvloop, fixed answer": Aim(limit, limit.tcp, static)}
        if yardstick is None:
            print("nginx is not installed: no comparison with it (Debian: apt-get install nginx-light)")
        else:
            aims["nginx"] = Aim(yardstick, yardstick.tcp, static)
        aims["service, TCP"] = Aim(ours, ours.tcp, requests)
        aims["service, traceparent"] = Aim(ours, ours.tcp, traced, vary_trace=True)
        aims["service, TCP, interpreted"] = Aim(interpreted, interpreted.tcp, requests)
        if package is not None:
            wheel = start(service(directory, url, _API_KEY, package=package))
            aims["service, TCP, from the wheel"] = Aim(wheel, wheel.tcp, requests)
        if yardstick is not None:
            aims["nginx, Unix socket"] = Aim(yardstick, yardstick.unix, static)
        aims["service, Unix socket"] = Aim(ours, ours.unix, requests)
        aims["service, Unix socket, interpreted"] = Aim(interpreted, interpreted.unix, requests)
        aims["aiohttp application"] = Aim(plain, plain.tcp, requests)
        aims["FastAPI + uid2-client"] = Aim(user, user.tcp, requests)
        yield aims


def _at_one_connection(aims: Mapping[str, Aim], effort: Effort) -> dict[str, list[Shot]]:
    shots = {
        name: partial(shoot, replace(aim, connections=1), effort.seconds)
        for name, aim in aims.items()
        if name != "service, traceparent" and not name.endswith("interpreted")
    }
    return interleave(shots, effort.rounds)


def _at_rate(aims: Mapping[str, Aim], rate: float, effort: Effort) -> dict[str, list[Shot]]:
    """Offer the same rate to nginx and to the service, in an open loop."""
    names = [name for name in ("nginx", "service, TCP") if name in aims]
    return interleave({name: partial(_shoot_open, aims[name], rate, effort) for name in names}, effort.rounds)


def _shoot_open(aim: Aim, rate: float, effort: Effort) -> Shot:
    return shoot(replace(aim, connections=_OPEN_CONNECTIONS), _OPEN_SHOTS * effort.seconds, rate)


def _to_nginx(shots: Mapping[str, list[Shot]], quantile: str) -> float | None:
    if "nginx" not in shots:
        return None
    return median_ratio(quantiles(shots["service, TCP"], quantile), quantiles(shots["nginx"], quantile))


def _curve(aims: Mapping[str, Aim], capacity: Mapping[str, float], effort: Effort) -> dict[str, list[dict[str, Any]]]:
    """Measure latency at each offered rate below a target's capacity: all targets at one rate, then the next rate."""
    curve: dict[str, list[dict[str, Any]]] = {name: [] for name in _CURVE_TARGETS if name in aims}
    for rate in effort.some({str(rate): rate for rate in _CURVE_RATES}).values():
        for name, points in curve.items():
            if rate > capacity[name]:
                continue
            shot = _shoot_open(aims[name], rate, effort)
            points.append({"rate": rate, "rps": shot.load.rps, "quantiles_us": shot.load.quantiles_us})
    return curve
