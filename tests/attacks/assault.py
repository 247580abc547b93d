"""Attacks a sidecar, watches it meanwhile, and checks that everything comes back."""

import time
from collections import Counter
from collections.abc import Callable
from contextlib import ExitStack
from functools import partial
from pathlib import Path

from bidstream_svc.devoperator import DevOperator
from tests.attacks.attacker import attacker
from tests.attacks.catalogue import ATTACKS
from tests.attacks.good_clients import Effort, newcomers, serve_under_attack
from tests.attacks.outcome import Outcome
from tests.attacks.victim import Variant, Victim, victim
from tests.faults.clients import exchanges
from tests.support.metrics_page import Scrape
from tests.support.raw_http import ask
from tests.support.sidecar import wait_until

_GROWTH_BYTES = 32 * 1024 * 1024  # of a process; the allocator keeps some of what it once had

_BACK_S = 60.0  # above the time-out of one attempt


class AttackSucceededError(Exception):
    """The sidecar did not hold out, or not everything came back."""


def assault(name: str, directory: Path, operator: DevOperator, variant: Variant, effort: Effort) -> Outcome:
    """Attack a new sidecar.

    Raises:
        AttackSucceededError: for the reason that it gives.
    """
    attack = ATTACKS[name]
    pool = exchanges(operator.state)
    with (
        victim(directory, operator, variant, attack.max_files) as attacked,
        attacker(name, attacked.target) as enemy,
    ):
        before, resident_bytes, processes = attacked.scrape(), attacked.resident_bytes, attacked.processes
        try:
            with ExitStack() as stack:
                probes = stack.enter_context(newcomers(lambda: ask(attacked.sidecar.admin, "/readyz", method="GET")))
                others = stack.enter_context(newcomers(lambda: attacked.ask_good(attacked.target.token)))
                served = serve_under_attack(attacked.good, pool, enemy, effort, directory)
            recovery_s = _recover(attacked, resident_bytes)
        except (AssertionError, RuntimeError, OSError, EOFError) as error:
            raise AttackSucceededError(_why(attacked, processes) or str(error)) from error
        why = _why(attacked, processes)
        if why:
            raise AttackSucceededError(why)
        if not attack.is_on_admin and probes and not probes["200"]:
            raise AttackSucceededError(f"no new connection got /readyz: {dict(probes)}")
        return Outcome(
            name,
            variant,
            enemy.visits,
            attacked.cage.peak_bytes,
            attacked.cage.socket_bytes,
            _refused(before, attacked.scrape()),
            served,
            others,
            probes,
            recovery_s,
            attacked.resident_bytes - resident_bytes,
        )


def _why(attacked: Victim, processes: list[int]) -> str:
    """What the sidecar died of; empty if it did not."""
    status = attacked.sidecar.process.poll()
    if attacked.cage.kills:
        return f"killed for want of memory, {attacked.cage.kills} times"
    if status is not None:
        return f"ended with {status}"
    return "" if attacked.processes == processes else "a worker ended"


def _recover(attacked: Victim, resident_bytes: int) -> float:
    """Wait until there is no connection, an answer, readiness, and the memory is back; the seconds that it took."""
    begun_s = time.monotonic()
    room_bytes = _GROWTH_BYTES * len(attacked.processes)
    for condition, what in (
        (lambda: attacked.scrape().value("bidstream_connections") == 0, "connections to be gone"),
        (lambda: attacked.ask_good(attacked.target.token).status == 200, "a good answer"),
        (lambda: ask(attacked.sidecar.admin, "/readyz", method="GET").status == 200, "/readyz"),
    ):
        wait_until(partial(_is_met, condition), what, _BACK_S)
    wait_until(
        lambda: attacked.resident_bytes <= resident_bytes + room_bytes,
        f"{(attacked.resident_bytes - resident_bytes) >> 20} MiB of resident memory to be given back",
        _BACK_S,
    )
    return time.monotonic() - begun_s


def _is_met(condition: Callable[[], bool]) -> bool:
    """An attempt on a new connection may be refused as long as the attacker's connections are being closed."""
    try:
        return condition()
    except (OSError, EOFError):
        return False


def _refused(before: Scrape, after: Scrape) -> Counter[str]:
    counts: Counter[str] = Counter()
    for name, label in (("bidstream_connections_refused_total", "reason"), ("bidstream_http_requests_total", "code")):
        for labels in after.labels(name):
            what = dict(labels)[label]
            if what != "200":
                counts[what] += int(after.values[name, labels] - before.values[name, labels])
    return counts
