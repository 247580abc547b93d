"""Compares two builds of the package in one run, such as before and after a change."""

import tempfile
from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

from benchmarks.heads import TRACED
from benchmarks.material import KeySet, write_requests
from benchmarks.rounds import interleave, median_ratio
from benchmarks.shots import Aim, Effort, Shot, quantiles, rates, shoot, summarise
from benchmarks.targets import key_server, service
from benchmarks.targets.process import Server
from benchmarks.traffic import make_traffic, traffic_batches, traffic_requests

_KEY_SET = KeySet(100)
_API_KEY = "against"
_BATCH_SIZE = 64


def measure_against(package: Path, effort: Effort) -> dict[str, Any]:
    """Compare the package of this process with the one in a directory made by `pip install --target`.

    A ratio is the rate of this package divided by that of the other; for the median latency at one connection, the
    inverse. A ratio above 1 means that this package is faster.
    """
    with tempfile.TemporaryDirectory() as name, ExitStack() as stack:
        directory = Path(name)
        url = stack.enter_context(key_server(directory, {_API_KEY: _KEY_SET}))
        builds = {
            "this": stack.enter_context(service(directory, url, _API_KEY)),
            "other": stack.enter_context(service(directory, url, _API_KEY, package=package)),
        }
        kinds = _kinds(directory, effort, builds["this"])
        aims = {
            (kind, build): replace(aim, server=server, address=server.unix if kind == "Unix socket" else server.tcp)
            for kind, aim in kinds.items()
            for build, server in builds.items()
        }
        shots = interleave(
            {f"{kind}, {build}": partial(shoot, aim, effort.seconds) for (kind, build), aim in aims.items()},
            effort.rounds,
        )
        return {
            "ratios": {kind: _compare(kind, *(shots[f"{kind}, {build}"] for build in builds)) for kind in kinds},
            "throughput": {name: summarise(each) for name, each in shots.items()},
        }


def _kinds(directory: Path, effort: Effort, server: Server) -> dict[str, Aim]:
    """Return the workloads by name, all for one server."""
    samples = make_traffic(_KEY_SET, effort.samples)
    plain = write_requests(directory / "plain", traffic_requests(samples))
    traced = write_requests(directory / "traced", traffic_requests(samples, [TRACED]))
    batches = write_requests(directory / "batches", traffic_batches(samples, _BATCH_SIZE))
    return {
        "TCP": Aim(server, server.tcp, plain),
        "Unix socket": Aim(server, server.unix, plain),
        "traceparent": Aim(server, server.tcp, traced, vary_trace=True),
        "batches": Aim(server, server.tcp, batches),
        "one connection": Aim(server, server.tcp, plain, connections=1),
    }


def _compare(kind: str, this: Sequence[Shot], other: Sequence[Shot]) -> float:
    if kind == "one connection":
        return median_ratio(quantiles(other, "p50"), quantiles(this, "p50"))
    return median_ratio(rates(this), rates(other))
