"""Runs of a fleet's keys: a steady state, a rotation, trouble of the operator, restarts."""

import math
from collections.abc import Callable, Generator
from dataclasses import dataclass, replace
from random import Random
from typing import Any

import simpy

from benchmarks.fleet import parameters
from benchmarks.fleet.capacity import SharedCapacity
from benchmarks.fleet.hosts import Host, Hosts, HostSettings
from benchmarks.fleet.parameters import Costs
from benchmarks.fleet.sources import Operator, OperatorPlan, Outage, Relay, Seen, Source

EVENT_S = 3600.0  # when something happens
_SEED = 18
_MAX_WITH_STRANGERS = 2_000  # more take minutes, because each host calls every minute
_HEALTHY, _COSTS = OperatorPlan(), Costs()


@dataclass(frozen=True, slots=True, kw_only=True)
class Scenario:
    """A run.

    Attributes:
        hosts, relays: how many.
        interval_s: as of the setting.
        has_cache: whether hosts have a key cache that outlives a restart.
        operator: the operator.
        restart_s: when hosts are restarted; None for never.
        restart_at_once: how many are down or without keys at the same time, at most.
        tokens_per_s: of a host.
        ramp_s: in which the share of tokens with a new key grows from 0 to 1; with 0, tokens come evenly.
        stranger_s: mean seconds between two tokens at a host of which nobody will ever have the key.
        cores: of the only machine, on which everything runs; None for a machine for each.
    """

    name: str
    hosts: int
    duration_s: float = 3 * 3600.0
    relays: int = 0
    interval_s: float = 3600.0
    has_cache: bool = False
    operator: OperatorPlan = _HEALTHY
    restart_s: float | None = None
    restart_at_once: float = math.inf
    tokens_per_s: float = parameters.TOKENS_PER_S.value
    ramp_s: float = parameters.NEW_KEY_RAMP_S.value
    stranger_s: float = math.inf
    costs: Costs = _COSTS
    cores: float | None = None
    seed: int = _SEED


@dataclass(frozen=True, slots=True)
class Run:
    """What a run recorded.

    Attributes:
        operator, relays: what they saw.
        hosts: the states of the hosts.
    """

    scenario: Scenario
    operator: Seen
    relays: list[Seen]
    hosts: Hosts

    @property
    def not_initialized(self) -> float:
        """Tokens answered NOT_INITIALIZED."""
        return self._tokens(self.hosts.without_keys.weigh(lambda time_s: time_s, self.scenario.duration_s))

    @property
    def unanswered(self) -> float:
        """Tokens for which no process was there."""
        return self._tokens(self.hosts.down.weigh(lambda time_s: time_s, self.scenario.duration_s))

    @property
    def not_authorized(self) -> float:
        """Tokens answered NOT_AUTHORIZED_FOR_KEY, because of the last rotation."""
        rotations_s, ramp_s = self.scenario.operator.rotations_s, self.scenario.ramp_s
        if not rotations_s:
            return 0.0

        def new_until(time_s: float) -> float:
            """Return the integral of the share of tokens with the new key."""
            since_s = max(0.0, time_s - rotations_s[-1])
            return since_s**2 / (2 * ramp_s) if since_s < ramp_s else since_s - ramp_s / 2

        return self._tokens(self.hosts.behind.weigh(new_until, self.scenario.duration_s))

    @property
    def level_after_s(self) -> float:
        """Seconds from what happened until all hosts served with the newest keys; 0 if they always did."""
        level_s = self.hosts.not_level.last_above_s()
        return 0.0 if level_s is None else level_s - self.event_s

    @property
    def event_s(self) -> float:
        """When something happens."""
        scenario = self.scenario
        outage = scenario.operator.outage
        moments = [*scenario.operator.rotations_s, *((outage.begin_s,) if outage else ())]
        moments += [] if scenario.restart_s is None else [scenario.restart_s]
        return min(moments, default=0.0)

    def _tokens(self, host_seconds: float) -> float:
        return host_seconds * self.scenario.tokens_per_s


