"""`bidstream-svc identity`: an advertiser's requests."""

import asyncio
import itertools
import sys
from collections.abc import AsyncGenerator, Generator, Iterator, Sequence
from contextlib import ExitStack, closing
from pathlib import Path
from typing import Any, TypeAlias

import click

from bidstream_svc.cli.inputs import kind_option, open_input
from bidstream_svc.cli.options import OPERATOR_FIELDS, provided, setting_options
from bidstream_svc.cli.rows import INPUT_FORMATS, OUTPUT_FORMATS, LineReader, Row, RowWriter, format_of, read_rows
from bidstream_svc.config import load_settings
from bidstream_svc.core.errors import BidstreamError, EnvelopeError, OperatorError
from bidstream_svc.core.identity import Identity, IdentityKind
from bidstream_svc.operator import IdentityMapClient, IdentityMapResult, IdentityMapV3Result, OperatorTransport
from bidstream_svc.operator.batches import MAX_BATCH, MAX_CONCURRENCY
from bidstream_svc.operator.from_settings import make_transport

WINDOW_ROWS = MAX_BATCH * MAX_CONCURRENCY  # what the client sends at a time

_Batches: TypeAlias = AsyncGenerator[tuple[Sequence[Identity], Sequence[IdentityMapResult | IdentityMapV3Result]]]


@click.group()
def identity() -> None:
    """Calls for advertisers: look up raw uids."""


def _check_delimiter(_context: click.Context, _parameter: click.Parameter, value: str) -> str:
    if len(value) != 1 or value in '"\r\n':
        raise click.BadParameter("one character is needed, and no quote or line end")
    return value


@identity.command("map")
@click.argument("identities", nargs=-1, metavar="[IDENTITY]...")
@click.option("--input", "path", type=click.Path(path_type=Path), help="file of any size to read instead of stdin")
@click.option("--input-format", type=click.Choice(INPUT_FORMATS), help="default: by the suffix of the file, else text")
@click.option("--column", help="column of CSV or field of NDJSON to read; default: the name of the kind")
@click.option("--delimiter", default=",", callback=_check_delimiter, help="separator of CSV cells")
@kind_option()
@click.option("--api", type=click.Choice(["2", "3"]), default="3", show_default=True, help="endpoint version")
@click.option("--output-format", type=click.Choice(OUTPUT_FORMATS), default="ndjson", show_default=True)
@click.option("--start-row", type=click.IntRange(1), default=1, help="first row to map; to continue after a failure")
@setting_options(*OPERATOR_FIELDS)
def map_identities(
    *,
    identities: tuple[str, ...],
    path: Path | None,
    input_format: str | None,
    column: str | None,
    delimiter: str,
    kind: str,
    api: str,
    output_format: str,
    start_row: int,
    **flags: Any,
) -> None:
    """Map e-mail addresses, phone numbers or hashes to raw uids.

    The input is stdin or a file: text with one identity a line, CSV with a header, or NDJSON. Identities can also be
    arguments, for tests with made-up ones: every user of this host can read arguments, and the shell's history keeps
    them. Only hashes are sent.

    Output rows are in the order of the input. Each has the number of its input row (in CSV, 1 is the first below the
    header) and does not repeat the identity. `reason` says why there is no raw uid: optout, or invalid identifier.
    Invalid rows are also listed on stderr. If a request fails, the results before it are printed, an error says with
    which --start-row to continue, and the exit status is 1.
    """
    if identities and path is not None:
        raise click.UsageError("give identities as arguments or in --input, not both")
    transport = make_transport(load_settings(**provided(flags)))
    writer = RowWriter(output_format, api, start_row)
    with ExitStack() as stack:
        rows: Iterator[Row]
        if identities:
            lines, rows = None, itertools.starmap(Row, enumerate(identities, 1))
        else:
            lines = LineReader(stack.enter_context(open_input(path)))
            rows = read_rows(input_format or format_of(path), lines, column or kind, delimiter)
        rows = itertools.dropwhile(lambda row: row.number < start_row, rows)
        _write_all(look_up(transport, rows, IdentityKind(kind), api), writer, lines)


def look_up(transport: OperatorTransport, rows: Iterator[Row], kind: IdentityKind, api: str) -> Generator[list[Row]]:
    """Fill in identities and results; yields the rows in order, at most WINDOW_ROWS at a time.

    No request is in flight while rows are read or yielded. So Ctrl-C takes effect while this waits for input, and
    neither a slow input nor a slow reader of the output makes a request time out.

    Args:
        transport: not entered; this generator enters it, and exits it when exhausted or closed.
        rows: any number of rows as read, without identities.
        kind: the kind of identity in all rows.
        api: version of the endpoint, "2" or "3".

    Raises:
        OperatorError, EnvelopeError: a request failed; the rows up to the last result before it have been yielded.
    """
    client = IdentityMapClient(transport)
    with asyncio.Runner() as runner:
        runner.run(transport.__aenter__())
        try:
            while window := list(itertools.islice(rows, WINDOW_ROWS)):
                for row in window:
                    row.identify(kind)
                try:
                    runner.run(_fill_in_results(window, client, api))
                except (OperatorError, EnvelopeError):
                    while window and window[-1].result is None:
                        window.pop()
                    yield window
                    raise
                yield window
        finally:
            runner.run(transport.__aexit__(None, None, None))


async def _fill_in_results(rows: list[Row], client: IdentityMapClient, api: str) -> None:
    identities = [row.identity for row in rows if row.identity is not None]
    unanswered = iter([row for row in rows if row.identity is not None])
    batches: _Batches = client.map_batches(identities) if api == "2" else client.map_batches_v3(identities)
    async for _, results in batches:
        for result in results:
            next(unanswered).result = result


def _write_all(windows: Generator[list[Row]], writer: RowWriter, lines: LineReader | None) -> None:
    """Write the rows of each window. If that is interrupted or fails, the error names the row to continue at."""
    try:
        with _progress_bar(lines) as bar, closing(windows):
            for rows in windows:
                writer.write(rows)
                bar.update(0 if lines is None else lines.done_bytes - bar.pos)
    except KeyboardInterrupt:
        raise BidstreamError(f"interrupted after row {writer.last_row}; {writer.resume_hint}") from None
    except BrokenPipeError:
        click.echo(
            f"bidstream-svc: nobody reads the output any more, stopped after row {writer.last_row}; "
            f"{writer.resume_hint}",
            err=True,
        )
        raise
    except (OperatorError, EnvelopeError) as error:
        raise BidstreamError(f"{error}; stopped before row {writer.last_row + 1}, {writer.resume_hint}") from None
    finally:
        writer.report_invalid()
    if not writer.total:
        writer.write_header()
        click.echo("bidstream-svc: no identities in the input", err=True)


def _progress_bar(lines: LineReader | None) -> Any:
    """A bar on stderr, hidden unless stderr is a terminal and stdout is not."""
    is_shown = lines is not None and sys.stderr.isatty() and not sys.stdout.isatty()
    size_bytes = lines.size_bytes if lines is not None else None
    return click.progressbar(
        itertools.count(), length=size_bytes, label="looking up", file=sys.stderr, hidden=not is_shown
    )
