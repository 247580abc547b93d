"""Good clients during an attack: some that were there before it, and some that come while it lasts."""

import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from statistics import median
from threading import Event, Thread
from typing import NamedTuple

from benchmarks.load import running_load
from benchmarks.material import write_requests
from tests.attacks.attacker import Attacker
from tests.faults.clients import Exchange, running_clients
from tests.support.raw_http import Response

_CONNECTIONS = 8
_REQUESTS_PER_S = 1_000
_MIN_REQUESTS = 100
_PROBE_EVERY_S = 0.1
_PROBE_ENDS_S = 15
_WARM_UP_S = 0.3
_SETTLE_S = 0.3  # after an attack
_NO_ANSWER = "none"


class Effort(NamedTuple):
    """How thoroughly to attack.

    Attributes:
        rounds: of the attack, with calm before each.
        calm_s: how long the calm lasts.
        attack_s: how long the attack goes on once all its connections have been made.
        measures_latency: whether the load generator is the good client.
    """

    rounds: int
    calm_s: float
    attack_s: float
    measures_latency: bool


QUICK = Effort(1, 0.0, 0.2, measures_latency=False)
BRIEF = Effort(1, 0.3, 1.0, measures_latency=True)
FULL = Effort(2, 0.7, 1.5, measures_latency=True)


class Latencies(NamedTuple):
    """Without an attack and during it, the median of the rounds."""

    calm: float
    attacked: float


class Served(NamedTuple):
    """What good clients with open connections got; every answer was right.

    Attributes:
        requests: answered during the attack.
        p99_us: None where it is not measured.
    """

    requests: int
    p99_us: Latencies | None = None


def serve_under_attack(
    address: str, pool: Sequence[Exchange], attacker: Attacker, effort: Effort, directory: Path
) -> Served:
    """Attack, and meanwhile send good requests on connections that were open before.

    Raises:
        RuntimeError: an answer was wrong or missing, or a connection was lost.
    """
    if effort.measures_latency:
        return _timed(address, pool, attacker, effort, directory)
    with running_clients(address, pool) as clients:
        clients.wait_for(_MIN_REQUESTS)
        before = clients.tally
        with attacker.attacking():
            clients.wait_for_seconds(effort.attack_s)
            clients.wait_for(_MIN_REQUESTS)
        tally = clients.tally - before
    if tally.bad or tally.repeated:
        raise RuntimeError(tally.problem or f"{tally.repeated} connections lost")
    return Served(tally.sent)


def _timed(address: str, pool: Sequence[Exchange], attacker: Attacker, effort: Effort, directory: Path) -> Served:
    requests = write_requests(directory / "requests", [(exchange.request, exchange.answer) for exchange in pool])
    log = directory / "latencies"
    marks: list[tuple[int, int, int]] = []
    with running_load(address, requests, connections=_CONNECTIONS, rate=_REQUESTS_PER_S, log=log):
        time.sleep(_WARM_UP_S)
        for _ in range(effort.rounds):
            calm_ns = time.monotonic_ns()
            time.sleep(effort.calm_s)
            begun_ns = time.monotonic_ns()
            with attacker.attacking():
                time.sleep(effort.attack_s)
            marks.append((calm_ns, begun_ns, time.monotonic_ns()))
            time.sleep(_SETTLE_S)
    numbers = memoryview(log.read_bytes()).cast("Q")
    return _tell_apart(list(zip(numbers[::2], numbers[1::2], strict=True)), marks)


def _tell_apart(requests: list[tuple[int, int]], marks: list[tuple[int, int, int]]) -> Served:
    """By when each was sent, in ns."""
    calm_us, attacked_us, served = [], [], 0
    for calm_ns, begun_ns, ended_ns in marks:
        calm_us.append(_p99_us([took_ns for sent_ns, took_ns in requests if calm_ns <= sent_ns < begun_ns]))
        during = [took_ns for sent_ns, took_ns in requests if begun_ns <= sent_ns < ended_ns]
        attacked_us.append(_p99_us(during))
        served += len(during)
    return Served(served, Latencies(median(calm_us), median(attacked_us)))


def _p99_us(latencies_ns: list[int]) -> float:
    return sorted(latencies_ns)[int(len(latencies_ns) * 0.99)] / 1e3


@contextmanager
def newcomers(ask: Callable[[], Response]) -> Iterator[Counter[str]]:
    """Ask on a new connection ten times a second, until the end of the block: answers by status, or none."""
    answers: Counter[str] = Counter()
    stop = Event()

    def keep_asking() -> None:
        while not stop.wait(_PROBE_EVERY_S):
            try:
                answers[str(ask().status)] += 1
            except (OSError, EOFError):
                answers[_NO_ANSWER] += 1

    thread = Thread(target=keep_asking, name="newcomers")
    thread.start()
    try:
        yield answers
    finally:
        stop.set()
        thread.join(_PROBE_ENDS_S)
