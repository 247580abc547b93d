"""`python -m tests.faults.relays`: a fleet behind two relays, while the operator and relays fail and keys are rotated.

The embedded operator, two relays behind one address, sidecars with one worker each: the relays and the sidecars are
processes. Each sidecar gets requests at a rate throughout, and every answer is compared with the right one. A token of
new keys may get NOT_AUTHORIZED_FOR_KEY until the host has answered one of them rightly, and never after that.

Exit status 1 if an answer is wrong, if one is NOT_INITIALIZED, or if a host does not get new keys.
"""

import argparse
import signal
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import NamedTuple

import orjson

from bidstream_svc.keystore.refresh_schedule import MAX_BACK_OFF_S, MIN_EARLY_REFRESH_INTERVAL_S
from bidstream_svc.logs import configure_logging
from tests.faults.relay_hosts import RelayHosts
from tests.faults.relay_load import Counts, Load, questions, running_load
from tests.support.sidecar import wait_until

_INTERVAL_S = 150.0
_RATE_PER_S = 4.0
# An early refresh may have to wait for one at the host and for one at the relay, and one that fails for a pause.
_GIVEN_UP_S = 2 * MIN_EARLY_REFRESH_INTERVAL_S + MAX_BACK_OFF_S + 30.0


class Plan(NamedTuple):
    """How long the parts last.

    Attributes:
        hosts: sidecars.
        steady_s: a part in which nothing happens, and the pause before a rotation. From
            MIN_EARLY_REFRESH_INTERVAL_S on, a rotation finds nobody who has asked early within that time.
        outage_s: for how long the operator is down.
        relay_down_s: for how long a relay is down.
        interval_s: the refresh interval.
        rate_per_s: requests at each host.
        log_level: of the processes.
    """

    hosts: int
    steady_s: float
    outage_s: float
    relay_down_s: float
    interval_s: float = _INTERVAL_S
    rate_per_s: float = _RATE_PER_S
    log_level: str = "warning"


class Part(NamedTuple):
    """A row of the table.

    Attributes:
        name: what happened.
        counts: of the requests meanwhile.
        asked: requests for keys at the operator.
        level_s: from the event until all hosts were level; None where there was nothing to catch up.
        late: when each host was level, in seconds after the event, the latest last.
        failed: refreshes of hosts that failed.
    """

    name: str
    counts: Counts
    asked: int
    level_s: float | None
    late: list[float]
    failed: int

    @property
    def is_good(self) -> bool:
        """Whether what must be was: answers, all of them right."""
        return self.counts.answers > 0 and self.counts.wrong == self.counts.not_initialized == 0


class Trial:
    """Plays the parts, one after the other."""

    def __init__(self, plan: Plan, fleet: RelayHosts, load: Load) -> None:
        self._plan = plan
        self._fleet = fleet
        self._load = load

    def play(self) -> Iterator[Part]:
        """Play every part. Raises AssertionError where a host does not become level, or a process has ended."""
        plan = self._plan
        for name, act in (
            ("steady", self._rest),
            ("a relay killed, and started again", self._kill_relay),
            ("keys rotated", self._rotate),
            ("pause", self._rest),
            ("keys rotated while a relay is down", self._rotate_without_relay),
            (f"operator down for {plan.outage_s:.0f} s", self._stop_operator),
            ("keys rotated right after that", self._rotate_after_outage),
        ):
            yield self._watch(name, act)

    def _watch(self, name: str, act: Callable[[], list[float]]) -> Part:
        counts, asked, failed = self._load.counts, self._fleet.asked, self._fleet.failed_refreshes()
        late = act()
        self._fleet.check_alive()
        return Part(
            name,
            self._load.counts - counts,
            self._fleet.asked - asked,
            late[-1] if late else None,
            late,
            self._fleet.failed_refreshes() - failed,
        )

    def _rest(self) -> list[float]:
        time.sleep(self._plan.steady_s)
        return []

    def _kill_relay(self) -> list[float]:
        """Every host asks while there is one relay, so that none has a connection to the other left."""
        self._fleet.kill_relay(0)
        killed_s = time.monotonic()
        for host in self._fleet.hosts:
            host.signal(signal.SIGHUP)
            time.sleep(self._plan.relay_down_s / len(self._fleet.hosts))
        self._fleet.wait_without_errors(_GIVEN_UP_S)
        self._fleet.restart_relay(0)
        # SIGHUP is an early refresh for the relay that was left.
        time.sleep(max(0.0, killed_s + self._plan.relay_down_s + self._plan.steady_s - time.monotonic()))
        return []

    def _rotate(self) -> list[float]:
        state = self._fleet.operator.state
        state.rotate_keys()
        rotated_s = time.monotonic()
        rotation = self._load.add(questions(state, len(self._load.pools)))
        wait_until(lambda: not self._load.behind(rotation), "new keys on every host", _GIVEN_UP_S)
        return sorted(host.level_s[rotation] - rotated_s for host in self._load.hosts)

    def _rotate_without_relay(self) -> list[float]:
        self._fleet.kill_relay(1)
        late = self._rotate()
        self._fleet.restart_relay(1)
        return late

    def _stop_operator(self) -> list[float]:
        self._fleet.operator.stop()
        time.sleep(self._plan.outage_s)
        return []

    def _rotate_after_outage(self) -> list[float]:
        self._fleet.operator.start()
        late = self._rotate()
        self._fleet.wait_without_errors(_GIVEN_UP_S)
        return late


