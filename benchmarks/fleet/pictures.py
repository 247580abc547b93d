"""Pictures of the simulated fleet, and of the real one beside its simulation."""

import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import matplotlib as mpl

mpl.use("Agg")

from matplotlib import pyplot as plt
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from benchmarks.fleet.scenarios import Run

_COLOURS = ("#0072b2", "#d55e00", "#009e73", "#cc79a7", "#e69f00", "#56b4e9")
_DPI = 110


def _subplots(columns: int, title: str) -> tuple[Figure, Sequence[Axes]]:
    figure, axes = plt.subplots(1, columns, figsize=(5.6 * columns, 4.2), layout="constrained", squeeze=False)
    figure.suptitle(title, fontsize=12)
    for each in axes[0]:
        each.grid(which="major", alpha=0.3)
        each.spines[["top", "right"]].set_visible(False)
    return figure, list(axes[0])


def _save(figure: Figure, path: Path) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, dpi=_DPI)
    plt.close(figure)


def draw_event(runs: Mapping[str, Run], title: str, path: Path, *, window_s: int, unit: str = "requests") -> None:
    """Draw what the operator sees, and hosts that are not level, from a while before an event on.

    `unit` is "requests", or "bytes" for those that are sent.
    """
    figure, (left, right) = _subplots(2, title)
    for colour, (name, run) in zip(_COLOURS, runs.items(), strict=False):
        begin_s = int(run.event_s) - 10
        seconds = list(range(-10, window_s))
        seen = run.operator.requests if unit == "requests" else run.operator.sent_bytes
        values = seen.values(begin_s + window_s + 10)[begin_s : begin_s + len(seconds)]
        scaled = [max(value if unit == "requests" else value / 1e6, 0.5) for value in values]
        left.step(seconds[: len(scaled)], scaled, where="post", label=name, color=colour, linewidth=1.3)
        moments = [begin_s + step / 2 for step in range(2 * len(seconds))]
        right.plot(
            [moment_s - run.event_s for moment_s in moments],
            run.hosts.not_level.at(moments),
            label=name,
            color=colour,
            linewidth=1.5,
        )
    ylabel = "requests/s at the operator" if unit == "requests" else "MB/s sent by the operator"
    left.set(xlabel="seconds after the event", ylabel=f"{ylabel} (0 drawn at 0.5)", yscale="log", ylim=(0.45, None))
    right.set(xlabel="seconds after the event", ylabel="hosts without the newest keys", ylim=(0, None))
    right.legend(fontsize=8, frameon=False)
    _save(figure, path)


def draw_outage(runs: Mapping[str, Run], path: Path) -> None:
    """Draw calls of the operator over the hours, a minute each."""
    figure, (axes,) = _subplots(1, "The operator is down from 1 h to 2 h: calls of it, answered or not")
    figure.set_size_inches(8.5, 3.8)
    for colour, (name, run) in zip(_COLOURS, runs.items(), strict=False):
        values = run.operator.attempts.values(run.scenario.duration_s)
        minutes = [sum(values[start : start + 60]) / 60 for start in range(0, len(values), 60)]
        hours = [minute / 60 for minute in range(len(minutes))]
        axes.step(hours, [max(value, 0.01) for value in minutes], where="post", label=name, color=colour)
    axes.axvspan(1, 2, color="black", alpha=0.06)
    axes.set(xlabel="hours", ylabel="calls/s, mean of a minute (0 drawn at 0.01)", yscale="log")
    axes.legend(fontsize=8, frameon=False)
    _save(figure, path)


def draw_optouts(rows: Mapping[str, Sequence[Mapping[str, float]]], path: Path) -> None:
    """Draw how late opt-outs are, and how busy Redis is, by the number of hosts."""
    figure, (left, right) = _subplots(2, "Opt-outs through one Redis to all hosts, 1,000 opt-outs/s by two receivers")
    for colour, (name, runs) in zip(_COLOURS, rows.items(), strict=False):
        chosen = [row for row in runs if row["rate"] == 1_000]
        hosts = [row["hosts"] for row in chosen]
        left.plot(hosts, [row["delay_p99_s"] for row in chosen], "o-", color=colour, label=name)
        right.plot(hosts, [100 * row["busy"] for row in chosen], "o-", color=colour, label=name)
    left.set(xscale="log", yscale="log", xlabel="hosts", ylabel="s from the receiver to a host, p99")
    left.axhline(1, color="black", linestyle=":", linewidth=1)
    right.set(xscale="log", xlabel="hosts", ylabel="% of Redis' core", ylim=(0, 105))
    left.legend(fontsize=8, frameon=False)
    _save(figure, path)


def draw_snapshots(rows: Mapping[str, Sequence[Mapping[str, float]]], path: Path) -> None:
    """Draw when the last host has its snapshot, by the number of hosts."""
    figure, axes = _subplots(2, "All hosts need a snapshot at once, from two receivers")
    for each, ids in zip(axes, (10e6, 100e6), strict=True):
        for colour, (name, runs) in zip(_COLOURS, rows.items(), strict=False):
            chosen = [row for row in runs if row["ids"] == ids and math.isfinite(row["last_s"])]
            each.plot(
                [row["hosts"] for row in chosen],
                [row["last_s"] / 60 for row in chosen],
                "o-",
                color=colour,
                label=name,
            )
        each.set(xscale="log", yscale="log", xlabel="hosts", ylabel="minutes until the last host has it")
        each.set_title(f"{ids / 1e6:.0f} million opt-outs", fontsize=10)
    axes[0].legend(fontsize=8, frameon=False)
    _save(figure, path)


def draw_real(results: Mapping[str, Any], path: Path) -> None:
    """Draw real and simulated requests and hosts, a pair of axes for each part."""
    parts = list(results["real"])
    figure, axes = plt.subplots(2, len(parts), figsize=(11.2, 5.6), layout="constrained", sharex="col")
    figure.suptitle(f"{results['hosts']} real sidecars on one machine, and the simulation of them", fontsize=12)
    for column, part in enumerate(parts):
        for kind, colour, style in (("real", "#0072b2", "-"), ("simulated", "#d55e00", "--")):
            seen = results[kind][part]
            seconds = range(1, len(seen["per_second"]) + 1)
            summed = [sum(seen["per_second"][:second]) for second in seconds]
            axes[0][column].plot(seconds, summed, style, color=colour, label=kind)
            axes[1][column].plot(seconds, seen["not_level"], style, color=colour, label=kind)
        axes[0][column].set_title(part, fontsize=10)
        axes[0][column].set(ylabel="requests at the operator, summed" if column == 0 else "", ylim=(0, None))
        axes[1][column].set(
            xlabel="seconds", ylabel="hosts without the newest keys" if column == 0 else "", ylim=(0, None)
        )
        for row in range(2):
            axes[row][column].grid(alpha=0.3)
            axes[row][column].spines[["top", "right"]].set_visible(False)
    axes[0][0].legend(frameon=False)
    _save(figure, path)
