"""`bidstream-svc bulk decrypt`: logs in, the same logs with raw uids out."""

import atexit
import gc
import signal
import time
from collections.abc import Callable, Generator, Iterator, Sequence
from contextlib import closing, contextmanager
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import click

from bidstream_svc.cli.bulk_report import Progress, Summary
from bidstream_svc.cli.streams import tell
from bidstream_svc.cli.time_option import moment_or_none
from bidstream_svc.cli.token_options import Judges, open_judges, scope_of, token_options
from bidstream_svc.clock import wall_clock_ms
from bidstream_svc.core.errors import BidstreamError

if TYPE_CHECKING:
    from bidstream_svc.bulk.batch_options import BatchOptions
    from bidstream_svc.bulk.part_work import PartResult
    from bidstream_svc.bulk.parts import Part

_FORMATS = ("parquet", "ndjson", "csv")
# More than the rows of a few batches that Python judges.
_OBJECTS_BETWEEN_COLLECTIONS = 100_000


@contextmanager
def _rare_collections() -> Iterator[None]:
    """Rows are freed without the collector of cycles, which would look at each of them in vain."""
    thresholds = gc.get_threshold()
    gc.set_threshold(_OBJECTS_BETWEEN_COLLECTIONS, *thresholds[1:])
    try:
        yield
    finally:
        gc.unfreeze()
        gc.set_threshold(*thresholds)


@click.command()
@click.argument("logs", nargs=-1, required=True, metavar="LOGS...")
@click.option("--output", required=True, metavar="DIR", help="directory of the output, or a URL")
@click.option("--token-column", default="token", show_default=True, metavar="COLUMN", help="the tokens")
@click.option(
    "--domain-column", metavar="COLUMN", help="the sites' domains or apps' bundle ids  [default: domain, if it exists]"
)
@click.option("--scope-column", metavar="COLUMN", help="the programmes of version 2 tokens: UID2, EUID or nothing")
@click.option("--time-column", metavar="COLUMN", help="judge each token as of this time of its row")
@click.option(
    "--at", "at_ms", metavar="TIME", callback=moment_or_none, help="judge all tokens as of this time  [default: now]"
)
@click.option("--bid-request-column", metavar="COLUMN", help="OpenRTB bid requests in JSON, instead of tokens")
@click.option(
    "--format", "output_format", type=click.Choice(_FORMATS), help="of the output  [default: that of each input]"
)
@click.option("--keep-tokens", is_flag=True, help="keep the column of tokens, or of bid requests")
@click.option("--strict", is_flag=True, help="stop at the first damaged row or file")
@click.option("--engine", type=click.Choice(["local", "ray"]), default="local", show_default=True, help="what runs it")
@click.option("--ray", "ray_address", metavar="ADDRESS", help="of a Ray cluster; with --engine ray")
@click.option("--threads", type=click.IntRange(1, 1024), help="of the local engine  [default: one for each core]")
@token_options
@click.pass_context
@_rare_collections()
def decrypt(
    context: click.Context,
    /,
    *,
    logs: tuple[str, ...],
    output: str,
    output_format: str | None,
    strict: bool,
    engine: str,
    ray_address: str | None,
    threads: int | None,
    keys: tuple[Path, ...],
    **flags: Any,
) -> None:
    """Decrypt the tokens in logs.

    Logs are Parquet, NDJSON or CSV, in files, directories or at URLs. Each row gets `status`, `uid` and `established`
    (Unix ms) behind its own columns, without the token. With --bid-request-column, there is a row for each id of a bid
    request.

    Each file appears in the output when it is whole. The same command goes on with a run that was stopped, and adds
    nothing twice. NDJSON and CSV may be compressed with gzip, zstd, bzip2 or lz4.

    Damaged rows and files are named on stderr, where a summary in JSON is the last line. The exit status is 1 if there
    were any.
    """
    if engine == "ray" and threads is not None:
        raise click.UsageError("--threads is for --engine local")
    if engine != "ray" and ray_address is not None:
        raise click.UsageError("--ray is for --engine ray")
    summary = Summary(time.monotonic())
    batch_flags = {name: flags.pop(name) for name in _BATCH_OPTIONS}
    from bidstream_svc.bulk.run import open_run  # noqa: PLC0415 - an extra, which --help does without

    judges = open_judges(keys, flags)
    options = _batch_options(judges, **batch_flags)
    if engine == "ray":
        from bidstream_svc.bulk.ray_engine import load_ray  # noqa: PLC0415

        load_ray(is_local=ray_address is None)
    if judges.optouts is None:
        tell("bidstream-svc: no opt-out store is given (--optouts): users who have opted out are decrypted, too")
    with open_run(logs, output, options, output_format=output_format, now_ms=wall_clock_ms()) as run:
        for result in run.kept:
            summary.add(result, is_kept=True)
        with Progress(run.todo) as progress:
            job = _Job(output, judges, options, run.now_ms, strict, progress.add)
            process = partial(_on_ray, address=ray_address) if engine == "ray" else partial(_on_threads, count=threads)
            _collect(process(job, run.todo), summary)
    summary.show(options.required_columns)
    if summary.is_damaged:
        context.exit(1)


