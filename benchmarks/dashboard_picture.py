"""Draws the panels of the Grafana dashboard from a Prometheus, much as Grafana would."""

from collections.abc import Callable, Mapping, Sequence
from itertools import pairwise
from pathlib import Path
from string import Template
from typing import Any, NamedTuple

import matplotlib as mpl

mpl.use("Agg")

from matplotlib import pyplot as plt
from matplotlib.axes import Axes
from matplotlib.ticker import FuncFormatter, MaxNLocator
from PIL import Image

from tests.support.dashboard import load_dashboard, queries
from tests.support.prometheus import Prometheus

_VARIABLES = {"__rate_interval": "6s", "job": ".+", "instance": ".+"}
_STEP_S = 2
_COLUMNS = 24
_SCALES = {"s": ((1, "s"), (1e-3, "ms"), (1e-6, "µs")), "bytes": ((1e6, "MB"),)}
_GREY = "#555555"
_COLOURS = {"green": "#37872d", "blue": "#1f60c4", "yellow": "#e0b400", "red": "#c4162a"}


class Span(NamedTuple):
    """From when to when to look, Unix seconds."""

    start_s: float
    end_s: float


class _Line(NamedTuple):
    """A series: its label, minutes since the start, and values."""

    label: str
    minutes: list[float]
    values: list[float]


class _Source(NamedTuple):
    prometheus: Prometheus
    span: Span

    def lines(self, query: str, legend: str) -> list[_Line]:
        start_s, end_s = self.span
        found = self.prometheus.query_range(query, start_s=start_s, end_s=end_s, step_s=_STEP_S)
        return [
            _Line(
                Template(legend.replace("{{", "${").replace("}}", "}")).safe_substitute(series["metric"]),
                [(float(at_s) - start_s) / 60 for at_s, _ in series["values"]],
                [float(value) for _, value in series["values"]],
            )
            for series in found
        ]


def draw_dashboard(prometheus: Prometheus, span: Span, path: Path) -> None:
    """Draw every panel into a PNG."""
    source = _Source(prometheus, span)
    dashboard = load_dashboard()
    rows = max(panel["gridPos"]["y"] + panel["gridPos"]["h"] for panel in dashboard["panels"])
    figure = plt.figure(figsize=(17, rows * 0.36), layout="constrained", facecolor="#f4f5f5")
    grid = figure.add_gridspec(rows, _COLUMNS)
    (annotation,) = dashboard["annotations"]["list"]
    alerts = source.lines(Template(annotation["expr"]).substitute(_VARIABLES), "{{alertname}}")
    for panel in dashboard["panels"]:
        place = panel["gridPos"]
        axes = figure.add_subplot(
            grid[place["y"] : place["y"] + place["h"], place["x"] : place["x"] + place["w"]], facecolor="white"
        )
        _DRAW[panel["type"]](axes, panel, source)
        if panel["type"] in {"timeseries", "heatmap"}:
            for alert in alerts:
                axes.axvline(alert.minutes[0], color="red", linewidth=0.8, linestyle="--")
    figure.savefig(path, dpi=75)
    plt.close(figure)
    # A palette of 128 colours makes it a third of the size, and nobody sees it.
    Image.open(path).convert("RGB").quantize(128).save(path, optimize=True)


def _series(panel: Mapping[str, Any], source: _Source) -> list[_Line]:
    return [line for query, legend in queries(panel, _VARIABLES) for line in source.lines(query, legend)]


def _formatter(panel: Mapping[str, Any]) -> Callable[[float], str]:
    unit = panel["fieldConfig"]["defaults"].get("unit", "none")
    if unit == "percentunit":
        return lambda value: f"{100 * value:.3g} %"

    def format_value(value: float) -> str:
        if unit == "s" and abs(value) >= 3600:
            return f"{value / 3600:.3g} h"
        for scale, name in _SCALES.get(unit, ()):
            if abs(value) >= scale:
                return f"{value / scale:.3g} {name}"
        return f"{value:.4g}" + ("/s" if unit == "reqps" else "")

    return format_value


def _draw_row(axes: Axes, panel: Mapping[str, Any], _source: _Source) -> None:
    axes.axis("off")
    axes.text(0, 0.3, panel["title"], fontsize=13, fontweight="bold", transform=axes.transAxes)


def _draw_stat(axes: Axes, panel: Mapping[str, Any], source: _Source) -> None:
    (line,) = _series(panel, source)
    steps = panel["fieldConfig"]["defaults"]["thresholds"]["steps"]
    colour = [step["color"] for step in steps if step["value"] is None or line.values[-1] >= step["value"]][-1]
    colour = _COLOURS[colour]
    axes.fill_between(line.minutes, line.values, color=colour, alpha=0.15, linewidth=0)
    axes.set_ylim(0, 1.8 * max(line.values))
    axes.text(
        0.5, 0.5, _formatter(panel)(line.values[-1]), ha="center", fontsize=19, color=colour, transform=axes.transAxes
    )
    _dress(axes, panel)
    axes.set_xticks([])
    axes.set_yticks([])


