"""`bidstream-svc identity`: an advertiser's requests."""

import asyncio
import itertools
import sys
from collections.abc import AsyncGenerator, Generator, Iterator, Sequence
from contextlib import ExitStack, closing, contextmanager
from pathlib import Path
from typing import Any, TypeAlias

import click

from bidstream_svc.cli.inputs import INPUT_FILE, kind_option, open_input
from bidstream_svc.cli.line_reader import InputError, LineReader
from bidstream_svc.cli.options import ONLY_OPERATOR_FIELDS, provided, setting_options
from bidstream_svc.cli.row_formats import INPUT_FORMATS, RowOptions, find_format, read_rows, take_first_line
from bidstream_svc.cli.row_writer import OUTPUT_FORMATS, RowWriter
from bidstream_svc.cli.rows import Row
from bidstream_svc.cli.streams import OutputError, tell
from bidstream_svc.config import load_settings
from bidstream_svc.core.errors import BidstreamError, EnvelopeError, OperatorError
from bidstream_svc.core.identity import Identity, IdentityKind
from bidstream_svc.operator import IdentityMapClient, IdentityMapResult, IdentityMapV3Result, OperatorTransport
from bidstream_svc.operator.batches import MAX_BATCH, MAX_CONCURRENCY
from bidstream_svc.operator.from_settings import make_transport

WINDOW_ROWS = MAX_BATCH * MAX_CONCURRENCY  # what the client sends at a time

_NAMED_DELIMITERS = {r"\t": "\t", "tab": "\t"}

_Batches: TypeAlias = AsyncGenerator[tuple[Sequence[Identity], Sequence[IdentityMapResult | IdentityMapV3Result]]]


@click.group()
def identity() -> None:
    """Calls for advertisers: look up raw uids."""


class InvalidRowError(BidstreamError):
    """A row is invalid, and `--strict` was given."""

    def __init__(self, row: Row) -> None:
        super().__init__(
            f"{row.place}: {row.problem}; mend it and go on with --start-row {row.number}, or skip it with "
            f"--start-row {row.number + 1}"
        )


def _check_delimiter(_context: click.Context, _parameter: click.Parameter, value: str | None) -> str | None:
    value = _NAMED_DELIMITERS.get(value or "", value)
    if value is not None and (len(value) != 1 or value in '"\r\n'):
        raise click.BadParameter(r"one character is needed, or \t for a tab, and no quote or line end")
    return value


@identity.command("map")
@click.argument("identities", nargs=-1, metavar="[IDENTITY]...")
@click.option("--input", "path", type=INPUT_FILE, help="file of any size to read instead of stdin; - is stdin")
@click.option("--input-format", type=click.Choice(INPUT_FORMATS), help="default: by the file's name and first line")
@click.option("--column", help="column of CSV or field of NDJSON to read; default: the name of the kind")
@click.option("--delimiter", callback=_check_delimiter, help=r"of CSV cells, \t for a tab; default: by the header")
@kind_option()
@click.option("--api", type=click.Choice(["2", "3"]), default="3", show_default=True, help="endpoint version")
@click.option("--output-format", type=click.Choice(OUTPUT_FORMATS), default="ndjson", show_default=True)
@click.option("--strict", is_flag=True, help="stop at the first invalid row, with exit status 1")
@click.option("--start-row", type=click.IntRange(1), default=1, help="first row to map; to continue after a failure")
@setting_options(*ONLY_OPERATOR_FIELDS)
def map_identities(  # noqa: PLR0913 - one argument for each option
    *,
    identities: tuple[str, ...],
    path: Path | None,
    input_format: str | None,
    column: str | None,
    delimiter: str | None,
    kind: str,
    api: str,
    output_format: str,
    strict: bool,
    start_row: int,
    **flags: Any,
) -> None:
    """Map e-mail addresses, phone numbers or hashes to raw uids.

    The input is stdin or a file: text with one identity a line, CSV with a header, or NDJSON. It may be compressed with
    gzip. If its format is found by its name or its first line, stderr says which it is. Identities can also be
    arguments, for tests with made-up ones: every user of this host can read arguments, and the shell's history keeps
    them. Only hashes are sent.

    Output rows are in the order of the input. Each has the number of its input row (in CSV, 1 is the first below the
    header) and does not repeat the identity. `reason` says why there is no raw uid: optout, or invalid identifier.
    Invalid rows are also listed on stderr; --strict stops at the first. Whatever cannot be an address or number is
    invalid, such as "Bob <bob@example.com>". If the run fails, the results before are printed, an error says with which
    --start-row to continue, and the exit status is 1.
    """
    if identities:
        _refuse_options_of_input(
            **{"--input": path, "--input-format": input_format, "--column": column, "--delimiter": delimiter}
        )
    transport = make_transport(load_settings(**provided(flags)).only_operator)
    writer = RowWriter(output_format, api, start_row)
    identity_kind = IdentityKind(kind)
    with _name_row_to_continue_at(writer), ExitStack() as stack:
        rows: Iterator[Row]
        if identities:
            lines, rows = None, itertools.starmap(Row, enumerate(identities, 1))
        else:
            lines = LineReader(stack.enter_context(open_input(path)))
            rows = _read_input(lines, path, RowOptions(identity_kind, input_format, column, delimiter))
        rows = _start_at(start_row, rows)
        rows = _identify(rows, identity_kind, is_strict=strict)
        _write_all(look_up(transport, rows, api), writer, lines)