def simulate(scenario: Scenario) -> Run:
    """Run a scenario. The same scenario gives the same run."""
    env, random = simpy.Environment(), Random(scenario.seed)
    cpu = None if scenario.cores is None else SharedCapacity(env, scenario.cores, 1.0)
    operator = Operator(env, scenario.operator, scenario.costs, cpu)
    relays = [Relay(env, operator, scenario.costs, scenario.interval_s, random) for _ in range(scenario.relays)]
    sources: list[Source] = [*relays] or [operator]
    hosts = Hosts(
        env,
        lambda: random.choice(sources),
        lambda: operator.generation,
        scenario.costs,
        random,
        settings=HostSettings(scenario.interval_s, scenario.has_cache, _notices(scenario), scenario.stranger_s),
        cpu=cpu,
    )
    # Hosts that have been up for long are out of step.
    fleet = [Host(hosts, 0, random.uniform(0, scenario.interval_s)) for _ in range(scenario.hosts)]
    for moment_s in scenario.operator.rotations_s:
        env.process(_rotate(env, moment_s, fleet))
    if scenario.restart_s is not None:
        env.process(_restart(env, scenario, fleet))
    env.run(until=scenario.duration_s)
    return Run(scenario, operator.seen, [relay.seen for relay in relays], hosts)


def _notices(scenario: Scenario) -> Callable[[float], float]:
    """Return the function from a number between 0 and 1 to the seconds until a host meets a new key."""
    rate, ramp_s = scenario.tokens_per_s, scenario.ramp_s

    def draw(number: float) -> float:
        if ramp_s == 0:
            return number / rate
        # The number of tokens with a new key until t is a Poisson variable with the mean rate * t^2 / (2 * ramp).
        return math.sqrt(-2 * ramp_s * math.log(1 - number) / rate)

    return draw


def _rotate(env: simpy.Environment, moment_s: float, fleet: list[Host]) -> Generator[simpy.Event, Any, None]:
    yield env.timeout(moment_s)
    for host in fleet:
        host.notice_rotation()


def _restart(env: simpy.Environment, scenario: Scenario, fleet: list[Host]) -> Generator[simpy.Event, Any, None]:
    assert scenario.restart_s is not None
    yield env.timeout(scenario.restart_s)
    waiting = iter(fleet)

    def restart_one_by_one() -> Generator[simpy.Event, Any, None]:
        for host in waiting:
            host.restart()
            yield host.is_ready

    for _ in range(int(min(scenario.restart_at_once, len(fleet)))):
        env.process(restart_one_by_one())


def key_scenarios(hosts: int) -> list[Scenario]:
    """Return all scenarios for a number of hosts."""
    base = Scenario(name="in peace", hosts=hosts)
    plan = OperatorPlan(rotations_s=(EVENT_S,))
    rotation = replace(base, name="rotation", operator=plan)
    limited = replace(plan, limit_per_s=20, retry_after_s=10)
    failing_over = replace(plan, outage=Outage(EVENT_S, EVENT_S + 60, is_silent=True))
    down = OperatorPlan(outage=Outage(EVENT_S, 2 * EVENT_S))
    strangers = replace(rotation, name="rotation, strangers", stranger_s=1.0, duration_s=1.5 * EVENT_S)
    sudden = replace(base, name="restart of all", restart_s=EVENT_S, duration_s=2 * EVENT_S)
    rolling = replace(sudden, name="rolling restart, 2 % at once", restart_at_once=max(1.0, hosts / 50))
    with_strangers = [strangers, replace(strangers, name="rotation, strangers, 2 relays", relays=2)]
    return [
        base,
        replace(base, name="in peace, 2 relays", relays=2),
        rotation,
        replace(rotation, name="rotation, 1 relay", relays=1),
        replace(rotation, name="rotation, 2 relays", relays=2),
        replace(rotation, name="rotation, operator answers after 8 s", operator=replace(plan, think_s=8)),
        replace(rotation, name="rotation, 429 beyond 20/s", operator=limited),
        replace(rotation, name="rotation, 429 without Retry-After", operator=replace(limited, retry_after_s=0)),
        replace(rotation, name="rotation, 429 beyond 20/s, 2 relays", operator=limited, relays=2),
        replace(rotation, name="rotation in a fail-over of 60 s", operator=failing_over),
        *(with_strangers if hosts <= _MAX_WITH_STRANGERS else ()),
        replace(base, name="operator down for an hour", operator=down),
        replace(base, name="operator down for an hour, 2 relays", operator=down, relays=2),
        sudden,
        replace(sudden, name="restart of all, 2 relays", relays=2),
        replace(sudden, name="restart of all, key cache", has_cache=True),
        replace(sudden, name="restart of all, 429 beyond 20/s", operator=replace(limited, rotations_s=())),
        replace(sudden, name="restart of all, operator down, key cache", has_cache=True, operator=down),
        rolling,
        replace(rolling, name="rolling restart, 2 relays", relays=2),
    ]