def _draw_timeseries(axes: Axes, panel: Mapping[str, Any], source: _Source) -> None:
    defaults = panel["fieldConfig"]["defaults"]
    lines = sorted(_series(panel, source), key=lambda line: line.label)
    if defaults["custom"]["stacking"]["mode"] == "normal":
        colours = {
            override["matcher"]["options"]: _COLOURS[override["properties"][0]["value"]["fixedColor"]]
            for override in panel["fieldConfig"]["overrides"]
        }
        _draw_stack(axes, lines, colours, is_bars=defaults["custom"]["drawStyle"] == "bars")
    else:
        for line in lines:
            axes.plot(line.minutes, line.values, linewidth=1, label=line.label)
    if "scaleDistribution" in defaults["custom"]:
        axes.set_yscale("log")
    elif "min" in defaults:
        top = axes.get_ylim()[1]
        axes.set_ylim(defaults["min"] - 0.02 * top, 1.05 * top)  # so that lines at the edge are seen
        axes.yaxis.set_major_locator(MaxNLocator(5))
    axes.yaxis.set_major_formatter(FuncFormatter(lambda value, _: _formatter(panel)(value)))
    axes.yaxis.set_minor_formatter("")
    _set_minutes(axes, source)
    _dress(axes, panel)
    axes.legend(fontsize=6.5, ncols=2, loc="upper center", bbox_to_anchor=(0.5, -0.08), frameon=False)


def _draw_stack(axes: Axes, lines: Sequence[_Line], colours: Mapping[str, str], *, is_bars: bool) -> None:
    minutes = sorted({minute for line in lines for minute in line.minutes})
    below = [0.0] * len(minutes)
    for index, line in enumerate(lines):
        colour = colours.get(line.label, f"C{index}")
        found = dict(zip(line.minutes, line.values, strict=True))
        top = [base + found.get(minute, 0.0) for base, minute in zip(below, minutes, strict=True)]
        if is_bars:
            heights = [upper - lower for upper, lower in zip(top, below, strict=True)]
            axes.bar(minutes, heights, width=_STEP_S / 60, bottom=below, color=colour, label=line.label)
        else:
            axes.fill_between(minutes, below, top, color=colour, alpha=0.7, linewidth=0, label=line.label)
        below = top


def _draw_heatmap(axes: Axes, panel: Mapping[str, Any], source: _Source) -> None:
    """Buckets are cumulative: what a bucket holds itself is its difference from the one below."""
    lines = sorted(_series(panel, source), key=lambda line: float(line.label))
    own = [
        [upper - lower for upper, lower in zip(line.values, below.values, strict=True)]
        for below, line in pairwise(lines)
    ]
    bounds = [float(line.label) for line in lines[:-1]]
    mesh = [[value or float("nan") for value in row] for row in own[:-1]]
    axes.pcolormesh(lines[0].minutes, bounds, [row[1:] for row in mesh], cmap="Oranges")
    shown = [bounds[index] for index, row in enumerate(own[:-1]) if any(row)]
    axes.set_yscale("log")
    axes.set_ylim(shown[0], 2 * shown[-1])
    axes.yaxis.set_major_formatter(
        FuncFormatter(lambda value, _: _formatter({"fieldConfig": {"defaults": {"unit": "s"}}})(value))
    )
    axes.yaxis.set_minor_formatter("")
    _set_minutes(axes, source)
    _dress(axes, panel)


def _draw_table(axes: Axes, panel: Mapping[str, Any], source: _Source) -> None:
    ((query, _),) = queries(panel, _VARIABLES)
    for index, sample in enumerate(source.prometheus.query(query)):
        text = "   ".join(
            [*(f"{name} {value}" for name, value in sample["metric"].items()), f"sidecars {sample['value'][1]}"]
        )
        axes.text(0.03, 0.85 - 0.12 * index, text, fontsize=9, transform=axes.transAxes)
    _dress(axes, panel)
    axes.set_xticks([])
    axes.set_yticks([])


def _set_minutes(axes: Axes, source: _Source) -> None:
    axes.set_xlim(0, (source.span.end_s - source.span.start_s) / 60)
    axes.xaxis.set_major_locator(MaxNLocator(integer=True))
    axes.xaxis.set_major_formatter(FuncFormatter(lambda minute, _: f"{minute:.0f} min"))


def _dress(axes: Axes, panel: Mapping[str, Any]) -> None:
    axes.set_title(panel["title"], fontsize=9, loc="left")
    axes.tick_params(labelsize=7, colors=_GREY)
    axes.grid(visible=True, linewidth=0.3)
    for spine in axes.spines.values():
        spine.set_color("#dddddd")


_DRAW: dict[str, Callable[[Axes, Mapping[str, Any], _Source], None]] = {
    "row": _draw_row,
    "stat": _draw_stat,
    "timeseries": _draw_timeseries,
    "heatmap": _draw_heatmap,
    "table": _draw_table,
}
