"""A small fleet of real sidecars on this machine, and the simulation of the same.

First one sidecar alone tells what a start and a refresh cost. Then all are started; refresh in peace; meet a rotation;
and are killed and started again, all at once. The simulation gets these costs, the hosts and the times.
"""

import asyncio
import json
import os
import tempfile
import time
import urllib.request
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from statistics import median
from typing import Any

from benchmarks.fleet.parameters import Costs
from benchmarks.fleet.real_hosts import PROBES_PER_S, Material, Probe, RealHosts, counting_operator
from benchmarks.fleet.scenarios import Run, Scenario, simulate
from benchmarks.fleet.sources import OperatorPlan
from benchmarks.machine import describe
from benchmarks.targets.process import Server, free_port

KEYS, DOMAINS = 5_000, 60_000
INTERVAL_S = 60.0
STEADY_S, ROTATION_S, RESTART_S = 60.0, 45.0, 75.0
_TRIALS = 3
_LEVEL_TIMEOUT_S = 180.0
_POLL_S = 0.05
_LOOPBACK_BYTES_PER_S = 2e9  # more than what the processors can fill


@dataclass(slots=True)
class Part:
    """What happened after something was done to the fleet.

    Attributes:
        requests: at the operator, from that moment to the end of the part.
        level_s: from that moment until all hosts answered with the newest keys; 0 if they always did.
        per_second: requests at the operator in each second.
        not_level: hosts that did not answer with the newest keys, at the end of each second.
    """

    requests: int
    level_s: float
    per_second: list[float]
    not_level: list[int]


def measure_real(hosts: int) -> dict[str, Any]:
    """Run `hosts` sidecars, and simulate the same."""
    material = Material(KEYS, DOMAINS)
    with (
        tempfile.TemporaryDirectory(prefix="fleet") as name,
        counting_operator(Path(name), material) as (url, operator),
    ):
        costs = _calibrate(Path(name), url, operator)
        parts, cores = asyncio.run(_run_fleet(Path(name), url, hosts, material, operator))
    simulated = _simulate_parts(hosts, costs, cores)
    return {
        "machine": describe(),
        "hosts": hosts,
        "keys": KEYS,
        "domains": DOMAINS,
        "interval_s": INTERVAL_S,
        "costs": asdict(costs),
        "cores": round(cores, 2),
        "real": {part: asdict(seen) for part, seen in parts.items()},
        "simulated": {part: asdict(seen) for part, seen in simulated.items()},
    }


# One sidecar alone.


