"""Where keys come from: an operator with its faults, and relays in front of it."""

import inspect
import math
from collections.abc import Generator
from contextlib import suppress
from dataclasses import dataclass, field
from enum import Enum, auto
from random import Random
from typing import Any, NamedTuple, Protocol, TypeAlias

import simpy

from benchmarks.fleet import parameters
from benchmarks.fleet.capacity import SharedCapacity
from benchmarks.fleet.series import PerSecond
from bidstream_svc.keystore.refresh_schedule import draw_back_off_s, draw_interval_s
from bidstream_svc.operator.transport import OperatorTransport

Steps: TypeAlias = Generator[simpy.Event, Any, "Answer"]

_TRANSPORT = inspect.signature(OperatorTransport).parameters
CONNECT_TIMEOUT_S: float = _TRANSPORT["connect_timeout_s"].default
READ_TIMEOUT_S: float = _TRANSPORT["read_timeout_s"].default
TOTAL_TIMEOUT_S: float = _TRANSPORT["total_timeout_s"].default


class Result(Enum):
    """How a call ended."""

    KEYS = auto()
    RATE_LIMITED = auto()
    UNAVAILABLE = auto()
    NETWORK = auto()


class Answer(NamedTuple):
    """The end of a call.

    Attributes:
        generation: of the keys; they count up with each rotation.
        retry_after_s: what the operator asks for; 0 for nothing.
    """

    result: Result
    generation: int = -1
    retry_after_s: float = 0.0


class Source(Protocol):
    """What a host gets its keys from."""

    def answer(self, *, is_early: bool) -> Steps:
        """Answer a call. `is_early`: a token had an unknown key, so that only the newest keys will do."""


@dataclass(frozen=True, slots=True)
class Outage:
    """A time in which the operator cannot be reached.

    Attributes:
        is_silent: connections time out, as in a fail-over; else they are refused.
    """

    begin_s: float
    end_s: float
    is_silent: bool = False


@dataclass(frozen=True, slots=True)
class OperatorPlan:
    """What the operator is able to do, and what happens to it.

    Attributes:
        think_s: seconds before it begins to answer.
        limit_per_s: requests a second that it answers; the others get 429. A second's worth may come at once.
        retry_after_s: what it asks for in a 429; 0 for no such header.
        bytes_per_s: of its link, for all answers together.
        single_bytes_per_s: of the link of one client.
        cores: that compute answers.
        rotations_s: when its keys are replaced.
    """

    think_s: float = 0.0
    limit_per_s: float = math.inf
    retry_after_s: float = 0.0
    bytes_per_s: float = parameters.OPERATOR_BYTES_PER_S.value
    single_bytes_per_s: float = parameters.HOST_BYTES_PER_S.value
    cores: float = parameters.OPERATOR_CORES.value
    outage: Outage | None = None
    rotations_s: tuple[float, ...] = ()


@dataclass(slots=True)
class Seen:
    """What a server sees each second.

    Attributes:
        attempts: to reach it, also while it is down.
        requests: that have reached it.
        refused: with 429 or 503.
        abandoned: answers that the client did not wait for.
    """

    attempts: PerSecond = field(default_factory=PerSecond)
    requests: PerSecond = field(default_factory=PerSecond)
    refused: PerSecond = field(default_factory=PerSecond)
    sent_bytes: PerSecond = field(default_factory=PerSecond)
    abandoned: PerSecond = field(default_factory=PerSecond)


