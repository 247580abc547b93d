"""Writes the kept results into the documents: `make figures`.

Two HTML comments, which are invisible when the document is rendered, mark the place of generated figures:

    <!-- figures: summary -->
    <!-- end of figures -->

The text between them is replaced by the block of that name. A test fails if it differs from the kept results.
"""

import json
import re
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

from benchmarks.fleet import tables
from benchmarks.fleet.scale import inputs_table, scale_table
from benchmarks.report import format_table, render
from benchmarks.rounds import median_ratio

ROOT = Path(__file__).parents[1]
KEPT = ROOT / "benchmarks" / "results"

Results = Mapping[str, Any]

_MARKED = re.compile(r"(?<=<!-- figures: )(\w+)( -->\n).*?(?=<!-- end of figures -->)", re.DOTALL)
_READ_AND_WRITE = "reading and writing alone"  # of benchmarks.bulk
_SUMMARY_ROWS = {
    "service, Unix socket": "bidstream-svc, Unix socket",
    "service, TCP": "bidstream-svc, TCP",
    "service, TCP, interpreted": "bidstream-svc, TCP, without the native kernel",
    "aiohttp application": "bidstream-svc, TCP, without the fast path (aiohttp answers every request)",
    "FastAPI + uid2-client": "FastAPI application on the published SDK (uid2-client), TCP",
    "nginx": "nginx, static answer of the same size, TCP",
    "uvloop, fixed answer": "uvloop, fixed answer, nothing read (the limit), TCP",
}


def fill_in(document: str, results: Results) -> str:
    """Return a document with every marked block written from these results.

    Raises:
        KeyError: a marker names no block.
    """
    return _MARKED.sub(lambda found: f"{found[1]}{found[2]}\n{BLOCKS[found[1]](results)}\n", document)


def documents() -> Iterator[Path]:
    """Yield the Markdown files that may contain figures."""
    for pattern in ("*.md", "docs/*.md", "benchmarks/*.md"):
        yield from sorted(ROOT.glob(pattern))


def kept_results() -> dict[str, Any]:
    """Return the results of the last complete run, and the last ones of costliest request, bulk and fleet."""
    results: dict[str, Any] = json.loads((KEPT / "latest.json").read_text(encoding="utf-8"))
    results["costliest"] = json.loads((KEPT / "costliest.json").read_text(encoding="utf-8"))
    bulk = KEPT / "bulk.json"
    results["bulk"] = json.loads(bulk.read_text(encoding="utf-8")) if bulk.exists() else None
    results["fleet"] = {
        path.stem: json.loads(path.read_text(encoding="utf-8")) for path in sorted((KEPT / "fleet").glob("*.json"))
    }
    return results


def _summary(results: Results) -> str:
    """Requests per second and latency of the service and of the other servers."""
    throughput, alone = results["http"]["throughput"], results["http"]["one_connection"]
    service = throughput["service, TCP"]["rps_rounds"]
    rows = [
        (
            title,
            throughput[name]["rps"],
            alone[name]["quantiles_us"]["p50"] if name in alone else "not measured",
            median_ratio(service, throughput[name]["rps_rounds"]),
        )
        for name, title in _SUMMARY_ROWS.items()
        if name in throughput
    ]
    head = ("server, on one core", "requests/s", "median latency, µs", "ratio")
    return f"{_origin(results)}\n\n{format_table(head, rows)}\n"


def _sizing(results: Results) -> str:
    """Throughput, processor time and memory of one worker."""
    http, batch, (*_, stall) = results["http"], results["sweeps"]["batch size"]["64"], results["stall"]
    tcp, unix = http["throughput"]["service, TCP"], http["throughput"]["service, Unix socket"]
    rows = [
        (f"requests/s over TCP, {http['connections']} connections", tcp["rps"]),
        (f"requests/s over a Unix socket, {http['connections']} connections", unix["rps"]),
        ("tokens/s in batches of 64", batch["tokens_per_s"]),
        ("processor time of a request over TCP, µs", tcp["cpu_us"]),
        *((f"of it {name}, µs", tcp[f"{name}_us"]) for name in ("user", "system") if f"{name}_us" in tcp),
        ("processor time of a request over a Unix socket, µs", unix["cpu_us"]),
        ("processor time of a batch of 64, µs", batch["cpu_us"]),
        ("resident memory with 5,000 keys, each of them used, MB", results["memory"]["service"]["used"]["rss"]),
        (
            f"longest stall at a refresh of {stall['keys']:,} keys and {stall['domains']:,} domains, ms (median)",
            stall["refresh_median_ms"],
        ),
    ]
    return f"{_origin(results)}\n\n{format_table(('one worker on one core', 'measured'), rows)}\n"


