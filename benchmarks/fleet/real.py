"""A small fleet of real sidecars on this machine, and the simulation of the same.

First one sidecar alone tells what a start and a refresh cost. Then all are started; refresh in peace; meet a rotation;
and are killed and started again, all at once. The simulation gets these costs, the hosts and the times.
"""

import asyncio
import json
import signal
import tempfile
import time
import urllib.request
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from statistics import median
from typing import Any, NamedTuple

from benchmarks.fleet.parameters import Costs
from benchmarks.fleet.real_hosts import PROBES_PER_S, Material, Probe, RealHosts, counting_operator
from benchmarks.fleet.scenarios import Run, Scenario, simulate
from benchmarks.fleet.sources import OperatorPlan
from benchmarks.machine import describe
from benchmarks.targets.process import Server, free_port

MODEL_KEYS, MODEL_DOMAINS = 5_000, 60_000  # of which the model needs the costs
KEYS, DOMAINS = 1_000, 12_000  # of the fleet: its hosts share a few cores
INTERVAL_S = 60.0
STEADY_S, ROTATION_S, RESTART_S = 60.0, 45.0, 75.0
_TRIALS, _REFRESHES = 3, 3
_DURATION = "bidstream_key_refresh_duration_seconds"
_LEVEL_TIMEOUT_S = 300.0
_POLL_S = 0.05
_LOOPBACK_BYTES_PER_S = 2e9  # more than what the processors can fill


@dataclass(slots=True)
class Part:
    """What happened after something was done to the fleet.

    Attributes:
        duration_s: of the part.
        requests: at the operator, from that moment to the end of the part.
        level_s: from that moment until all hosts answered with the newest keys; 0 if they always did.
        per_second: requests at the operator in each second.
        not_level: hosts that did not answer with the newest keys, at the end of each second.
    """

    duration_s: float
    requests: int
    level_s: float
    per_second: list[float]
    not_level: list[int]


def measure_real(hosts: int) -> dict[str, Any]:
    """Run `hosts` sidecars, and simulate the same."""
    model_costs = _calibrate(Material(MODEL_KEYS, MODEL_DOMAINS))
    material = Material(KEYS, DOMAINS)
    costs = _calibrate(material)
    with (
        tempfile.TemporaryDirectory(prefix="fleet") as name,
        counting_operator(Path(name), material) as (url, operator),
    ):
        parts, cores = asyncio.run(_run_fleet(Path(name), url, hosts, material, operator))
    # Other work on the machine takes a share that differs from part to part.
    simulated = {
        part: _simulate(hosts, costs, cores.get(part, max(cores.values())), part, parts[part].duration_s)
        for part in parts
    }
    return {
        "machine": describe(),
        "model": {"keys": MODEL_KEYS, "domains": MODEL_DOMAINS, "costs": asdict(model_costs)},
        "hosts": hosts,
        "keys": KEYS,
        "domains": DOMAINS,
        "interval_s": INTERVAL_S,
        "costs": asdict(costs),
        "cores": {part: round(number, 2) for part, number in cores.items()},
        "real": {part: asdict(seen) for part, seen in parts.items()},
        "simulated": {part: asdict(seen) for part, seen in simulated.items()},
    }


# One sidecar alone.


def _calibrate(material: Material) -> Costs:
    """Measure what a start, an answer and a refresh cost, with one sidecar alone."""
    with (
        tempfile.TemporaryDirectory(prefix="fleet") as name,
        counting_operator(Path(name), material) as (url, operator),
    ):
        hosts = RealHosts(Path(name), url, 1, 3600)
        try:
            samples = [_measure_start(hosts, operator) for _ in range(_TRIALS)]
        finally:
            hosts.kill_all()
        response_bytes = _seen(url)[-1][1]
    first_s = min(sample.first_s for sample in samples)
    return Costs(
        response_bytes=response_bytes,
        serve_cpu_s=round(median(sample.serve_cpu_s for sample in samples), 4),
        first_parse_cpu_s=round(first_s, 4),
        parse_cpu_s=round(median(sample.refresh_cpu_s for sample in samples), 4),
        parse_pause_s=round(median(sample.pause_s for sample in samples), 3),
        start_cpu_s=round(median(sample.start_cpu_s for sample in samples) - first_s, 4),
        round_trip_s=0.0002,
        connect_s=0.0005,
    )


