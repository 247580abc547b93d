"""The figures that the model starts from, each with its source."""

import inspect
import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

_KEPT = Path(__file__).parents[1] / "results" / "fleet"
_REAL = "measured: `python -m benchmarks.fleet real`"
_REDIS = "measured: `python -m benchmarks.fleet redis`"
_SNAPSHOT = "measured: `python -m benchmarks.fleet snapshot`"
_STORE = "measured: `python -m benchmarks.optouts_store`"
_ASSUMED = "assumed"


class Figure(NamedTuple):
    """A figure, its unit, and where it comes from."""

    value: float
    unit: str
    source: str


def _read_kept(name: str) -> dict[str, Any]:
    kept: dict[str, Any] = json.loads((_KEPT / f"{name}.json").read_text(encoding="utf-8"))
    return kept


_COSTS: dict[str, float] = _read_kept("real")["model"]["costs"]
_OF_REDIS: dict[str, float] = _read_kept("redis")
_OF_SNAPSHOT: dict[str, float] = _read_kept("snapshot")
_US = 1e-6

# A key response of 5,000 keys and 60,000 domain names, and what it costs.
RESPONSE_BYTES = Figure(_COSTS["response_bytes"], "bytes on the wire", _REAL)
SERVE_CPU_S = Figure(_COSTS["serve_cpu_s"], "s of a core for an answer of an operator", _REAL)
RELAY_CPU_S = Figure(
    _COSTS["serve_cpu_s"], "s of a core for an answer of a relay, as of the benchmark's operator", _REAL
)
FIRST_PARSE_CPU_S = Figure(
    _COSTS["first_parse_cpu_s"], "s of a core of the host, to decrypt, parse and put to use the first keys", _REAL
)
PARSE_CPU_S = Figure(_COSTS["parse_cpu_s"], "s of a core of the host for any later keys", _REAL)
PARSE_PAUSE_S = Figure(
    _COSTS["parse_pause_s"], "s for which it pauses meanwhile, so that requests are not delayed", _REAL
)
START_CPU_S = Figure(
    _COSTS["start_cpu_s"], "s of a core, from the start of the process to its first call of the operator", _REAL
)

# The network, and machines that are not ours.
ROUND_TRIP_S = Figure(0.001, "s within the cluster", _ASSUMED)
OPERATOR_CONNECT_S = Figure(0.08, "s: four round trips of 20 ms, of which three connect and shake hands", _ASSUMED)
HOST_BYTES_PER_S = Figure(1.25e9 / 8, "bytes/s that one transfer gets at most: an eighth of 10 Gbit/s", _ASSUMED)
OPERATOR_BYTES_PER_S = Figure(1.25e8, "bytes/s: 1 Gbit/s of the operator for this client", _ASSUMED)
OPERATOR_CORES = Figure(8, "cores of the operator for this client", _ASSUMED)
RELAY_BYTES_PER_S = Figure(1.25e9, "bytes/s: 10 Gbit/s", _ASSUMED)
RELAY_CORES = Figure(1, "core of a relay", "one process serves")
RECEIVER_BYTES_PER_S = Figure(1.25e9, "bytes/s: 10 Gbit/s", _ASSUMED)

# Traffic.
TOKENS_PER_S = Figure(1_000, "tokens a second of a host", _ASSUMED)
NEW_KEY_RAMP_S = Figure(3600, "s in which the share of tokens with a new key grows from 0 to 1", _ASSUMED)

# Opt-outs.
REDIS_READ_S = Figure(
    _OF_REDIS["read_us"] * _US, "s of the core of Redis for a blocking XREAD, and the entry that ends it", _REDIS
)
REDIS_ENTRY_S = Figure(
    _OF_REDIS["further_entry_us"] * _US, "s of that core for each further entry of an answer", _REDIS
)
REDIS_CHECK_S = Figure(
    _OF_REDIS["check_us"] * _US, "s of that core for what a host asks every 5 s: INSPECT, ROLE and APPEND", _REDIS
)
REDIS_APPEND_S = Figure(_OF_REDIS["append_us"] * _US, "s of that core to append an entry", _REDIS)
ENTRY_BYTES = Figure(
    _OF_REDIS["entry_bytes"] - _OF_REDIS["packed_bytes"],
    "bytes of an entry of the stream in an answer, without its opt-outs",
    _REDIS,
)
OPTOUT_BYTES = Figure(
    _OF_REDIS["packed_bytes"] / _OF_REDIS["optouts_an_entry"], "bytes of an opt-out in an entry", _REDIS
)
CHECK_BYTES = Figure(_OF_REDIS["check_bytes"], "bytes of the answers to what a host asks every 5 s", _REDIS)
COMMIT_S = Figure(0.003, "s of a group commit of a receiver, and of a follower", _STORE)

# Snapshots.
SNAPSHOT_ID_BYTES = Figure(_OF_SNAPSHOT["bytes_per_id"], "bytes of an opt-out in a snapshot", _SNAPSHOT)
SNAPSHOT_WRITE_IDS_PER_S = Figure(
    _OF_SNAPSHOT["written_ids_per_cpu_s"], "opt-outs a second that a receiver writes into a file", _SNAPSHOT
)
SNAPSHOT_MERGE_IDS_PER_S = Figure(
    _OF_SNAPSHOT["merged_ids_per_cpu_s"], "opt-outs a second that a host merges into an empty store", _SNAPSHOT
)
SNAPSHOT_SEND_BYTES_PER_S = Figure(1e9, "bytes/s that one receiver sends, all readers together", _ASSUMED)


@dataclass(frozen=True, slots=True, kw_only=True)
class Costs:
    """What the steps of a refresh and a start cost; see the figures above."""

    response_bytes: float = RESPONSE_BYTES.value
    serve_cpu_s: float = SERVE_CPU_S.value
    relay_cpu_s: float = RELAY_CPU_S.value
    first_parse_cpu_s: float = FIRST_PARSE_CPU_S.value
    parse_cpu_s: float = PARSE_CPU_S.value
    parse_pause_s: float = PARSE_PAUSE_S.value
    start_cpu_s: float = START_CPU_S.value
    round_trip_s: float = ROUND_TRIP_S.value
    connect_s: float = OPERATOR_CONNECT_S.value


def all_figures() -> dict[str, Figure]:
    """Return all figures by name."""
    return {
        name: value for name, value in globals().items() if isinstance(value, Figure) and not inspect.isclass(value)
    }
