"""The chart for the README: throughput as bars, latency against offered load as lines."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import matplotlib as mpl

mpl.use("Agg")

from matplotlib import pyplot as plt
from matplotlib.axes import Axes

_COLOURS = {
    "uvloop, fixed answer": "#cccccc",
    "nginx": "#999999",
    "service, TCP": "#0072b2",
    "service, Unix socket": "#56b4e9",
    "service, TCP, interpreted": "#e69f00",
    "FastAPI + uid2-client": "#d55e00",
}
_LINES = {"p50": "-", "p99": "--", "p99.9": ":"}


def plot(http: Mapping[str, Any], machine: Mapping[str, str], path: Path) -> None:
    """Draw the results of `measure_serving` into a PNG file."""
    figure, (bars, lines) = plt.subplots(1, 2, figsize=(13, 4.8), width_ratios=(1, 1.5), layout="constrained")
    _draw_throughput(bars, http)
    _draw_latency(lines, http["curve"])
    figure.suptitle(f"POST /decrypt on one core of {machine['cpu']}: every answer checked", fontsize=11)
    figure.savefig(path, dpi=110)
    plt.close(figure)


def plot_openrtb(openrtb: Mapping[str, Any], path: Path) -> None:
    """Draw the cost of bid requests, by size and by the number of our uids, into a PNG file."""
    figure, axes = plt.subplots(1, 2, figsize=(13, 4.2), layout="constrained")
    for each, unit, xlabel in zip(
        axes, ("KB", "uids"), ("size of the bid request, KB", "uids of ours in 10 KB"), strict=True
    ):
        for route in ("/openrtb", "/openrtb/rewrite"):
            points = [
                (float(name.split()[1]), row["cpu_us"])
                for name, row in openrtb["http"].items()
                if name.startswith(f"{route}, ") and name.endswith(unit)
            ]
            each.plot(*zip(*sorted(points), strict=True), marker="o", label=route)
        each.axhline(openrtb["http"]["/decrypt"]["cpu_us"], color="grey", linestyle=":", label="/decrypt")
        each.set(xlabel=xlabel, ylabel="processor time of a request, µs", ylim=(0, None))
        each.grid(alpha=0.25)
        each.legend(fontsize=8)
    figure.savefig(path, dpi=110)
    plt.close(figure)


def _draw_throughput(axes: Axes, http: Mapping[str, Any]) -> None:
    names = [name for name in reversed(_COLOURS) if name in http["throughput"]]
    values = [http["throughput"][name]["rps"] / 1000 for name in names]
    bars = axes.barh(names, values, color=[_COLOURS[name] for name in names])
    axes.bar_label(bars, fmt="%.1f", padding=3)
    axes.set_xlabel(f"thousand requests/s, {http['connections']} connections")
    axes.margins(x=0.15)
    axes.spines[["top", "right"]].set_visible(False)


def _draw_latency(axes: Axes, curve: Mapping[str, Any]) -> None:
    for name, points in curve.items():
        for quantile, style in _LINES.items():
            axes.plot(
                [point["rate"] for point in points],
                [point["quantiles_us"][quantile] / 1000 for point in points],
                style,
                color=_COLOURS[name],
                marker="." if quantile == "p50" else None,
                label=name if quantile == "p50" else None,
            )
    for quantile, style in _LINES.items():
        axes.plot([], [], style, color="black", label=quantile)
    axes.set(xscale="log", yscale="log", xlabel="offered requests/s, Poisson", ylabel="ms from when a request fell due")
    axes.grid(which="both", alpha=0.25)
    axes.legend(fontsize=8, ncols=2)
    axes.spines[["top", "right"]].set_visible(False)
