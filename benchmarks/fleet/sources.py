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
from bidstream_svc.keystore.early_refreshes import EarlyRefreshes
from bidstream_svc.keystore.key_client import TOTAL_TIMEOUT_S
from bidstream_svc.keystore.refresh_schedule import draw_back_off_s, draw_interval_s
from bidstream_svc.operator.transport import OperatorTransport
from bidstream_svc.relay.relay_keys import HOLD_S
from bidstream_svc.relay.relay_plane import _MAX_SENDING_S

Steps: TypeAlias = Generator[simpy.Event, Any, "Answer"]

_TRANSPORT = inspect.signature(OperatorTransport).parameters
CONNECT_TIMEOUT_S: float = _TRANSPORT["connect_timeout_s"].default
READ_TIMEOUT_S: float = _TRANSPORT["read_timeout_s"].default


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
        relayed_s: when the relay that they came from had asked for them; None if they did not come from one.
    """

    result: Result
    generation: int = -1
    retry_after_s: float = 0.0
    relayed_s: float | None = None


class Source(Protocol):
    """What a host gets its keys from."""

    def answer(self, max_age_s: float | None) -> Steps:
        """Answer a call with keys of at most this age; None for the newest."""


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


class _Sender:
    """Ends answers: a processor computes the whole of one, and a link sends it."""

    def __init__(
        self,
        env: simpy.Environment,
        cpu: SharedCapacity,
        link: SharedCapacity,
        costs: "parameters.Costs",
        seen: Seen,
    ) -> None:
        self._env, self._cpu, self._link, self._costs, self._seen = env, cpu, link, costs, seen

    def send(self, cpu_s: float, patience_s: float, until_s: float) -> Generator[simpy.Event, Any, bool]:
        """Compute an answer within `patience_s`, and send it until a time. Returns whether the client got it."""
        env = self._env
        is_sent = patience_s > 0 and (yield self._cpu.use(cpu_s, patience_s))
        is_sent = is_sent and (yield self._link.use(self._costs.response_bytes, until_s - env.now))
        if not is_sent:
            self._seen.abandoned.add(env.now)
        return is_sent


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
        link = SharedCapacity(env, plan.bytes_per_s, plan.single_bytes_per_s, self.seen.sent_bytes.spread)
        self._sender = _Sender(env, cpu or SharedCapacity(env, plan.cores, 1.0), link, costs, self.seen)
        self._allowed, self._allowed_at_s = plan.limit_per_s, 0.0

    @property
    def generation(self) -> int:
        """How often the keys have been replaced."""
        return sum(moment_s <= self._env.now for moment_s in self._plan.rotations_s)

    def answer(self, max_age_s: float | None = None) -> Steps:
        """See Source. The operator always has the newest."""
        del max_age_s
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
        is_sent = yield from self._sender.send(self._costs.serve_cpu_s, patience_s, begun_s + TOTAL_TIMEOUT_S)
        return Answer(Result.KEYS, generation) if is_sent else Answer(Result.NETWORK)

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

    If that is too old for a request, it is refreshed first, at most once a minute. All that wait share that refresh,
    and none waits for longer than HOLD_S.
    """

    def __init__(
        self, env: simpy.Environment, operator: Operator, costs: "parameters.Costs", interval_s: float, random: Random
    ) -> None:
        self.seen = Seen()
        self._generation = -1
        self._env, self._operator, self._costs = env, operator, costs
        self._interval_s, self._random = interval_s, random
        link = SharedCapacity(
            env, parameters.RELAY_BYTES_PER_S.value, parameters.HOST_BYTES_PER_S.value, self.seen.sent_bytes.spread
        )
        self._sender = _Sender(env, SharedCapacity(env, parameters.RELAY_CORES.value, 1.0), link, costs, self.seen)
        self._early = EarlyRefreshes(interval_s, random.uniform)
        self._asked_s = -math.inf
        self._failures = 0
        self._has_changed = env.event()
        self._is_sleeping = False
        self._process = env.process(self._run())

    def answer(self, max_age_s: float | None) -> Steps:
        """See Source."""
        env, begun_s = self._env, self._env.now
        yield env.timeout(self._costs.round_trip_s)
        self.seen.requests.add(env.now)
        if self._generation < 0:
            yield from self._wait(-math.inf, env.now + HOLD_S)
        elif self._asked_s < env.now - (max_age_s or 0.0):
            self._ask()
            yield from self._wait(self._early.requested_s, self._early.requested_s + HOLD_S)
        if self._generation < 0:
            self.seen.refused.add(env.now)
            return Answer(Result.UNAVAILABLE)
        generation, asked_s = self._generation, self._asked_s
        patience_s = READ_TIMEOUT_S - (env.now - begun_s)
        is_sent = yield from self._sender.send(self._costs.relay_cpu_s, patience_s, env.now + _MAX_SENDING_S)
        return Answer(Result.KEYS, generation, relayed_s=asked_s) if is_sent else Answer(Result.NETWORK)

    def _ask(self) -> None:
        """As `KeyRefresher.request`."""
        if self._early.request(self._env.now) and self._is_sleeping:
            self._is_sleeping = False
            self._process.interrupt()

    def _wait(self, asked_s: float, until_s: float) -> Generator[simpy.Event, Any, None]:
        """Wait for keys that the operator was asked for at a time or later, but no longer than until another."""
        env = self._env
        while (self._generation < 0 or self._asked_s < asked_s) and env.now < until_s:
            yield env.any_of([self._has_changed, env.timeout(until_s - env.now)])

    def _run(self) -> Generator[simpy.Event, Any, None]:
        env, uniform = self._env, self._random.uniform
        while True:
            asked_s = env.now
            self._early.begin(asked_s, is_retry=self._failures > 0)
            answer = yield from self._operator.answer()
            if answer.result is Result.KEYS:
                yield env.timeout(self._costs.first_parse_cpu_s)
                self._generation, self._asked_s, self._failures = answer.generation, asked_s, 0
                self._early.succeed((), asked_s, env.now, is_relayed=False)
                changed, self._has_changed = self._has_changed, env.event()
                changed.succeed()
                wait_s = draw_interval_s(self._interval_s, uniform)
            else:
                self._early.fail(env.now)
                self._failures += 1
                wait_s = draw_back_off_s(
                    self._failures, uniform, retry_after_s=answer.retry_after_s, longest_s=self._interval_s
                )
            if self._failures or self._early.at_s > env.now:
                self._is_sleeping = not self._failures  # the wait after a failure is not shortened
                with suppress(simpy.Interrupt):
                    yield env.timeout(wait_s)
                self._is_sleeping = False