class _Sample(NamedTuple):
    """What one start and its refreshes took: `first_s` for the first keys, and `start_cpu_s` with them."""

    start_cpu_s: float
    first_s: float
    serve_cpu_s: float
    refresh_cpu_s: float
    pause_s: float


def _measure_start(hosts: RealHosts, operator: Server) -> _Sample:
    admin = f"127.0.0.1:{free_port()}"
    process = hosts.start(0, admin=admin)
    server = Server(process.pid, "", admin=admin)
    _wait_for_refreshes(admin, 1)
    start_cpu_s, served_cpu_s = sum(server.cpu_s()), sum(operator.cpu_s())
    first_s = _metric(admin, f"{_DURATION}_sum")
    for refreshes in range(2, 2 + _REFRESHES):
        process.send_signal(signal.SIGHUP)
        _wait_for_refreshes(admin, refreshes)
    serve_cpu_s = (sum(operator.cpu_s()) - served_cpu_s) / _REFRESHES
    refresh_cpu_s = (sum(server.cpu_s()) - start_cpu_s) / _REFRESHES
    refresh_s = (_metric(admin, f"{_DURATION}_sum") - first_s) / _REFRESHES
    hosts.kill_all()
    pause_s = max(0.0, refresh_s - refresh_cpu_s - serve_cpu_s)
    return _Sample(start_cpu_s, first_s - serve_cpu_s, serve_cpu_s, refresh_cpu_s, pause_s)


def _wait_for_refreshes(admin: str, count: int) -> None:
    _wait(lambda: _metric(admin, f"{_DURATION}_count") >= count)
    time.sleep(1)  # replaced keys are freed in steps


def _metric(admin: str, name: str) -> float:
    """Return a metric, summed over its labels; 0 as long as the sidecar does not answer."""
    try:
        with urllib.request.urlopen(f"http://{admin}/metrics", timeout=5) as answer:
            lines = answer.read().decode().splitlines()
    except OSError:
        return 0.0
    return sum(float(line.rpartition(" ")[2]) for line in lines if line.startswith((name + "{", name + " ")))


def _wait(is_done: Callable[[], bool]) -> None:
    deadline_s = time.monotonic() + _LEVEL_TIMEOUT_S
    while not is_done():
        if time.monotonic() > deadline_s:
            raise TimeoutError("a sidecar does not get keys")
        time.sleep(_POLL_S)


def _seen(url: str) -> list[tuple[float, int]]:
    with urllib.request.urlopen(f"{url}/seen", timeout=10) as answer:
        seen: list[tuple[float, int]] = json.loads(answer.read())
        return seen


def _rotate(url: str) -> float:
    with urllib.request.urlopen(urllib.request.Request(f"{url}/rotate", data=b"{}"), timeout=10) as answer:
        rotated_s: float = json.loads(answer.read())
        return rotated_s


# All of them.


async def _run_fleet(
    directory: Path, url: str, count: int, material: Material, operator: Server
) -> tuple[dict[str, Part], dict[str, float]]:
    """Run the fleet. Returns what happened in each part, and how many cores the fleet got until it was level again."""
    hosts = RealHosts(directory, url, count, INTERVAL_S)
    probe = Probe(hosts, count, material.requests[0])
    moments: dict[str, tuple[float, float]] = {}
    cores: dict[str, float] = {}
    try:
        for number in range(count):  # out of step
            hosts.start(number)
            await asyncio.sleep(INTERVAL_S / count)
        asking = asyncio.create_task(probe.run())
        await asyncio.sleep(2)
        await _wait_until_level(hosts)
        moments["steady"] = time.monotonic(), STEADY_S
        await asyncio.sleep(STEADY_S)
        moments["rotation"] = await asyncio.to_thread(_rotate, url), ROTATION_S
        probe.request = material.requests[1]
        cores["rotation"] = await _cores_until_level(hosts, operator)
        moments["rotation"] = await _finish(*moments["rotation"])
        await asyncio.to_thread(hosts.kill_all)
        moments["restart"] = time.monotonic(), RESTART_S
        await asyncio.to_thread(hosts.start_all)
        cores["restart"] = await _cores_until_level(hosts, operator)
        moments["restart"] = await _finish(*moments["restart"])
        asking.cancel()
    finally:
        await asyncio.to_thread(hosts.kill_all)
    arrived = [moment_s for moment_s, _ in await asyncio.to_thread(_seen, url)]
    return {part: _cut(hosts, arrived, *moment) for part, moment in moments.items()}, cores


