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
        head_rounds: the number of rounds with the heads of clients, in shots of half the length.
        seconds: the length of a shot without its warm-up.
        samples: the number of distinct tokens.
        only_ends: whether sweeps use only their first and last value.
    """

    rounds: int
    sweep_rounds: int
    head_rounds: int
    seconds: float
    samples: int
    only_ends: bool

    def some(self, values: Mapping[str, Value]) -> dict[str, Value]:
        """Return the values of a sweep to measure."""
        items = list(values.items())
        return dict(items[:: len(items) - 1] if self.only_ends else items)


# Prime numbers of tokens, so that each of 16 connections sends all of them, and not always the same few.
FULL = Effort(rounds=11, sweep_rounds=5, head_rounds=14, seconds=0.5, samples=1_999, only_ends=False)
QUICK = Effort(rounds=3, sweep_rounds=1, head_rounds=1, seconds=0.3, samples=1_009, only_ends=True)


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
        user_s, system_s: processor time of the server, warm-up included.
    """

    load: LoadReport
    server_cpu: float
    user_s: float
    system_s: float


def shoot(aim: Aim, seconds: float, rate: float = 0) -> Shot:
    """Run load for `seconds` after a warm-up of a third of that; closed loop, or open loop at `rate` per second."""
    (user_before_s, system_before_s), start_s = aim.server.cpu_s(), time.monotonic()
    load = run_load(
        aim.address,
        aim.requests,
        connections=aim.connections,
        seconds=seconds,
        rate=rate,
        vary_trace=aim.vary_trace,
        warmup_s=seconds / 3,
    )
    user_s, system_s = aim.server.cpu_s()
    user_s, system_s = user_s - user_before_s, system_s - system_before_s
    return Shot(load, (user_s + system_s) / (time.monotonic() - start_s), user_s, system_s)


def rates(shots: Sequence[Shot]) -> list[float]:
    """Return the requests per second of each round."""
    return [shot.load.rps for shot in shots]


def quantiles(shots: Sequence[Shot], quantile: str) -> list[float]:
    """Return a quantile of the latency in each round, in microseconds."""
    return [shot.load.quantiles_us[quantile] for shot in shots]


def summarise(shots: Sequence[Shot]) -> dict[str, Any]:
    """Return medians over the rounds, the rate of each round, and processor time per request.

    The latter is the figure that other processes affect least. It is that of all rounds together, because the system
    counts it in ticks of 10 ms.
    """
    checked = sum(shot.load.checked for shot in shots)
    user_us, system_us = (
        1e6 * sum(seconds) / max(1, checked)
        for seconds in zip(*((shot.user_s, shot.system_s) for shot in shots), strict=True)
    )
    return {
        "rps": median(rates(shots)),
        "rps_rounds": rates(shots),
        "quantiles_us": {name: median(quantiles(shots, name)) for name in shots[0].load.quantiles_us},
        "checked": checked,
        "cpu_us": user_us + system_us,
        "user_us": user_us,
        "system_us": system_us,
        "server_cpu": median(shot.server_cpu for shot in shots),
        "generator_cpu": median(shot.load.generator_cpu for shot in shots),
    }
