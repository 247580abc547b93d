"""`python -m benchmarks.fleet all|keys|optouts|snapshots|real|redis|snapshot [--hosts N ...] [--quick]`.

- keys, optouts, snapshots: the simulations; all: the three of them, some minutes, half of them for 10,000 hosts.
  With --quick, up to 1,000 hosts.
- real: real sidecars on this machine (60, or --hosts), and the simulation of them, about 5 minutes; needs 4 GB.
- redis: what followers cost a real Redis, about 30 seconds; needs redis-server.
- snapshot: what a snapshot costs a receiver and a host, about a minute.

What is complete is kept in benchmarks/results/fleet; quick runs go to benchmarks/.cache/results/fleet.
"""

import argparse
import json
import time
from collections import defaultdict
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from benchmarks.figures import KEPT
from benchmarks.fleet import pictures, summaries
from benchmarks.fleet.real import measure_real
from benchmarks.fleet.redis_costs import measure_redis
from benchmarks.fleet.scenarios import Run
from benchmarks.fleet.snapshot_costs import measure_snapshot
from benchmarks.fleet.tables import render_fleet

_CACHE = Path(__file__).parents[1] / ".cache" / "results"
_REAL_HOSTS = 60
_DRAWN_HOSTS = 2_000  # a large fleet
_QUICK_HOSTS = 1_000

_ROTATIONS = ("rotation", "rotation, 429 beyond 20/s", "rotation, 429 without Retry-After", "rotation, 2 relays")
_RESTARTS = (
    *("restart of all", "restart of all, key cache", "restart of all, 429 beyond 20/s"),
    *("restart of all, 2 relays", "rolling restart, 2 % at once"),
)
_OUTAGES = ("operator down for an hour", "operator down for an hour, 2 relays")


def main() -> None:
    arguments = _parse_arguments()
    directory = (_CACHE if arguments.quick else KEPT) / "fleet"
    directory.mkdir(parents=True, exist_ok=True)
    hosts = [number for number in summaries.HOSTS if not arguments.quick or number <= _QUICK_HOSTS]
    match arguments.what:
        case "real":
            results = measure_real((arguments.hosts or [_REAL_HOSTS])[0])
            _keep(results, directory / "real.json")
            pictures.draw_real(results, directory / "real.png")
        case "redis":
            _keep(measure_redis(), directory / "redis.json")
        case "snapshot":
            _keep(measure_snapshot(), directory / "snapshot.json")
        case what:
            for part in ("keys", "optouts", "snapshots") if what == "all" else (what,):
                _PARTS[part](arguments.hosts or hosts, directory)
    kept = {path.stem: json.loads(path.read_text(encoding="utf-8")) for path in sorted(directory.glob("*.json"))}
    print(render_fleet(kept), f"\nkept in {directory}")


def _parse_arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.fleet", description=__doc__)
    parser.add_argument("what", choices=["all", *_PARTS, "real", "redis", "snapshot"])
    parser.add_argument("--hosts", type=int, nargs="+", help="other numbers of hosts")
    parser.add_argument("--quick", action="store_true", help="up to 1,000 hosts, and not kept")
    return parser.parse_args()


def _keep(results: Any, path: Path) -> None:
    path.write_text(json.dumps(results, indent=1) + "\n", encoding="utf-8")


def _run_keys(hosts: Sequence[int], directory: Path) -> None:
    rows: defaultdict[str, list[Any]] = defaultdict(list)
    drawn: dict[str, Run] = {}
    drawn_hosts = _DRAWN_HOSTS if _DRAWN_HOSTS in hosts else max(hosts)
    begun_s = time.monotonic()
    for scenario, run in summaries.simulate_keys(hosts):
        rows[scenario.name].append(summaries.describe_run(run))
        print(f"{time.monotonic() - begun_s:6.0f} s: {scenario.hosts} hosts, {scenario.name}", flush=True)
        if scenario.hosts == drawn_hosts:
            drawn[scenario.name] = run
    _keep({"parameters": summaries.describe_parameters(), "scenarios": rows}, directory / "keys.json")
    title = f"{drawn_hosts:,} hosts, keys rotated and in use at once"
    pictures.draw_event({name: drawn[name] for name in _ROTATIONS}, title, directory / "rotation.png", window_s=360)
    pictures.draw_event(
        {name: drawn[name] for name in _RESTARTS},
        f"{drawn_hosts:,} hosts restarted",
        directory / "restart.png",
        window_s=360,
        unit="bytes",
    )
    pictures.draw_outage({f"{drawn_hosts:,} hosts, {name}": drawn[name] for name in _OUTAGES}, directory / "outage.png")


def _run_optouts(hosts: Sequence[int], directory: Path) -> None:
    rows: defaultdict[str, list[Any]] = defaultdict(list)
    for name, run in summaries.simulate_optouts(hosts):
        rows[name].append(summaries.describe_feed(run))
    _keep(rows, directory / "optouts.json")
    pictures.draw_optouts(rows, directory / "optouts.png")


def _run_snapshots(hosts: Sequence[int], directory: Path) -> None:
    rows: defaultdict[str, list[Any]] = defaultdict(list)
    for name, run in summaries.simulate_snapshots(hosts):
        rows[name].append(summaries.describe_rush(run))
    _keep(rows, directory / "snapshots.json")
    pictures.draw_snapshots(rows, directory / "snapshots.png")


_PARTS = {"keys": _run_keys, "optouts": _run_optouts, "snapshots": _run_snapshots}

if __name__ == "__main__":
    main()
