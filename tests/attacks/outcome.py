"""What came of an attack, and the table of all."""

from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass, field

from tests.attacks.catalogue import ATTACKS
from tests.attacks.good_clients import Served
from tests.attacks.victim import Variant

_MIB = 1024 * 1024
_OK = "200"
_COLUMNS = (
    "attack",
    "connections",
    "peak memory",
    "refused",
    "good requests served",
    "p99 without, during",
    "newcomers served",
    "`/readyz` answered",
    "all back after",
)


@dataclass(frozen=True, slots=True)
class Outcome:
    """One attack on one variant.

    Attributes:
        name: of the attack.
        visits: connections that the attacker made.
        peak_bytes, socket_bytes: the most memory of all processes, and of TCP's buffers where they are apart.
        refused: connections by reason, and other answers than 200 by status.
        newcomers, probes: answers by status to good requests and to `/readyz` on new connections.
        recovery_s: from the end of the attack until everything was as before.
        grown_bytes: resident memory then, less what it was before.
        problem: why the attack succeeded; empty if it did not.
    """

    name: str
    variant: Variant
    visits: int = 0
    peak_bytes: int | None = None
    socket_bytes: int | None = None
    refused: Counter[str] = field(default_factory=Counter)
    served: Served | None = None
    newcomers: Counter[str] = field(default_factory=Counter)
    probes: Counter[str] = field(default_factory=Counter)
    recovery_s: float = 0.0
    grown_bytes: int = 0
    problem: str = ""

    def __str__(self) -> str:
        if self.problem:
            return f"{self.name} ({self.variant}): FAILED: {self.problem}"
        return f"{self.name} ({self.variant}): " + ", ".join(_cells([self])[2:])


def to_table(outcomes: Iterable[Outcome]) -> str:
    """A row for each attack, with the worst of its variants, as Markdown."""
    by_name: dict[str, list[Outcome]] = {}
    for outcome in outcomes:
        by_name.setdefault(outcome.name, []).append(outcome)
    rows = [_cells(variants) for variants in by_name.values()]
    return "\n".join(f"| {' | '.join(cells)} |" for cells in (_COLUMNS, ["---"] * len(_COLUMNS), *rows)) + "\n"


def _cells(variants: list[Outcome]) -> list[str]:
    """The cells of a row; latencies are those of the first variant."""
    attack, first = ATTACKS[variants[0].name], variants[0]
    failed = [f"**{outcome.variant}: {outcome.problem}**" for outcome in variants if outcome.problem]
    back_s, grown = max(o.recovery_s for o in variants), max(o.grown_bytes for o in variants)
    return [
        attack.title,
        f"{attack.connections:,}",
        _memory(variants),
        _counts(sum((outcome.refused for outcome in variants), Counter())),
        f"{sum(outcome.served.requests for outcome in variants if outcome.served):,}",
        _latency(first.served),
        _share(outcome.newcomers for outcome in variants),
        _share(outcome.probes for outcome in variants),
        f"{'; '.join(failed)}" if failed else f"{back_s:.1f} s, {grown / _MIB:+.0f} MiB",
    ]


def _latency(served: Served | None) -> str:
    if served is None or served.p99_us is None:
        return "-"
    return f"{served.p99_us.calm / 1e3:.1f}, {served.p99_us.attacked / 1e3:.1f} ms"


def _memory(variants: list[Outcome]) -> str:
    peaks = [outcome.peak_bytes for outcome in variants if outcome.peak_bytes is not None]
    sockets = [outcome.socket_bytes for outcome in variants if outcome.socket_bytes is not None]
    if not peaks:
        return "-"
    return f"{max(peaks) / _MIB:.0f} MiB" + (f", sockets {max(sockets) / _MIB:.0f}" if sockets else "")


def _counts(counts: Counter[str]) -> str:
    return ", ".join(f"{number:,} of `{what}`" for what, number in counts.most_common() if number) or "0"


def _share(answers: Iterable[Counter[str]]) -> str:
    together: Counter[str] = sum(answers, Counter())
    return f"{together[_OK]} of {together.total()}"
