"""What a fleet needs, by the number of bid requests a second: the arithmetic of docs/scale.md."""

import math
from collections.abc import Mapping
from typing import Any

from benchmarks.report import format_table

RATES = (10_000, 100_000, 1_000_000, 10_000_000)
HOST_RATE = 5_000  # bid requests a second of a host with a bidder, assumed
UTILISATION = 0.5  # of a core that serves
REDIS_UTILISATION = 0.7
READ_TIMEOUT_S = 10.0  # within which the relays have to answer all hosts
OPTOUTS = 10e6
FILTER_BITS = 40  # for an opt-out, at most; docs/optouts.md, "Size"
STORE_BYTES = 150  # on disk for an opt-out that came alone; docs/optouts.md, "Size"
OPTOUT_RATE = 10.0  # opt-outs a second
_SIZE = "/openrtb, 3.3 KB"


def scale_table(results: Mapping[str, Any]) -> str:
    """Return a row for each resource, with a column for each rate."""
    columns = [_column(rate, results) for rate in RATES]
    rows = [(name, *(column[name] for column in columns)) for name in columns[0]]
    return format_table(("bid requests/s", *(f"{rate:,}" for rate in RATES)), rows)


def _column(rate: int, results: Mapping[str, Any]) -> dict[str, object]:
    figures = {name: each["value"] for name, each in results["fleet"]["keys"]["parameters"].items()}
    hosts = max(2, math.ceil(rate / HOST_RATE))
    cores = rate * results["openrtb"]["http"][_SIZE]["cpu_us"] / 1e6 / UTILISATION
    workers = math.ceil(cores / hosts)
    worker_mb = results["memory"]["service"]["used"]["rss"]
    response_mb = figures["RESPONSE_BYTES"] / 1e6
    relays = max(2, math.ceil(hosts * workers * figures["RELAY_CPU_S"] / READ_TIMEOUT_S) + 1)
    redis_hosts = REDIS_UTILISATION / (figures["REDIS_CHECK_S"] + OPTOUT_RATE * figures["REDIS_READ_S"])
    entry_bytes = figures["ENTRY_BYTES"] + figures["OPTOUT_BYTES"]
    return {
        "hosts": hosts,
        "cores of all sidecars": math.ceil(cores),
        "cores of a host": round(cores / hosts, 2),
        "workers of a host": workers,
        "memory of a sidecar, MB": round(workers * worker_mb + OPTOUTS * FILTER_BITS / 8e6),
        "disk of a host for 10 million opt-outs, GB": round(2 * OPTOUTS * STORE_BYTES / 1e9, 1),
        "calls of the operator an hour, without relays": hosts * workers,
        "of them MB an hour": round(hosts * workers * response_mb),
        "calls of the operator an hour, with relays": relays,
        "MB when all hosts get new keys": round(hosts * workers * response_mb),
        "seconds of that at 1 Gbit/s": round(hosts * workers * response_mb / 125, 1),
        "relays": relays,
        "Redis or replicas, at 10 opt-outs/s": math.ceil(hosts / redis_hosts),
        "MB/s from Redis, at 10 opt-outs/s": round(hosts * OPTOUT_RATE * entry_bytes / 1e6, 2),
        "receivers": 2,
    }