def _calibrate(directory: Path, url: str, operator: Server) -> Costs:
    """Measure what a start, an answer and a refresh cost."""
    hosts = RealHosts(directory, url, 1, 3600)
    totals, firsts, parses, pauses, serves = [], [], [], [], []
    for _ in range(_TRIALS):
        admin = f"127.0.0.1:{free_port()}"
        process = hosts.start(0, admin=admin)
        server = Server(process.pid, "", admin=admin)
        _wait(lambda: _metric(admin, "bidstream_key_refresh_duration_seconds_count") == 1)  # noqa: B023
        time.sleep(1)
        start_cpu_s = sum(server.cpu_s())
        served_cpu_s = sum(operator.cpu_s())
        first_s = _metric(admin, "bidstream_key_refresh_duration_seconds_sum")
        for refreshes in range(2, 5):
            os.kill(process.pid, 1)  # SIGHUP
            _wait(lambda: _metric(admin, "bidstream_key_refresh_duration_seconds_count") == refreshes)  # noqa: B023
        time.sleep(1)
        serve_cpu_s = (sum(operator.cpu_s()) - served_cpu_s) / 3
        refresh_cpu_s = (sum(server.cpu_s()) - start_cpu_s) / 3
        refresh_s = (_metric(admin, "bidstream_key_refresh_duration_seconds_sum") - first_s) / 3
        totals.append(start_cpu_s)
        firsts.append(first_s - serve_cpu_s)  # without pauses
        parses.append(refresh_cpu_s)
        serves.append(serve_cpu_s)
        pauses.append(max(0.0, refresh_s - refresh_cpu_s - serve_cpu_s))
        hosts.kill_all()
    response_bytes = _seen(url)[-1][1]
    return Costs(
        response_bytes=response_bytes,
        serve_cpu_s=round(median(serves), 4),
        parse_cpu_s=round(median(parses), 4),
        parse_pause_s=round(median(pauses), 3),
        start_cpu_s=round(median(totals) - min(firsts), 4),
        first_parse_cpu_s=round(min(firsts), 4),
        round_trip_s=0.0002,
        connect_s=0.0005,
    )


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
) -> tuple[dict[str, Part], float]:
    """Run the fleet. Returns what happened in each part, and how many cores the fleet got while it started again."""
    hosts = RealHosts(directory, url, count, INTERVAL_S)
    probe = Probe(hosts, count, material.requests[0])
    moments: dict[str, tuple[float, float]] = {}
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
        await asyncio.sleep(ROTATION_S)
        await _wait_until_level(hosts)
        await asyncio.to_thread(hosts.kill_all)
        moments["restart"] = time.monotonic(), RESTART_S
        used_s, begun_s = sum(operator.cpu_s()), time.monotonic()
        await asyncio.to_thread(hosts.start_all)
        await asyncio.sleep(1)
        await _wait_until_level(hosts)
        cores = (hosts.cpu_s() + sum(operator.cpu_s()) - used_s) / (time.monotonic() - begun_s)
        await asyncio.sleep(max(0.0, moments["restart"][0] + RESTART_S - time.monotonic()))
        asking.cancel()
    finally:
        await asyncio.to_thread(hosts.kill_all)
    arrived = [moment_s for moment_s, _ in await asyncio.to_thread(_seen, url)]
    return {part: _cut(hosts, arrived, *moment) for part, moment in moments.items()}, cores


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
        requests=len(since),
        level_s=round(after[-1][0], 2) if after else 0.0,
        per_second=[float(sum(second <= moment_s < second + 1 for moment_s in since)) for second in range(seconds)],
        not_level=hosts.not_level.at([begin_s + second + 1.0 for second in range(seconds)]),
    )


# The simulation.


def _simulate_parts(hosts: int, costs: Costs, cores: float) -> dict[str, Part]:
    plan = OperatorPlan(bytes_per_s=_LOOPBACK_BYTES_PER_S, single_bytes_per_s=_LOOPBACK_BYTES_PER_S)
    settle_s = 3 * INTERVAL_S
    begins = {"steady": settle_s, "rotation": settle_s + STEADY_S, "restart": settle_s + STEADY_S + ROTATION_S}
    run = simulate(
        Scenario(
            name="60 real hosts",
            hosts=hosts,
            duration_s=begins["restart"] + RESTART_S,
            interval_s=INTERVAL_S,
            operator=OperatorPlan(**{**_fields(plan), "rotations_s": (begins["rotation"],)}),
            restart_s=begins["restart"],
            tokens_per_s=PROBES_PER_S,
            ramp_s=0.0,
            costs=costs,
            cores=cores,
        )
    )
    lengths = {"steady": STEADY_S, "rotation": ROTATION_S, "restart": RESTART_S}
    return {part: _cut_run(run, begin_s, lengths[part]) for part, begin_s in begins.items()}


def _fields(plan: OperatorPlan) -> dict[str, Any]:
    return {name: getattr(plan, name) for name in plan.__slots__}


def _cut_run(run: Run, begin_s: float, duration_s: float) -> Part:
    seconds = int(duration_s)
    per_second = run.operator.requests.values(begin_s + duration_s)[int(begin_s) :]
    not_level = run.hosts.not_level
    after = [at_s - begin_s for at_s, _ in not_level.changes if begin_s < at_s < begin_s + duration_s]
    return Part(
        requests=round(sum(per_second)),
        level_s=round(after[-1], 2) if after else 0.0,
        per_second=per_second,
        not_level=not_level.at([begin_s + second + 1.0 for second in range(seconds)]),
    )
