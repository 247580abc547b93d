"""What a fleet needs, by the number of bid requests a second: the arithmetic of docs/scale.md."""

import math
from collections.abc import Mapping
from typing import Any

from benchmarks.report import format_table
from bidstream_svc.optouts.stream_client import DEFAULT_RETENTION_MS

RATES = (10_000, 100_000, 1_000_000, 10_000_000)
HOST_RATE = 5_000  # bid requests a second of a host with a bidder, assumed
UTILISATION = 0.5  # of a core that serves
REDIS_UTILISATION = 0.7
READ_TIMEOUT_S = 10.0  # within which the relays have to answer all hosts
OPTOUTS = 10e6
FILTER_BITS = 40  # for an opt-out, at most; docs/optouts.md, "Size"
STORE_BYTES = 150  # on disk for an opt-out that came alone; docs/optouts.md, "Size"
STREAM_BYTES = 65  # of Redis for an opt-out that came alone; docs/optouts.md, "Size"
OPTOUT_RATE = 10.0  # opt-outs a second
LINK_BYTES_PER_S = 125e6  # 1 Gbit/s
_MS_PER_DAY = 86_400_000
_SIZE = "/openrtb, 3.3 KB"


def scale_table(results: Mapping[str, Any]) -> str:
    """Return a row for each resource, with a column for each rate."""
    columns = [_column(rate, results) for rate in RATES]
    rows = [(name, *(column[name] for column in columns)) for name in columns[0]]
    return format_table(("bid requests/s", *(f"{rate:,}" for rate in RATES)), rows)


def inputs_table(results: Mapping[str, Any]) -> str:
    """Return the figures that `scale_table` is computed from, besides those of the simulation."""
    rows = [
        ("bid requests a second of a host", f"{HOST_RATE:,}", "assumed"),
        (
            "processor time of a bid request of 3.3 KB, µs",
            f"{_bid_request_s(results) * 1e6:.2f}",
            "measured: `python -m benchmarks openrtb`",
        ),
        ("of a core, the part that works at this rate", UTILISATION, "assumed"),
        ("resident memory of a worker, MB", f"{_worker_mb(results):.1f}", "measured: `python -m benchmarks memory`"),
        ("bits of the filter for an opt-out", FILTER_BITS, "at most; [Size](optouts.md#size)"),
        ("bytes on disk for an opt-out that came alone", STORE_BYTES, "[Size](optouts.md#size)"),
        ("bytes of Redis for an opt-out that came alone", STREAM_BYTES, "[Size](optouts.md#size)"),
        ("days that Redis keeps an opt-out", DEFAULT_RETENTION_MS // _MS_PER_DAY, "[Size](optouts.md#size)"),
        ("of the core of Redis, the part that works", REDIS_UTILISATION, "assumed"),
        ("opt-outs a second", round(OPTOUT_RATE), "assumed"),
        ("opt-outs of a store", f"{OPTOUTS:,.0f}", "assumed"),
        ("s within which the relays answer all workers", round(READ_TIMEOUT_S), "the time-out of a sidecar"),
    ]
    return format_table(("what", "value", "source"), rows)


def _bid_request_s(results: Mapping[str, Any]) -> float:
    return float(results["openrtb"]["http"][_SIZE]["cpu_us"]) / 1e6


def _worker_mb(results: Mapping[str, Any]) -> float:
    return float(results["memory"]["service"]["used"]["rss"])


def _column(rate: int, results: Mapping[str, Any]) -> dict[str, object]:
    figures = {name: each["value"] for name, each in results["fleet"]["keys"]["parameters"].items()}
    hosts = max(2, math.ceil(rate / HOST_RATE))
    cores = rate * _bid_request_s(results) / UTILISATION
    workers = math.ceil(cores / hosts)
    response_mb = figures["RESPONSE_BYTES"] / 1e6
    relays = max(2, math.ceil(hosts * workers * figures["RELAY_CPU_S"] / READ_TIMEOUT_S) + 1)
    all_keys_mb = hosts * workers * response_mb
    return {
        "hosts": hosts,
        "cores of all sidecars": math.ceil(cores),
        "cores of a host": round(cores / hosts, 2),
        "workers of a host": workers,
        "memory of a sidecar, MB": round(workers * _worker_mb(results) + OPTOUTS * FILTER_BITS / 8e6),
        "disk of a host for 10 million opt-outs, GB": round(2 * OPTOUTS * STORE_BYTES / 1e9, 1),
        "KB/s to a host, keys and opt-outs": round(
            workers * response_mb * 1e3 / 3600 + _optout_bytes_per_s(figures) / 1e3, 1
        ),
        "calls of the operator an hour, without relays": hosts * workers,
        "of them MB an hour": round(all_keys_mb),
        "calls of the operator an hour, with relays": relays,
        "of these MB an hour": round(relays * response_mb),
        "MB when all hosts get new keys": round(all_keys_mb),
        "seconds of that at 1 Gbit/s": round(all_keys_mb * 1e6 / LINK_BYTES_PER_S, 1),
        "relays": relays,
        "connections of one relay, if no other runs": hosts * workers,
        "MB/s of a relay for new keys, if one is down": round(all_keys_mb / READ_TIMEOUT_S / (relays - 1), 1),
        **_of_optouts(hosts, figures),
    }


def _of_optouts(hosts: int, figures: Mapping[str, float]) -> dict[str, object]:
    """Return the rows of Redis and of receivers."""
    redis_hosts = REDIS_UTILISATION / (figures["REDIS_CHECK_S"] + OPTOUT_RATE * figures["REDIS_READ_S"])
    stream_bytes = OPTOUT_RATE * DEFAULT_RETENTION_MS / 1e3 * STREAM_BYTES
    snapshots_bytes = hosts * OPTOUTS * figures["SNAPSHOT_ID_BYTES"]
    receivers = 2
    send_s = snapshots_bytes / (receivers * figures["SNAPSHOT_SEND_BYTES_PER_S"])
    return {
        "Redis or replicas, at 10 opt-outs/s": math.ceil(hosts / redis_hosts),
        "memory of each for the stream, MB": round(stream_bytes / 1e6),
        "MB/s from Redis, at 10 opt-outs/s": round(hosts * _optout_bytes_per_s(figures) / 1e6, 2),
        "receivers": receivers,
        "GB of snapshots of 10 million opt-outs, all hosts": round(snapshots_bytes / 1e9, 1),
        "minutes of that, at what receivers send": round(send_s / 60, 1),
    }


def _optout_bytes_per_s(figures: Mapping[str, float]) -> float:
    """Return what a host reads from Redis: opt-outs that come alone, and the answers to its checks."""
    return OPTOUT_RATE * (figures["ENTRY_BYTES"] + figures["OPTOUT_BYTES"]) + figures["CHECK_BYTES"]
