"""Results as Markdown tables: for the terminal, and for the documents."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

from benchmarks.goals import GOALS


def render(results: Mapping[str, Any]) -> str:
    """Return all tables; a section that was not measured is left out."""
    parts: dict[str, Callable[[Any], Iterator[str]]] = {
        "core": _core,
        "stall": _stall,
        "http": _http,
        "sweeps": _sweeps,
        "memory": _memory,
        "admin": _admin,
        "against": _against,
    }
    blocks = [_table("Machine", ("what", "value"), list(results["machine"].items()))]
    goals = list(_goals(results))
    if goals:
        blocks.append(_table("Goals", ("what", "measured", "at least", "aim", "verdict"), goals))
    for section, tables in parts.items():
        if section in results:
            blocks.extend(tables(results[section]))
    return "\n\n".join(blocks) + "\n"


def format_table(head: Sequence[str], rows: Sequence[Sequence[object]]) -> str:
    """Return a Markdown table with aligned columns; numbers have three significant digits."""
    cells = [tuple(head), *(tuple(_text(cell) for cell in row) for row in rows)]
    widths = [max(map(len, column)) for column in zip(*cells, strict=True)]
    padded = [[cell.ljust(width) for cell, width in zip(row, widths, strict=True)] for row in cells]
    lines = [f"| {' | '.join(row)} |" for row in padded]
    lines.insert(1, "|" + "|".join("-" * (width + 2) for width in widths) + "|")
    return "\n".join(lines)


def _table(title: str, head: Sequence[str], rows: Sequence[Sequence[object]]) -> str:
    return f"**{title}**\n\n{format_table(head, rows)}"


def _text(cell: object) -> str:
    if not isinstance(cell, float):
        return f"{cell:,}" if isinstance(cell, int) else str(cell)
    return f"{cell:,.0f}" if abs(cell) >= 1000 else f"{cell:.3g}" if abs(cell) < 100 else f"{cell:.0f}"


def _goals(results: Mapping[str, Any]) -> Iterator[tuple[object, ...]]:
    for goal in GOALS:
        try:
            value = goal.read(results)
        except (KeyError, ValueError):
            continue
        if value is not None:
            yield goal.name, value, goal.at_least, goal.aim, goal.verdict(value)


def _core(core: Mapping[str, Any]) -> Iterator[str]:
    rows = [(kind, row["ours_us"], row["uid2_client_us"], row["ratio"]) for kind, row in core["decrypt"].items()]
    yield _table("In-process decryption of a token", ("token", "service, µs", "uid2-client, µs", "ratio"), rows)
    for key, title in (("by_keys", "keys"), ("by_domains", "site domains, every domain checked")):
        costs = [(int(size), row["ours_us"], row["cost_to_first"]) for size, row in core[key].items()]
        yield _table(f"In-process, v4, by {title}", (title.partition(",")[0], "µs", "relative to the first"), costs)


def _stall(rows: Sequence[Mapping[str, Any]]) -> Iterator[str]:
    head = ("keys", "domains", "response, MB", "refresh: median, ms", "max, ms", "no refresh: median, ms", "max, ms")
    names = ("keys", "domains", "response_mb", "refresh_median_ms", "refresh_max_ms", "idle_median_ms", "idle_max_ms")
    yield _table("Longest stall of the loop in a window", head, [[row[name] for name in names] for row in rows])


_QUANTILES = ("p50", "p90", "p99", "p99.9", "max")
_SUMMARY_HEAD = (
    "requests/s",
    *(f"{name}, µs" for name in _QUANTILES),
    "CPU per request, µs",
    "server core",
    "generator core",
)


def _summary(row: Mapping[str, Any]) -> tuple[object, ...]:
    quantiles = [row["quantiles_us"][name] for name in _QUANTILES]
    return row["rps"], *quantiles, row["cpu_us"], f"{row['server_cpu']:.0%}", f"{row['generator_cpu']:.0%}"


def _http(http: Mapping[str, Any]) -> Iterator[str]:
    rows = [(name, *_summary(row)) for name, row in http["throughput"].items()]
    yield _table(f"Closed loop, {http['connections']} connections", ("server", *_SUMMARY_HEAD), rows)
    yield _table("Ratios of requests/s, medians of pairs", ("ratio", "value"), list(http["ratios"].items()))
    rows = [(name, *_summary(row)) for name, row in http["one_connection"].items()]
    yield _table("Closed loop, 1 connection", ("server", *_SUMMARY_HEAD), rows)
    for name, points in http["curve"].items():
        rows = [(point["rate"], *(point["quantiles_us"][q] for q in _QUANTILES)) for point in points]
        head = ("offered/s", *(f"{q}, µs" for q in _QUANTILES))
        yield _table(f"Open loop, latency from the due time: {name}", head, rows)


def _sweeps(sweeps: Mapping[str, Any]) -> Iterator[str]:
    for name, rows in sweeps.items():
        if name == "batch size":
            table = [(int(n), row["tokens_per_s"], row["tokens_to_singles"], *_summary(row)) for n, row in rows.items()]
            yield _table("Service by batch size", (name, "tokens/s", "to single requests", *_SUMMARY_HEAD), table)
        else:
            table = [(value, row["rps_to_first"], *_summary(row)) for value, row in rows.items()]
            yield _table(f"Service by {name}", (name, "relative to the first", *_SUMMARY_HEAD), table)


def _memory(memory: Mapping[str, Any]) -> Iterator[str]:
    head = ("server", "RSS at start, MB", "PSS", "RSS with every key used, MB", "PSS")
    rows = [(name, *row["start"].values(), *row["used"].values()) for name, row in memory.items()]
    yield _table("Memory with 5,000 keys and 20,000 site domains", head, rows)


def _admin(admin: Mapping[str, Any]) -> Iterator[str]:
    head = ("scrapers", "requests/s", *(f"{q}, µs" for q in _QUANTILES), "more at p50, µs", "more at p99, µs")
    for load, counts in admin.items():
        rows = [
            (
                count,
                row["rps"],
                *(row["quantiles_us"][q] for q in _QUANTILES),
                row["more_p50_us"],
                row["more_p99_us"],
            )
            for count, row in counts.items()
        ]
        yield _table(f"Data plane while /metrics is scraped in a loop: {load}", head, rows)


def _against(against: Mapping[str, Any]) -> Iterator[str]:
    rates = against["throughput"]
    rows = [
        (kind, rates[f"{kind}, this"]["rps"], rates[f"{kind}, other"]["rps"], ratio)
        for kind, ratio in against["ratios"].items()
    ]
    yield _table("Against another build", ("requests", "this, 1/s", "other, 1/s", "ratio"), rows)
