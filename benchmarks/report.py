"""Results as Markdown tables: for the terminal, and for the documents."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

from benchmarks.goals import GOALS


def render(results: Mapping[str, Any]) -> str:
    """Return all tables; a section that was not measured is left out."""
    parts: dict[str, Callable[[Any], Iterator[str]]] = {
        "http": _http,
        "heads": _heads,
        "kernel": _kernel,
        "stall": _stall,
        "sweeps": _sweeps,
        "memory": _memory,
        "admin": _admin,
        "openrtb": _openrtb,
        "enforcement": _enforcement,
        "failures": _failures,
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


def _kernel(kernel: Mapping[str, Any]) -> Iterator[str]:
    names = ("kernel", "python", "uid2_client", "python / kernel", "uid2_client / kernel")
    head = ("with the kernel, µs", "without, µs", "uid2-client, µs", "without / with", "uid2-client / with")
    for part, title in (("tokens", "good"), ("failing", "failing")):
        rows = [(kind, *(row[name] for name in names)) for kind, row in kernel[part].items()]
        yield _table(f"Within a process, from body to answer: {title} tokens", ("token", *head), rows)
    rows = [
        ("token of a batch of 64 with the kernel, µs", kernel["batch"]["kernel"]),
        ("token of a batch of 64 without, µs", kernel["batch"]["python"]),
        ("building the kernel of 5,000 keys and 60,000 domains, ms", kernel["build"]["total_ms"]),
        ("longest step of that, ms", kernel["build"]["longest_step_ms"]),
    ]
    yield _table("Within a process: batches, and building the kernel", ("what", "measured"), rows)


def _stall(rows: Sequence[Mapping[str, Any]]) -> Iterator[str]:
    head = (
        "keys",
        "domains",
        "response, MB",
        "refresh: median, ms",
        "max, ms",
        "no refresh: median, ms",
        "max, ms",
        "beyond, ms",
    )
    names = ("keys", "domains", "response_mb", "refresh_median_ms", "refresh_max_ms", "idle_median_ms", "idle_max_ms")
    table = [(*(row[name] for name in names), row.get("beyond_idle_ms", "not measured")) for row in rows]
    yield _table("Longest stall of the loop in a window", head, table)


_QUANTILES = ("p50", "p90", "p99", "p99.9", "max")
_SUMMARY_HEAD = (
    "requests/s",
    *(f"{name}, µs" for name in _QUANTILES),
    "CPU per request, µs",
    "user",
    "system",
    "server core",
    "generator core",
)


def _summary(row: Mapping[str, Any]) -> tuple[object, ...]:
    quantiles = [row["quantiles_us"][name] for name in _QUANTILES]
    cpu = [row.get(name, "not measured") for name in ("cpu_us", "user_us", "system_us")]
    return row["rps"], *quantiles, *cpu, f"{row['server_cpu']:.0%}", f"{row['generator_cpu']:.0%}"


def _http(http: Mapping[str, Any]) -> Iterator[str]:
    rows = [(name, *_summary(row)) for name, row in http["throughput"].items()]
    yield _table(f"Closed loop, {http['connections']} connections", ("server", *_SUMMARY_HEAD), rows)
    yield _table("Ratios of requests/s, medians of pairs", ("ratio", "value"), list(http["ratios"].items()))
    rows = [(name, *_summary(row)) for name, row in http["one_connection"].items()]
    yield _table("Closed loop, 1 connection", ("server", *_SUMMARY_HEAD), rows)
    if "half_load" in http:
        rows = [(name, *_summary(row)) for name, row in http["half_load"].items()]
        title = "Open loop at half of the service's throughput"
        yield _table(f"{title}, {http['half_load_rate']:,.0f} requests/s", ("server", *_SUMMARY_HEAD), rows)
    for name, points in http["curve"].items():
        rows = [(point["rate"], *(point["quantiles_us"][q] for q in _QUANTILES)) for point in points]
        head = ("offered/s", *(f"{q}, µs" for q in _QUANTILES))
        yield _table(f"Open loop, latency from the due time: {name}", head, rows)


def _heads(heads: Mapping[str, Any]) -> Iterator[str]:
    rows = [(name, row["rps_to_plain"], *_summary(row)) for name, row in heads.items()]
    yield _table("Service by the head of the client", ("client", "relative to the plain head", *_SUMMARY_HEAD), rows)


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
    yield _table("Memory of one process with 5,000 keys and 20,000 site domains", head, rows)


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


def _openrtb(openrtb: Mapping[str, Any]) -> Iterator[str]:
    rows = [(name, row["rps_to_decrypt"], *_summary(row)) for name, row in openrtb["http"].items()]
    yield _table(
        "Bid requests over HTTP, by size, and of 10 KB by uids of ours",
        ("request", "relative to /decrypt", *_SUMMARY_HEAD),
        rows,
    )
    names = list(next(iter(openrtb["in_process"].values())))
    rows = [(size, *(row[name] for name in names)) for size, row in openrtb["in_process"].items()]
    yield _table("Bid requests within a process, one of five eids ours, µs", ("size", *names), rows)


def _enforcement(enforcement: Mapping[str, Any]) -> Iterator[str]:
    rows = [
        (name, row["rps_to_without"], "yes" if row["has_filter"] else "no", *_summary(row))
        for name, row in enforcement.items()
    ]
    head = ("opt-outs", "relative to no store", "filter", *_SUMMARY_HEAD)
    yield _table("Service with an opt-out store, /decrypt, closed loop, 16 connections", head, rows)


def _failures(failures: Mapping[str, Any]) -> Iterator[str]:
    variants = ("with the sample", "without")
    rows = [
        (
            kind,
            name,
            *((row["rps_to_without"], row["cpu_to_without"]) if name == variants[0] else ("", "")),
            *_summary(row[name]),
        )
        for kind, row in failures["http"].items()
        for name in variants
    ]
    head = ("requests", "service", "requests/s, relative", "CPU, relative", *_SUMMARY_HEAD)
    yield _table("Failing tokens by site, /decrypt, closed loop, 16 connections", head, rows)
    times = [(kind, *(row[name] for name in (*variants, "to_without"))) for kind, row in failures["process"].items()]
    head = ("failing token", "with the sample, µs", "without, µs", "with / without")
    yield _table("The same within a process, from body to answer", head, times)
    times = [(kind, row["total_us"], row["longest_step_us"]) for kind, row in failures["recording"].items()]
    head = ("sample of half a second", "in all, µs", "longest step, µs")
    yield _table("Recording a sample of 32 failing tokens", head, times)


def _against(against: Mapping[str, Any]) -> Iterator[str]:
    rates = against["throughput"]
    rows = [
        (kind, rates[f"{kind}, this"]["rps"], rates[f"{kind}, other"]["rps"], ratio)
        for kind, ratio in against["ratios"].items()
    ]
    yield _table("Against another build", ("requests", "this, 1/s", "other, 1/s", "ratio"), rows)
