"""Tables of the simulated fleet, for the terminal and for docs/scale.md."""

import math
from collections.abc import Callable, Mapping
from typing import Any

from benchmarks.report import format_table

Fleet = Mapping[str, Any]

_SHOWN_HOSTS = 2_000  # the large fleet of which the document tells
_MB = 1e6


def render_fleet(fleet: Fleet) -> str:
    """Return all tables of what there is."""
    return "\n\n".join(table(fleet) for name, table in _TABLES.items() if name in fleet)


def parameters_table(fleet: Fleet) -> str:
    """Return what the model starts from."""
    rows = [
        (name.lower().replace("_", " "), _number(each["value"]), each["unit"], each["source"])
        for name, each in fleet["keys"]["parameters"].items()
    ]
    return format_table(("what", "value", "unit", "source"), rows)


def keys_table(fleet: Fleet) -> str:
    """Return what a large fleet does to an operator, and to tokens."""
    head = (
        *(
            "scenario",
            "requests/s at the operator, peak",
            "MB/s, peak",
            "answers given up",
            "requests/s at a relay, peak",
        ),
        *("NOT_INITIALIZED", "NOT_AUTHORIZED_FOR_KEY", "s until all are level"),
    )
    rows = []
    for name, runs in fleet["keys"]["scenarios"].items():
        row = _of_hosts(runs)
        if row is not None:
            rows.append(
                (
                    *(name, row["requests_peak"], row["bytes_peak"] / _MB, int(row["abandoned"])),
                    *(row["relay_requests_peak"], _tokens(row["not_initialized"]), _tokens(row["not_authorized"])),
                    _seconds(row["level_after_s"]),
                )
            )
    return format_table(head, rows)


def sizes_table(fleet: Fleet) -> str:
    """Return the peaks of a few scenarios by the number of hosts."""
    names = ("in peace", "rotation", "rotation, 2 relays", "restart of all", "restart of all, 2 relays")
    scenarios = fleet["keys"]["scenarios"]
    rows = []
    for number, _ in enumerate(scenarios[names[0]]):
        of_size = [scenarios[name][number] for name in names]
        rows.append(
            (
                of_size[0]["hosts"],
                *(f"{row['requests_peak']:,.0f} / {_seconds(row['level_after_s'])}" for row in of_size),
            )
        )
    return format_table(("hosts", *names), rows)


def optouts_table(fleet: Fleet) -> str:
    """Return what Redis does, and how late opt-outs are."""
    head = ("hosts", "opt-outs/s", "entries/s", "Redis' core, %", "MB/s from Redis", "p50, s", "p99, s", "longest, s")
    rows = [
        (
            *(row["hosts"], row["rate"], row["entries_per_s"], 100 * row["busy"], row["redis_bytes_per_s"] / _MB),
            *(_seconds(row[f"delay_p{part}_s"]) for part in (50, 99, 100)),
        )
        for row in fleet["optouts"]["as it is"]
    ]
    return format_table(head, rows)


def batches_table(fleet: Fleet) -> str:
    """Return what reads in batches would bring to a large fleet."""
    head = ("how", "opt-outs/s", "Redis' core, %", "p50, s", "p99, s")
    rows = [
        (name, row["rate"], 100 * row["busy"], _seconds(row["delay_p50_s"]), _seconds(row["delay_p99_s"]))
        for name, runs in fleet["optouts"].items()
        for row in runs
        if row["hosts"] == _SHOWN_HOSTS
    ]
    return format_table(head, rows)


def snapshots_table(fleet: Fleet) -> str:
    """Return how long it takes until all have a snapshot."""
    head = (
        "how",
        "million opt-outs",
        "hosts",
        "MB/s of a receiver",
        "snapshots written by it",
        "half, min",
        "last, min",
    )
    rows = [
        (
            *(name, row["ids"] / 1e6, row["hosts"], row["bytes_peak"] / _MB, int(row["written"])),
            *(_seconds(row["half_s"] / 60), _seconds(row["last_s"] / 60)),
        )
        for name, runs in fleet["snapshots"].items()
        for row in runs
        if row["hosts"] in {100, _SHOWN_HOSTS}
    ]
    return format_table(head, rows)


def real_table(fleet: Fleet) -> str:
    """Return the real fleet beside the simulated one."""
    real, simulated = fleet["real"]["real"], fleet["real"]["simulated"]
    rows = []
    for part in real:
        for what, unit in (("requests", "requests at the operator"), ("level_s", "s until all are level")):
            measured, expected = real[part][what], simulated[part][what]
            if measured:
                rows.append((part, unit, measured, expected, f"{100 * (expected / measured - 1):+.0f} %"))
    return format_table(("part", "what", "real", "simulated", "difference"), rows)


def relay_table(fleet: Fleet) -> str:
    """Return what a real relay does on one core."""
    rate, burst = fleet["relay"]["rate"], fleet["relay"]["burst"]
    rows = [
        ("answers a second", round(rate["responses_per_s"])),
        ("MB/s of them", round(rate["megabytes_per_s"])),
        ("processor time of one, ms", f"{rate['cpu_ms_per_response']:.2f}"),
        (f"{burst['sidecars']:,} sidecars ask at once: s until the last has its keys", f"{burst['seconds']:.1f}"),
        ("of these: requests that got 429 and came again", burst["refused"]),
        ("resident memory before that, MB", round(burst["idle_mb"])),
        ("resident memory at its peak, MB", round(burst["peak_mb"])),
    ]
    return format_table(("one relay on one core", "measured"), rows)


def redis_table(fleet: Fleet) -> str:
    """Return what a real Redis uses."""
    return format_table(("what", "measured"), list(fleet["redis"].items()))


_TABLES: Mapping[str, Callable[[Fleet], str]] = {
    "keys": lambda fleet: "\n\n".join(table(fleet) for table in (parameters_table, keys_table, sizes_table)),
    "optouts": lambda fleet: f"{optouts_table(fleet)}\n\n{batches_table(fleet)}",
    "snapshots": snapshots_table,
    "real": real_table,
    "relay": relay_table,
    "redis": redis_table,
}


def _of_hosts(runs: list[dict[str, Any]]) -> dict[str, Any] | None:
    return next((row for row in runs if row["hosts"] == _SHOWN_HOSTS), None)


def _tokens(number: float) -> str:
    return f"{number / 1e6:,.1f} M" if number >= 1e5 else f"{number:,.0f}"


def _seconds(number: float) -> str:
    if not math.isfinite(number):
        return "never"
    return f"{number:,.0f}" if number >= 100 else f"{number:.3g}"


def _number(value: float) -> str:
    return f"{value:,.0f}" if value >= 1_000 else f"{value:.3g}"