def _costliest(results: Results) -> str:
    """The cost of expensive requests, relative to good ones."""
    rows = [
        (name, row["cpu_us"] / 1000, row["to_good"], row["to_good_per_byte"])
        for name, row in results["costliest"]["rows"].items()
    ]
    head = ("request", "processor time, ms", "in good requests of its route", "per byte, to a good /decrypt")
    return f"{_origin(results['costliest'])}\n\n{format_table(head, rows)}\n"


def _bulk(results: Results) -> str:
    """Rates and memory of logs in bulk, on one machine."""
    bulk = results["bulk"]
    if bulk is None:
        return "Not measured yet.\n"
    rows: list[tuple[object, ...]] = []
    for line in bulk.get("batch", ()):
        rows += [(f"`decrypt_batch`, {line['rows']}, {name}", rate) for name, rate in line["tokens_per_s"].items()]
    for line in bulk.get("parquet", ()):
        rows.append(("`bulk decrypt`, Parquet to Parquet, start included", line["rows_per_s"]))
        rows.append(("the same threads that only read and write", bulk["rows"] / line["seconds"][_READ_AND_WRITE]))
    for line in bulk.get("uid2-client", ()):
        rows.append(("a loop over uid2-client, one thread", line["rows_per_s"]["uid2-client"]))
    for line in bulk.get("ray", ()):
        rows += [(f"`--engine {name}`, without its start", rate) for name, rate in line["rows_per_s"].items()]
    for line in bulk.get("spark", ()):
        rows += [(f"{name}, Parquet to Parquet".capitalize(), rate) for name, rate in line["rows_per_s"].items()]
    peaks: list[tuple[object, ...]] = [
        (name, mb) for line in bulk.get("memory", ()) for name, mb in line["peak_mb"].items()
    ]
    tables: list[tuple[tuple[str, str], list[tuple[object, ...]]]] = [
        ((f"{bulk['rows']:,} rows, all cores unless said otherwise", "rows/s"), rows),
        (("`bulk decrypt`, Parquet to Parquet", "peak memory, MB"), peaks),
    ]
    return "\n\n".join([_origin(bulk), *(format_table(head, each) for head, each in tables if each)]) + "\n"


def _origin(results: Results) -> str:
    """When and where the results were taken."""
    machine = results["machine"]
    python, date = machine["python"].split()[0], machine["date"].split()[0]
    return f"Measured on {date}: {machine['cpu']}, Python {python}, {machine['bidstream_svc']}."


# By the name in the marker.
BLOCKS: Mapping[str, Callable[[Results], str]] = {
    "summary": _summary,
    "sizing": _sizing,
    "costliest": _costliest,
    "bulk": _bulk,
    "all": render,
    "fleet_parameters": lambda results: tables.parameters_table(results["fleet"]) + "\n",
    "fleet_keys": lambda results: tables.keys_table(results["fleet"]) + "\n",
    "fleet_sizes": lambda results: tables.sizes_table(results["fleet"]) + "\n",
    "fleet_optouts": lambda results: tables.optouts_table(results["fleet"]) + "\n",
    "fleet_batches": lambda results: tables.batches_table(results["fleet"]) + "\n",
    "fleet_snapshots": lambda results: tables.snapshots_table(results["fleet"]) + "\n",
    "fleet_real": lambda results: tables.real_table(results["fleet"]) + "\n",
    "fleet_inputs": lambda results: inputs_table(results) + "\n",
    "fleet_scale": lambda results: scale_table(results) + "\n",
}


def main() -> None:
    """Write the kept results into every document."""
    results = kept_results()
    for path in documents():
        text = path.read_text(encoding="utf-8")
        path.write_text(fill_in(text, results), encoding="utf-8")


if __name__ == "__main__":
    main()
