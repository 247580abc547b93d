"""The result of a fault, and how long faults last."""

from collections.abc import Iterable
from typing import NamedTuple

from tests.faults.clients import Tally


class Effort(NamedTuple):
    """How thoroughly to try.

    Attributes:
        fault_s: seconds that a fault lasts at least.
        hurries: no waiting for time-outs and back-off: hangs are ended, SIGHUP asks for a refresh.
        slow_clients: connections that send slowly.
        request_timeout_s: of the sidecar that they send to.
        measures_latency: whether the load generator looks at a good client meanwhile.
    """

    fault_s: float
    hurries: bool
    slow_clients: int
    request_timeout_s: float
    measures_latency: bool


QUICK = Effort(0.0, hurries=True, slow_clients=100, request_timeout_s=0.5, measures_latency=False)
FULL = Effort(2.0, hurries=False, slow_clients=2_000, request_timeout_s=5.0, measures_latency=True)


class Outcome(NamedTuple):
    """One row of the table.

    Attributes:
        fault: what went wrong.
        tally: of the requests sent during it.
        recovery_s: from the end of the fault until all is well again; None where nothing has to recover.
        remark: what else there is to say.
    """

    fault: str
    tally: Tally
    recovery_s: float | None = None
    remark: str = ""

    def check(self) -> None:
        """Every request got its right answer."""
        assert self.tally.sent > 0, f"{self.fault}: nothing was asked"
        assert self.tally.bad == 0, f"{self.fault}: {self.tally.problem}"


def to_table(outcomes: Iterable[Outcome]) -> str:
    """The rows as Markdown."""
    lines = ["| fault | requests during it | wrong or failed | time to recover | remark |", "|---|---|---|---|---|"]
    for outcome in outcomes:
        recovery = "-" if outcome.recovery_s is None else f"{outcome.recovery_s:.2f} s"
        lines.append(
            f"| {outcome.fault} | {outcome.tally.sent:,} | {outcome.tally.bad} | {recovery} | {outcome.remark} |"
        )
    return "\n".join(lines) + "\n"