async def _finish(begin_s: float, duration_s: float) -> tuple[float, float]:
    """Wait for the end of a part, whose hosts are level by now. It is later if that took long."""
    duration_s = max(duration_s, time.monotonic() - begin_s + 5)
    await asyncio.sleep(begin_s + duration_s - time.monotonic())
    return begin_s, duration_s


async def _cores_until_level(hosts: RealHosts, operator: Server) -> float:
    """Return how many cores hosts and operator got from now on until all hosts are level, which they are not yet."""
    used_s, begun_s = hosts.cpu_s() + sum(operator.cpu_s()), time.monotonic()
    await asyncio.sleep(1)
    await _wait_until_level(hosts)
    return (hosts.cpu_s() + sum(operator.cpu_s()) - used_s) / (time.monotonic() - begun_s)


async def _wait_until_level(hosts: RealHosts) -> None:
    async with asyncio.timeout(_LEVEL_TIMEOUT_S):
        while hosts.not_level.value:  # noqa: ASYNC110 - it has no event
            await asyncio.sleep(_POLL_S)


def _cut(hosts: RealHosts, arrived: list[float], begin_s: float, duration_s: float) -> Part:
    """Cut out what happened from a moment on, for so long."""
    since = [moment_s - begin_s for moment_s in arrived if begin_s <= moment_s < begin_s + duration_s]
    seconds = int(duration_s)
    changes = [(at_s - begin_s, value) for at_s, value in hosts.not_level.changes if at_s - begin_s < duration_s]
    after = [(at_s, value) for at_s, value in changes if at_s > 0]
    return Part(
        duration_s=duration_s,
        requests=len(since),
        level_s=round(after[-1][0], 2) if after else 0.0,
        per_second=[float(sum(second <= moment_s < second + 1 for moment_s in since)) for second in range(seconds)],
        not_level=hosts.not_level.at([begin_s + second + 1.0 for second in range(seconds)]),
    )


# The simulation.


def _simulate(hosts: int, costs: Costs, cores: float, part: str, duration_s: float) -> Part:
    settle_s = 3 * INTERVAL_S
    begins = {"steady": settle_s, "rotation": settle_s + STEADY_S, "restart": settle_s + STEADY_S + ROTATION_S}
    plan = OperatorPlan(
        bytes_per_s=_LOOPBACK_BYTES_PER_S,
        single_bytes_per_s=_LOOPBACK_BYTES_PER_S,
        rotations_s=(begins["rotation"],),
    )
    scenario = Scenario(
        name=part,
        hosts=hosts,
        duration_s=begins[part] + duration_s,
        interval_s=INTERVAL_S,
        operator=plan,
        restart_s=begins["restart"] if part == "restart" else None,
        tokens_per_s=PROBES_PER_S,
        ramp_s=0.0,
        costs=costs,
        cores=cores,
    )
    return _cut_run(simulate(scenario), begins[part], duration_s)


def _cut_run(run: Run, begin_s: float, duration_s: float) -> Part:
    seconds = int(duration_s)
    per_second = run.operator.requests.values(begin_s + duration_s)[int(begin_s) :]
    not_level = run.hosts.not_level
    after = [at_s - begin_s for at_s, _ in not_level.changes if begin_s < at_s < begin_s + duration_s]
    return Part(
        duration_s=duration_s,
        requests=round(sum(per_second)),
        level_s=round(after[-1], 2) if after else 0.0,
        per_second=per_second,
        not_level=not_level.at([begin_s + second + 1.0 for second in range(seconds)]),
    )
