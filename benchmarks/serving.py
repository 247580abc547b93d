"""Throughput and latency over HTTP of nginx, of the service, and of an application on the published SDK."""

import tempfile
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import replace
from functools import partial
from pathlib import Path
from statistics import median
from typing import Any

from benchmarks.material import TRACE_HEADER, KeySet, decrypt_requests, make_samples, write_requests
from benchmarks.rounds import interleave, median_ratio
from benchmarks.shots import Aim, Effort, Shot, rates, shoot, summarise
from benchmarks.targets import CHECKOUT, fastapi_client, find_nginx, key_server, nginx, service
from bidstream_svc import is_native

_KEY_SET = KeySet(100)
_API_KEY = "serving"
_CURVE_CONNECTIONS = 64
_CURVE_SHOTS = 2  # the length in other shots: high quantiles at low rates need more time
_CURVE_RATES = (500, 1_000, 2_000, 5_000, 10_000, 20_000, 30_000, 45_000, 60_000, 80_000, 100_000, 130_000, 160_000)
_CURVE_TARGETS = ("nginx", "service, TCP", "service, Unix socket", "aiohttp application", "FastAPI + uid2-client")
# (numerator, denominator); a ratio is named after both.
_RATIOS = (
    ("service, TCP", "nginx"),
    ("service, Unix socket", "nginx, Unix socket"),
    ("service, TCP, interpreted", "nginx"),
    ("service, Unix socket, interpreted", "nginx, Unix socket"),
    ("service, traceparent", "nginx"),
    ("service, TCP", "aiohttp application"),
    ("service, TCP", "FastAPI + uid2-client"),
)


def measure_serving(effort: Effort) -> dict[str, Any]:
    """Measure throughput at 16 connections, latency at one, and latency against offered load, all in one run."""
    with tempfile.TemporaryDirectory() as directory, _targets(Path(directory), effort) as aims:
        shots = {name: partial(shoot, aim, effort.seconds) for name, aim in aims.items()}
        throughput = interleave(shots, effort.rounds)
        capacity = {name: median(rates(shots)) for name, shots in throughput.items()}
        alone = _at_one_connection(aims, effort)
        return {
            "connections": 16,
            "throughput": {name: summarise(shots) for name, shots in throughput.items()},
            "ratios": {
                f"{above} / {below}": median_ratio(rates(throughput[above]), rates(throughput[below]))
                for above, below in _RATIOS
                if {above, below} <= throughput.keys()
            },
            "one_connection": {name: summarise(shots) for name, shots in alone.items()},
            "one_connection_p50_ratio": _p50_ratio(alone),
            "curve": _curve(aims, capacity, effort),
        }


@contextmanager
def _targets(directory: Path, effort: Effort) -> Iterator[dict[str, Aim]]:
    """Start the servers. Those that are compared are adjacent, because the speed of the machine drifts."""
    samples = make_samples(_KEY_SET, effort.samples)
    prepared = decrypt_requests(samples)
    requests = write_requests(directory / "requests", prepared)
    traced = write_requests(directory / "traced", decrypt_requests(samples, [TRACE_HEADER]))
    answer = prepared[0][1]
    static = write_requests(directory / "static", [(request, answer) for request, _ in prepared])
    with ExitStack() as stack:
        aims = {}
        yardstick = None if find_nginx() is None else stack.enter_context(nginx(directory, answer))
        if yardstick is None:
            print("nginx is not installed: no comparison with it (Debian: apt-get install nginx-light)")
        else:
            aims["nginx"] = Aim(yardstick, yardstick.tcp, static)
        url = stack.enter_context(key_server(directory, {_API_KEY: _KEY_SET}))
        ours = stack.enter_context(service(directory, url, _API_KEY))
        servers = {"": ours}
        if is_native:
            servers[", interpreted"] = stack.enter_context(service(directory, url, _API_KEY, package=CHECKOUT))
        aims |= {f"service, TCP{kind}": Aim(server, server.tcp, requests) for kind, server in servers.items()}
        aims["service, traceparent"] = Aim(ours, ours.tcp, traced, vary_trace=True)
        if yardstick is not None:
            aims["nginx, Unix socket"] = Aim(yardstick, yardstick.unix, static)
        aims |= {f"service, Unix socket{kind}": Aim(server, server.unix, requests) for kind, server in servers.items()}
        plain = stack.enter_context(service(directory, url, _API_KEY, with_fast_path=False))
        aims["aiohttp application"] = Aim(plain, plain.tcp, requests)
        user = stack.enter_context(fastapi_client(directory, url, _API_KEY))
        aims["FastAPI + uid2-client"] = Aim(user, user.tcp, requests)
        yield aims


def _at_one_connection(aims: dict[str, Aim], effort: Effort) -> dict[str, list[Shot]]:
    shots = {
        name: partial(shoot, replace(aim, connections=1), effort.seconds)
        for name, aim in aims.items()
        if name != "service, traceparent" and not name.endswith("interpreted")
    }
    return interleave(shots, effort.rounds)


def _p50_ratio(alone: dict[str, list[Shot]]) -> float | None:
    if "nginx" not in alone:
        return None
    ours, theirs = ([shot.load.quantiles_us["p50"] for shot in alone[name]] for name in ("service, TCP", "nginx"))
    return median_ratio(ours, theirs)


def _curve(aims: dict[str, Aim], capacity: dict[str, float], effort: Effort) -> dict[str, list[dict[str, Any]]]:
    """Measure latency at each offered rate below a target's capacity: all targets at one rate, then the next rate."""
    curve: dict[str, list[dict[str, Any]]] = {name: [] for name in _CURVE_TARGETS if name in aims}
    for rate in _CURVE_RATES:
        for name, points in curve.items():
            if rate > capacity[name]:
                continue
            shot = shoot(replace(aims[name], connections=_CURVE_CONNECTIONS), _CURVE_SHOTS * effort.seconds, rate)
            points.append({"rate": rate, "rps": shot.load.rps, "quantiles_us": shot.load.quantiles_us})
    return curve