class _Job(NamedTuple):
    """What engines need, besides the parts."""

    output: str
    judges: Judges
    options: "BatchOptions"
    now_ms: int
    strict: bool
    on_batch: Callable[[int, int], None]


def _on_threads(job: _Job, parts: Sequence["Part"], count: int | None) -> "Generator[PartResult]":
    from bidstream_svc.bulk.batch_keys import BatchKeys  # noqa: PLC0415
    from bidstream_svc.bulk.local_engine import process_parts  # noqa: PLC0415

    keys = BatchKeys(job.judges.snapshots, job.judges.optouts)
    # What is there lives as long as the run, and mostly as the process: no collection need scan it, nor the last one.
    gc.freeze()
    atexit.register(gc.freeze)
    return process_parts(
        parts,
        job.output,
        keys,
        job.options,
        job.now_ms,
        strict=job.strict,
        threads=count,
        on_batch=job.on_batch,
    )


def _on_ray(job: _Job, parts: Sequence["Part"], address: str | None) -> "Generator[PartResult]":
    from bidstream_svc.bulk.ray_engine import ClusterJob, process_parts  # noqa: PLC0415

    settings = job.judges.settings
    cluster_job = ClusterJob(
        output=job.output,
        snapshots=job.judges.snapshots,
        optout_store=settings.optout_store,
        withholds=settings.optout_when_stale == "withhold",
        options=job.options,
        now_ms=job.now_ms,
        strict=job.strict,
    )
    return process_parts(parts, cluster_job, address=address, on_batch=job.on_batch)


def _collect(results: "Generator[PartResult]", summary: Summary) -> None:
    """Count results as they come.

    Raises:
        BidstreamError: the run was interrupted.
    """
    usual_handler = signal.signal(signal.SIGTERM, signal.default_int_handler)
    try:
        with closing(results):
            for result in results:
                summary.add(result)
    except KeyboardInterrupt:
        raise BidstreamError("interrupted; files in the output are whole, and the same command goes on") from None
    finally:
        signal.signal(signal.SIGTERM, usual_handler)


_BATCH_OPTIONS = (
    "token_column",
    "domain_column",
    "scope_column",
    "scope",
    "time_column",
    "at_ms",
    "bid_request_column",
    "keep_tokens",
)


def _batch_options(judges: Judges, *, scope: str | None, **flags: Any) -> "BatchOptions":
    from bidstream_svc.bulk.batch_options import BatchOptions  # noqa: PLC0415

    return BatchOptions(scope=scope_of(scope), sources=dict(judges.settings.eid_sources), **flags)