@contextmanager
def trial(plan: Plan, directory: Path) -> Iterator[Trial]:
    """A fleet under load, until the end of the block."""
    with RelayHosts(directory, plan.hosts, plan.interval_s, plan.log_level) as fleet:
        pool = questions(fleet.operator.state, 0)
        with running_load([host.data for host in fleet.hosts], plan.rate_per_s, pool) as load:
            yield Trial(plan, fleet, load)


def to_table(parts: list[Part]) -> str:
    """The rows as Markdown."""
    columns = ["part", "answers", "wrong", "`NOT_INITIALIZED`", "not yet", "requests at the operator"]
    columns += ["failed refreshes of hosts", "all level after"]
    lines = [f"| {' | '.join(columns)} |", "|---" * len(columns) + "|"]
    for part in parts:
        counts = part.counts
        level = "-" if part.level_s is None else f"{part.level_s:.1f} s"
        lines.append(
            f"| {part.name} | {counts.answers:,} | {counts.wrong} | {counts.not_initialized} | {counts.not_yet:,}"
            f" | {part.asked} | {part.failed} | {level} |"
        )
    return "\n".join(lines) + "\n"


def _to_json(parts: list[Part]) -> bytes:
    rows = [
        {
            "part": part.name,
            "answers": part.counts.answers,
            "wrong": part.counts.wrong,
            "not_initialized": part.counts.not_initialized,
            "not_yet": part.counts.not_yet,
            "operator_requests": part.asked,
            "failed_refreshes": part.failed,
            "level_s": part.level_s,
            "hosts_level_s": part.late,
        }
        for part in parts
    ]
    return orjson.dumps(rows, option=orjson.OPT_INDENT_2 | orjson.OPT_APPEND_NEWLINE)


def _parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="python -m tests.faults.relays", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--hosts", type=int, default=60, help="sidecars; each takes about 70 MB")
    parser.add_argument("--outage-s", type=float, default=300, help="for how long the operator is down")
    parser.add_argument(
        "--steady-s",
        type=float,
        default=MIN_EARLY_REFRESH_INTERVAL_S + 2,
        help="length of a part in which nothing happens, and pause before a rotation",
    )
    parser.add_argument("--relay-down-s", type=float, default=20, help="for how long a relay is down")
    parser.add_argument("--interval-s", type=float, default=_INTERVAL_S, help="refresh interval")
    parser.add_argument("--rate", type=float, default=_RATE_PER_S, help="requests a second at each host")
    parser.add_argument("--log-level", default="warning", help="of the processes")
    parser.add_argument("--keep", type=Path, metavar="DIR", help="an existing directory for what the processes print")
    parser.add_argument("--json", type=Path, metavar="FILE", help="also write the parts as JSON")
    return parser.parse_args()


def main() -> int:
    options = _parse()
    configure_logging("warning", None)  # of the service parts that run in this process
    plan = Plan(
        options.hosts,
        options.steady_s,
        options.outage_s,
        options.relay_down_s,
        options.interval_s,
        options.rate,
        options.log_level,
    )
    parts: list[Part] = []
    with tempfile.TemporaryDirectory() as scratch, trial(plan, options.keep or Path(scratch)) as running:
        try:
            for part in running.play():
                parts.append(part)
                level = [round(late, 2) for late in part.late[-5:]]
                sys.stderr.write(f"{part.name}: {part.counts}, {part.asked} asked, latest hosts {level}\n")
        except AssertionError as error:
            sys.stderr.write(f"FAILED: {error}\n")
            return 1
    sys.stdout.write(f"{plan.hosts} hosts, refresh interval {plan.interval_s:.0f} s.\n\n{to_table(parts)}")
    if options.json is not None:
        options.json.write_bytes(_to_json(parts))
    return 0 if all(part.is_good for part in parts) else 1


if __name__ == "__main__":
    sys.exit(main())
