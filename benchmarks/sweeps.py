"""Throughput of the service by number of keys, names and connections, token version, failing tokens and batch size."""

import resource
import tempfile
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from functools import partial
from pathlib import Path
from typing import Any

from benchmarks.material import VERSIONS, KeySet, Sample, make_samples, write_requests
from benchmarks.rounds import interleave, median_ratio
from benchmarks.shots import Aim, Effort, Shot, rates, shoot, summarise
from benchmarks.targets import key_server, service
from benchmarks.targets.process import Server
from benchmarks.traffic import make_traffic, traffic_batches, traffic_requests

_KEY_SETS = {f"{n} keys": KeySet(n) for n in (10, 1_000, 50_000)}
_DOMAIN_SETS = {f"{n} domains": KeySet(100, n) for n in (100, 60_000)}
_PLAIN = "10 keys"  # the key set of every sweep that is not about key sets
_CONNECTIONS = (1, 4, 16, 64, 256, 1_000, 5_000)
_FAILING = {"all good": 0, "30 % fail": 30}
_BATCH_SIZES = (1, 16, 64, 256, 1_000)
_SPARE_FILES = 100


def measure_sweeps(effort: Effort) -> dict[str, Any]:
    """Measure all sweeps. Each is value -> summary, with the rate relative to the first value of the sweep."""
    with tempfile.TemporaryDirectory() as name, ExitStack() as stack:
        directory = Path(name)
        # An API key contains no spaces.
        by_keys, by_domains = effort.some(_KEY_SETS), effort.some(_DOMAIN_SETS)
        key_sets = {name.replace(" ", "-"): key_set for name, key_set in (by_keys | by_domains).items()}
        url = stack.enter_context(key_server(directory, key_sets))
        servers = {
            name: stack.enter_context(service(directory, url, name.replace(" ", "-"))) for name in by_keys | by_domains
        }
        plain = servers[_PLAIN]
        return {
            "failing tokens": _sweep(_over_failing(directory, plain, effort), effort, effort.rounds),
            "batch size": _batches(directory, plain, effort),
            "keys": _sweep(_over_key_sets(directory, by_keys, servers, effort), effort),
            "site domains": _sweep(_over_key_sets(directory, by_domains, servers, effort), effort),
            "token versions": _sweep(_over_versions(directory, plain, effort), effort),
            "connections": _sweep(effort.some(_over_connections(directory, plain, effort)), effort),
        }


def _sweep(aims: Mapping[str, Aim], effort: Effort, rounds: int = 0) -> dict[str, Any]:
    shots = _shoot_all(aims, effort, rounds)
    first = rates(next(iter(shots.values())))
    return {name: {**summarise(each), "rps_to_first": median_ratio(rates(each), first)} for name, each in shots.items()}


def _shoot_all(aims: Mapping[str, Aim], effort: Effort, rounds: int = 0) -> dict[str, list[Shot]]:
    shots = {name: partial(shoot, aim, effort.seconds) for name, aim in aims.items()}
    return interleave(shots, rounds or effort.sweep_rounds)


def _aim(path: Path, server: Server, samples: Sequence[Sample], connections: int = 16) -> Aim:
    return Aim(server, server.tcp, write_requests(path, traffic_requests(samples)), connections)


def _over_failing(directory: Path, server: Server, effort: Effort) -> dict[str, Aim]:
    return {
        name: _aim(
            directory / name, server, make_traffic(_KEY_SETS[_PLAIN], effort.samples, failing_share=failing_share)
        )
        for name, failing_share in _FAILING.items()
    }


def _over_key_sets(
    directory: Path, key_sets: Mapping[str, KeySet], servers: Mapping[str, Server], effort: Effort
) -> dict[str, Aim]:
    return {
        name: _aim(directory / name, servers[name], make_traffic(key_set, effort.samples))
        for name, key_set in key_sets.items()
    }


def _over_connections(directory: Path, server: Server, effort: Effort) -> dict[str, Aim]:
    samples = make_traffic(_KEY_SETS[_PLAIN], effort.samples)
    most = resource.getrlimit(resource.RLIMIT_NOFILE)[0] - _SPARE_FILES
    for number in _CONNECTIONS:
        if number > most:
            print(f"{number} connections left out: the limit of open files is {most + _SPARE_FILES}")
    return {str(n): _aim(directory / f"{n}", server, samples, n) for n in _CONNECTIONS if n <= most}


def _over_versions(directory: Path, server: Server, effort: Effort) -> dict[str, Aim]:
    return {
        version: _aim(directory / version, server, make_samples(_KEY_SETS[_PLAIN], effort.samples, version))
        for version in VERSIONS
    }


def _batches(directory: Path, server: Server, effort: Effort) -> dict[str, Any]:
    """Measure tokens per second, also relative to single requests in the same round."""
    samples = make_traffic(_KEY_SETS[_PLAIN], effort.samples)
    aims = {"single": _aim(directory / "single", server, samples)}
    for size in _BATCH_SIZES:
        requests = write_requests(directory / f"batch-{size}", traffic_batches(samples, size))
        aims[str(size)] = Aim(server, server.tcp, requests)
    shots = _shoot_all(aims, effort)
    singles = rates(shots.pop("single"))
    result = {}
    for name, each in shots.items():
        tokens_per_s = [rate * int(name) for rate in rates(each)]
        result[name] = {
            **summarise(each),
            "tokens_per_s": summarise(each)["rps"] * int(name),
            "tokens_to_singles": median_ratio(tokens_per_s, singles),
        }
    return result
