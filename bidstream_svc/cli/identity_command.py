"""`bidstream-svc identity`: an advertiser's calls."""

import csv
import itertools
import sys
from collections.abc import Iterable
from contextlib import ExitStack, closing
from pathlib import Path
from typing import Any, BinaryIO

import click
import orjson

from bidstream_svc.cli.inputs import kind_option, open_stdin
from bidstream_svc.cli.lookup import Found, look_up
from bidstream_svc.cli.options import OPERATOR_FIELDS, provided, setting_options
from bidstream_svc.cli.rows import FORMATS, LineReader, Row, format_of, read_rows
from bidstream_svc.config import load_settings
from bidstream_svc.core.errors import BidstreamError, ConfigurationError
from bidstream_svc.operator import MappedIdentity, MappedIdentityV3
from bidstream_svc.operator.from_settings import make_transport

_MAX_PROBLEMS_TOLD = 20
_FIELDS = {
    "2": ("row", "raw_uid", "bucket_id", "reason"),
    "3": ("row", "raw_uid", "previous_raw_uid", "refresh_from_s", "reason"),
}


@click.group()
def identity() -> None:
    """An advertiser's calls: raw uids for lists of people."""


def _to_delimiter(_context: click.Context, _parameter: click.Parameter, value: str) -> str:
    if len(value) != 1 or value in '"\r\n':
        raise click.BadParameter("one character is needed, and no quote or line end")
    return value


@identity.command("map")
@click.argument("identities", nargs=-1, metavar="[IDENTITY]...")
@click.option("--input", "path", type=click.Path(path_type=Path), help="a file of any size, instead of stdin")
@click.option("--input-format", type=click.Choice(list(FORMATS)), help="by default what the file's name says, or text")
@click.option("--column", help="the column of CSV or field of NDJSON to take; by default it has the name of the kind")
@click.option("--delimiter", default=",", callback=_to_delimiter, help="between the cells of CSV")
@kind_option()
@click.option("--api", type=click.Choice(list(_FIELDS)), default="3", show_default=True, help="version of the endpoint")
@click.option("--output-format", type=click.Choice(["ndjson", "csv"]), default="ndjson", show_default=True)
@click.option("--start-row", type=click.IntRange(1), default=1, help="leave out what is before, to go on after a stop")
@setting_options(*OPERATOR_FIELDS)
def map_identities(
    *,
    identities: tuple[str, ...],
    path: Path | None,
    kind: str,
    api: str,
    output_format: str,
    start_row: int,
    **options: Any,
) -> None:
    """Look up the raw uids of people, one row each, in order.

    They come from stdin or a file: one a line (text), CSV with a header, or NDJSON. They may also be arguments, for
    tests with made-up people: arguments are visible to every user of this host and stay in the shell's history. Only
    hashes leave this machine.

    A row of output has the number of its row of input (in CSV, 1 is the first below the header) and never repeats it.
    `reason` says why there is no raw uid: optout, or invalid identifier. Invalid rows are also told on stderr. If a
    request fails, what was found before is printed, and the exit status is 1.
    """
    if identities and path is not None:
        raise click.UsageError("give identities as arguments or in --input, not both")
    read_options = {name: options.pop(name) for name in ("input_format", "column", "delimiter")}
    transport = make_transport(load_settings(**provided(options)))
    output = _Output(output_format, api, has_header=start_row == 1)
    with ExitStack() as stack:
        rows: Iterable[Row]
        if identities:
            lines, rows = None, itertools.starmap(Row, enumerate(identities, 1))
        else:
            lines = LineReader(open_stdin() if path is None else stack.enter_context(_open(path)))
            file_format = read_options["input_format"] or format_of(path)
            rows = read_rows(file_format, lines, read_options["column"] or kind, read_options["delimiter"])
        rows = (row for row in rows if row.number >= start_row)
        try:
            with _progress(lines) as bar, closing(look_up(transport, rows, kind, api)) as windows:
                for found in windows:
                    output.write(found)
                    bar.update(0 if lines is None else lines.done_bytes - bar.pos)
        except KeyboardInterrupt:
            raise BidstreamError(f"interrupted {output.place}") from None
        except BrokenPipeError:
            click.echo(f"bidstream-svc: nobody reads the output any more, stopped {output.place}", err=True)
            raise
        finally:
            output.tell_problems()
    if not output.total:
        output.write([])
        click.echo("bidstream-svc: no identities in the input", err=True)


def _open(path: Path) -> BinaryIO:
    try:
        return path.open("rb")
    except OSError as error:
        raise ConfigurationError(f"cannot read {path}: {error.strerror}") from None


def _progress(lines: LineReader | None) -> Any:
    """A bar on stderr if that is a terminal, and the output is not on one, too."""
    is_shown = lines is not None and sys.stderr.isatty() and not sys.stdout.isatty()
    size_bytes = lines.size_bytes if lines is not None else None
    return click.progressbar(
        itertools.count(), length=size_bytes, label="looking up", file=sys.stderr, hidden=not is_shown
    )


class _Output:
    """Prints what was found, and counts what was not looked up.

    Attributes:
        total: rows so far.
    """

    def __init__(self, output_format: str, api: str, *, has_header: bool) -> None:
        self._fields = _FIELDS[api]
        self._is_csv = output_format == "csv"
        self._has_header = has_header
        self.total = 0
        self._invalid = 0
        self._problems: list[str] = []
        self._last_row = 0

    @property
    def place(self) -> str:
        """How far the output is complete."""
        return f"after row {self._last_row}; go on with --start-row {self._last_row + 1}"

    def write(self, found: list[Found]) -> None:
        """Print rows, and see that they are on their way."""
        rows = [self._row(each) for each in found]
        if self._is_csv:
            writer = csv.writer(sys.stdout, lineterminator="\n")
            if self._has_header:
                writer.writerow(self._fields)
                self._has_header = False
            writer.writerows(rows)
        else:
            for row in rows:
                sys.stdout.write(orjson.dumps(dict(zip(self._fields, row, strict=True))).decode() + "\n")
        sys.stdout.flush()
        self._last_row = found[-1].number if found else self._last_row
        self._count(found)

    def tell_problems(self) -> None:
        """Say on stderr which rows were invalid: the first of them, and how many."""
        for problem in self._problems:
            click.echo(f"bidstream-svc: {problem}", err=True)
        if self._invalid:
            click.echo(
                f"bidstream-svc: {self._invalid} of {self.total} rows are invalid and were not looked up", err=True
            )

    def _count(self, found: list[Found]) -> None:
        self.total += len(found)
        for each in found:
            if each.problem is not None:
                self._invalid += 1
                if len(self._problems) < _MAX_PROBLEMS_TOLD:
                    self._problems.append(f"row {each.number}: {each.problem}")

    def _row(self, found: Found) -> tuple[str | int | None, ...]:
        match found.result:
            case MappedIdentity(raw_uid, bucket_id):
                return found.number, raw_uid, bucket_id, None
            case MappedIdentityV3(raw_uid, previous_raw_uid, refresh_from_s):
                return found.number, raw_uid, previous_raw_uid, refresh_from_s, None
            case unmapped:
                nothing = (None,) * (len(self._fields) - 2)
                return found.number, *nothing, unmapped.reason
