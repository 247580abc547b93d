"""The figures that the model starts from, each with its source."""

import inspect
from dataclasses import dataclass
from typing import NamedTuple

_REAL = "`python -m benchmarks.fleet real`: benchmarks/results/fleet/real.json"
_REDIS = "`python -m benchmarks.fleet redis`: benchmarks/results/fleet/redis.json"
_ASSUMED = "assumed"


class Figure(NamedTuple):
    """A figure, its unit, and where it comes from."""

    value: float
    unit: str
    source: str


# A key response of 5,000 keys and 60,000 domain names, and what it costs.
RESPONSE_BYTES = Figure(3_900_000, "bytes on the wire", _REAL)
SERVE_CPU_S = Figure(0.02, "s of a core for an answer of an operator", _REAL)
RELAY_CPU_S = Figure(0.02, "s of a core for an answer of a relay", _REAL)
FIRST_PARSE_CPU_S = Figure(0.15, "s of a core of the host, to decrypt, parse and put to use the first keys", _REAL)
PARSE_CPU_S = Figure(0.2, "s of a core of the host for any later keys", _REAL)
PARSE_PAUSE_S = Figure(3.0, "s for which it pauses meanwhile, so that requests are not delayed", _REAL)
START_CPU_S = Figure(0.8, "s of a core, from the start of the process to its first call of the operator", _REAL)

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
REDIS_READ_S = Figure(42e-6, "s of the core of Redis for a blocking XREAD, and the entry that ends it", _REDIS)
REDIS_ENTRY_S = Figure(1.9e-6, "s of that core for each further entry of an answer", _REDIS)
REDIS_CHECK_S = Figure(134e-6, "s of that core for what a follower asks once a second: INSPECT and ROLE", _REDIS)
REDIS_APPEND_S = Figure(185e-6, "s of that core to append an entry", _REDIS)
ENTRY_BYTES = Figure(210, "bytes of an entry of the stream in an answer, without its opt-outs", _REDIS)
OPTOUT_BYTES = Figure(43, "bytes of an opt-out in an entry", _REDIS)
CHECK_BYTES = Figure(166, "bytes of the answers to what a follower asks once a second", _REDIS)
COMMIT_S = Figure(0.003, "s of a group commit of a receiver, and of a follower", "`python -m benchmarks.optouts_store`")

# Snapshots.
SNAPSHOT_ID_BYTES = Figure(
    41, "bytes of an opt-out in a snapshot", "docs/optouts.md, by `python -m benchmarks.optouts_store`"
)
SNAPSHOT_WRITE_IDS_PER_S = Figure(
    4e6, "opt-outs a second that a receiver writes into a file", "`python -m benchmarks.optouts_store`"
)
SNAPSHOT_MERGE_IDS_PER_S = Figure(1e6, "opt-outs a second that a host merges", "`python -m benchmarks.optouts_store`")
SNAPSHOT_SEND_BYTES_PER_S = Figure(
    1e9, "bytes/s that one receiver sends, all readers together", "`python -m benchmarks.optouts_store`"
)


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