class Operator:
    """The operator.

    Args:
        env: the simulation.
        plan: what happens to it.
        costs: what an answer costs.
        cpu: computes the answers; None for the cores of the plan.
    """

    def __init__(
        self, env: simpy.Environment, plan: OperatorPlan, costs: "parameters.Costs", cpu: SharedCapacity | None = None
    ) -> None:
        self.seen = Seen()
        self._env, self._plan, self._costs = env, plan, costs
        self._cpu = cpu or SharedCapacity(env, plan.cores, 1.0)
        self._link = SharedCapacity(env, plan.bytes_per_s, plan.single_bytes_per_s, self.seen.sent_bytes.spread)
        self._allowed, self._allowed_at_s = plan.limit_per_s, 0.0

    @property
    def generation(self) -> int:
        """How often the keys have been replaced."""
        return sum(moment_s <= self._env.now for moment_s in self._plan.rotations_s)

    def answer(self, *, is_early: bool) -> Steps:
        """See Source. The operator makes no difference."""
        del is_early
        env, plan = self._env, self._plan
        self.seen.attempts.add(env.now)
        outage = plan.outage
        if outage is not None and outage.begin_s <= env.now < outage.end_s:
            yield env.timeout(CONNECT_TIMEOUT_S if outage.is_silent else self._costs.round_trip_s)
            return Answer(Result.NETWORK)
        begun_s = env.now
        yield env.timeout(self._costs.connect_s)
        self.seen.requests.add(env.now)
        if not self._admit():
            self.seen.refused.add(env.now)
            return Answer(Result.RATE_LIMITED, retry_after_s=plan.retry_after_s)
        generation = self.generation
        if plan.think_s:
            yield env.timeout(min(plan.think_s, READ_TIMEOUT_S))
        # The whole answer is computed before its first byte is sent.
        patience_s = READ_TIMEOUT_S - min(plan.think_s, READ_TIMEOUT_S)
        if patience_s <= 0 or not (yield self._cpu.use(self._costs.serve_cpu_s, patience_s)):
            self.seen.abandoned.add(env.now)
            return Answer(Result.NETWORK)
        if not (yield self._link.use(self._costs.response_bytes, TOTAL_TIMEOUT_S - (env.now - begun_s))):
            self.seen.abandoned.add(env.now)
            return Answer(Result.NETWORK)
        return Answer(Result.KEYS, generation)

    def _admit(self) -> bool:
        limit, now = self._plan.limit_per_s, self._env.now
        if limit == math.inf:
            return True
        self._allowed = min(max(limit, 1.0), self._allowed + (now - self._allowed_at_s) * limit)
        self._allowed_at_s = now
        if self._allowed < 1:
            return False
        self._allowed -= 1
        return True


class Relay:
    """A relay: refreshes its keys as a host does, and answers hosts from what it holds.

    A request for the newest keys waits for a fetch that begins after it. All that wait share one.
    """

    def __init__(
        self, env: simpy.Environment, operator: Operator, costs: "parameters.Costs", interval_s: float, random: Random
    ) -> None:
        self.seen = Seen()
        self.generation = -1
        self._env, self._operator, self._costs = env, operator, costs
        self._interval_s, self._random = interval_s, random
        self._cpu = SharedCapacity(env, parameters.RELAY_CORES.value, 1.0)
        self._link = SharedCapacity(
            env, parameters.RELAY_BYTES_PER_S.value, parameters.HOST_BYTES_PER_S.value, self.seen.sent_bytes.spread
        )
        self._fetched = env.event()  # the next fetch to begin ends
        self._is_asked = False
        self._process = env.process(self._run())
        self._is_sleeping = False

    def answer(self, *, is_early: bool) -> Steps:
        """See Source."""
        env, begun_s = self._env, self._env.now
        yield env.timeout(self._costs.round_trip_s)
        self.seen.requests.add(env.now)
        if is_early:
            self._ask()
            answer: Answer = yield self._fetched
            if answer.result is not Result.KEYS:
                return answer
        if self.generation < 0:
            self.seen.refused.add(env.now)
            return Answer(Result.UNAVAILABLE)
        generation = self.generation
        if not (yield self._cpu.use(self._costs.relay_cpu_s, READ_TIMEOUT_S)):
            self.seen.abandoned.add(env.now)
            return Answer(Result.NETWORK)
        if not (yield self._link.use(self._costs.response_bytes, TOTAL_TIMEOUT_S - (env.now - begun_s))):
            self.seen.abandoned.add(env.now)
            return Answer(Result.NETWORK)
        return Answer(Result.KEYS, generation)

    def _ask(self) -> None:
        self._is_asked = True
        if self._is_sleeping:
            self._process.interrupt()

    def _run(self) -> Generator[simpy.Event, Any, None]:
        failures = 0
        while True:
            self._is_asked, fetched, self._fetched = False, self._fetched, self._env.event()
            answer = yield from self._operator.answer(is_early=True)
            if answer.result is Result.KEYS:
                yield self._env.timeout(self._costs.first_parse_cpu_s)
                self.generation, failures = answer.generation, 0
                wait_s = draw_interval_s(self._interval_s, self._random.uniform)
            else:
                failures += 1
                wait_s = draw_back_off_s(failures, self._random.uniform, retry_after_s=answer.retry_after_s)
            fetched.succeed(answer)
            if self._is_asked and not failures:
                continue
            self._is_sleeping = True
            with suppress(simpy.Interrupt):
                yield self._env.timeout(wait_s)
            self._is_sleeping = False
