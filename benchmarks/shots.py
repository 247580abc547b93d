"""A shot is one short run of load against one server. A measurement interleaves several of them."""

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import median
from typing import Any, TypeVar

from benchmarks.load import LoadReport, run_load
from benchmarks.targets.process import Server

Value = TypeVar("Value")


@dataclass(frozen=True, slots=True)
class Effort:
    """How long to measure.

    Attributes:
        rounds: the number of rounds for results that have a goal.
        sweep_rounds: the number of rounds in sweeps.
        seconds: the length of a shot without its warm-up.
        samples: the number of distinct tokens.
        only_ends: whether sweeps use only their first and last value.
    """

    rounds: int
    sweep_rounds: int
    seconds: float
    samples: int
    only_ends: bool

    def some(self, values: Mapping[str, Value]) -> dict[str, Value]:
        """Return the values of a sweep to measure."""
        items = list(values.items())
        return dict(items[:: len(items) - 1] if self.only_ends else items)


FULL = Effort(rounds=15, sweep_rounds=5, seconds=0.5, samples=2_000, only_ends=False)
QUICK = Effort(rounds=1, sweep_rounds=1, seconds=0.2, samples=1_000, only_ends=True)


@dataclass(frozen=True, slots=True)
class Aim:
    """The server, address and requests of a shot."""

    server: Server
    address: str
    requests: Path
    connections: int = 16
    vary_trace: bool = False


@dataclass(frozen=True, slots=True)
class Shot:
    """The result of one run of load.

    Attributes:
        server_cpu: the fraction of its core that the server used.
        cpu_us: processor time of the server per request; the figure that other processes affect least.
    """

    load: LoadReport
    server_cpu: float
    cpu_us: float


def shoot(aim: Aim, seconds: float, rate: float = 0) -> Shot:
    """Run load for `seconds` after a warm-up of a third of that; closed loop, or open loop at `rate` per second."""
    cpu_before, start = aim.server.cpu_s(), time.monotonic()
    load = run_load(
        aim.address,
        aim.requests,
        connections=aim.connections,
        seconds=seconds,
        rate=rate,
        vary_trace=aim.vary_trace,
        warmup_s=seconds / 3,
    )
    cpu_s = aim.server.cpu_s() - cpu_before
    return Shot(load, cpu_s / (time.monotonic() - start), cpu_s * 1e6 / max(1, load.checked))


def rates(shots: Sequence[Shot]) -> list[float]:
    """Return the requests per second of each round."""
    return [shot.load.rps for shot in shots]


def summarise(shots: Sequence[Shot]) -> dict[str, Any]:
    """Return medians over the rounds, and the rate of each round."""
    quantiles = shots[0].load.quantiles_us
    return {
        "rps": median(rates(shots)),
        "rps_rounds": rates(shots),
        "quantiles_us": {name: median(shot.load.quantiles_us[name] for shot in shots) for name in quantiles},
        "checked": sum(shot.load.checked for shot in shots),
        "cpu_us": median(shot.cpu_us for shot in shots),
        "server_cpu": median(shot.server_cpu for shot in shots),
        "generator_cpu": median(shot.load.generator_cpu for shot in shots),
    }