def _refuse_options_of_input(**options: object) -> None:
    """Raise UsageError for options that say how to read the input, if identities are arguments."""
    if given := [name for name, value in options.items() if value is not None]:
        raise click.UsageError(f"{given[0]} is for identities in a file or on stdin, not in arguments")


def _read_input(lines: LineReader, path: Path | None, options: RowOptions) -> Iterator[Row]:
    """Rows of the input, after a line on stderr that says its format if the user has not."""
    first_line, all_lines = take_first_line(iter(lines))
    row_format = find_format(path, first_line, options)
    extras = [f"in {lines.encoding.upper()}"] if lines.encoding != "utf-8" else []
    if options.name is None and (row_format.name != "text" or extras):
        tell(f"bidstream-svc: reading {' '.join([str(row_format), *extras])}; --input-format overrides this")
    return read_rows(row_format, all_lines, options.kind)


def _start_at(start_row: int, rows: Iterator[Row]) -> Iterator[Row]:
    """The rows from this one on; a line on stderr if all are before it."""
    last = 0
    for row in rows:
        if row.number >= start_row:
            yield row
            yield from rows
            return
        last = row.number
    if last:
        tell(f"bidstream-svc: the last row of the input is {last}, and --start-row is {start_row}")


def _identify(rows: Iterator[Row], kind: IdentityKind, *, is_strict: bool) -> Iterator[Row]:
    """Set the identity or the problem of each row.

    Raises:
        InvalidRowError: while iterating, at the first problem if `is_strict`.
    """
    for row in rows:
        row.identify(kind)
        if is_strict and row.problem is not None:
            raise InvalidRowError(row)
        yield row


def look_up(transport: OperatorTransport, rows: Iterator[Row], api: str) -> Generator[list[Row]]:
    """Fill in results; yields the rows in order, at most WINDOW_ROWS at a time.

    No request is in flight while rows are read or yielded. So Ctrl-C takes effect while this waits for input, and
    neither a slow input nor a slow reader of the output makes a request time out.

    Args:
        transport: not entered; this generator enters it, and exits it when exhausted or closed.
        rows: any number of rows with identities or problems.
        api: version of the endpoint, "2" or "3".

    Raises:
        BidstreamError: a request failed, or `rows` raised it; the rows up to the last result before it have been
            yielded.
    """
    client = IdentityMapClient(transport)
    with asyncio.Runner() as runner:
        runner.run(transport.__aenter__())
        try:
            for window in _windows(rows):
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


def _windows(rows: Iterator[Row]) -> Iterator[list[Row]]:
    """Lists of WINDOW_ROWS rows; those before an exception are yielded before it is raised."""
    window: list[Row] = []
    try:
        for row in rows:
            window.append(row)
            if len(window) == WINDOW_ROWS:
                yield window
                window = []
    except BidstreamError:
        if window:
            yield window
        raise
    if window:
        yield window


async def _fill_in_results(rows: list[Row], client: IdentityMapClient, api: str) -> None:
    identities = [row.identity for row in rows if row.identity is not None]
    unanswered = iter([row for row in rows if row.identity is not None])
    batches: _Batches = client.map_batches(identities) if api == "2" else client.map_batches_v3(identities)
    async for _, results in batches:
        for result in results:
            next(unanswered).result = result


@contextmanager
def _name_row_to_continue_at(writer: RowWriter) -> Iterator[None]:
    """Make the error of a run that is interrupted or fails name the row to continue at."""
    try:
        yield
    except KeyboardInterrupt:
        raise BidstreamError(f"interrupted after row {writer.last_row}; {writer.resume_hint}") from None
    except BrokenPipeError:
        tell(
            f"bidstream-svc: nobody reads the output any more, stopped after row {writer.last_row}; "
            f"{writer.resume_hint}"
        )
        raise
    except OutputError as error:
        raise OutputError(f"{error}; it is complete to row {writer.last_row}; {writer.resume_hint}") from None
    except (OperatorError, EnvelopeError, InputError) as error:
        if isinstance(error, InputError) and not writer.total:
            raise
        raise BidstreamError(f"{error}; stopped before row {writer.last_row + 1}, {writer.resume_hint}") from None


def _write_all(windows: Generator[list[Row]], writer: RowWriter, lines: LineReader | None) -> None:
    """Write the rows of each window."""
    try:
        with _progress_bar(lines) as bar, closing(windows):
            for rows in windows:
                writer.write(rows)
                bar.update(0 if lines is None else lines.done_bytes - bar.pos)
        if not writer.total:
            writer.write_header()
            from_row = f" from row {writer.last_row + 1} on" if writer.last_row else ""
            tell(f"bidstream-svc: no identities in the input{from_row}")
    finally:
        writer.report_invalid()
        if lines is not None and lines.has_mixed_line_ends:
            tell(
                "bidstream-svc: some lines of the input end with CR and others with LF; each CR counts as a line end, "
                "so rows may have other numbers than elsewhere"
            )


def _progress_bar(lines: LineReader | None) -> Any:
    """A bar on stderr, hidden unless stderr is a terminal and stdout is not."""
    is_shown = lines is not None and sys.stderr.isatty() and not sys.stdout.isatty()
    size_bytes = lines.size_bytes if lines is not None else None
    return click.progressbar(
        itertools.count(), length=size_bytes, label="looking up", file=sys.stderr, hidden=not is_shown
    )
