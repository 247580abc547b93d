"""`bidstream-svc optouts import`: puts opt-outs from files into a store."""

import io
import itertools
import sys
from pathlib import Path
from typing import Any

import click
import orjson

from bidstream_svc.cli.inputs import open_input
from bidstream_svc.cli.options import provided, setting_options
from bidstream_svc.cli.optout_files import FORMATS, Columns, find_format, read_blocks, size_of
from bidstream_svc.cli.streams import emit, tell
from bidstream_svc.clock import wall_clock_ms
from bidstream_svc.config import env_name, load_settings
from bidstream_svc.core.errors import BidstreamError, ConfigurationError
from bidstream_svc.core.identity import IdentityScope
from bidstream_svc.core.units import MS_PER_S
from bidstream_svc.optouts.filter_growth import grow_if_needed
from bidstream_svc.optouts.optout_import import OptOutImport
from bidstream_svc.optouts.optout_store import OptOutStore

_SHOWN_LINES = 10


def required_store(flags: dict[str, Any]) -> Path:
    """Return the directory of the store.

    Raises:
        ConfigurationError: there is no such setting.
    """
    store = load_settings(**provided(flags)).optout_store
    if store is None:
        raise ConfigurationError(f"{env_name('optout_store')}: missing; accepted: the directory of the store")
    return store


@click.command("import")
@click.argument("files", nargs=-1, required=True, type=click.Path(path_type=Path), metavar="FILE...")
@click.option(
    "--scope",
    "scope_name",
    type=click.Choice([scope.name for scope in IdentityScope]),
    help="programme of the raw uids; default: the one that each tells, and UID2 for those of 32 bytes",
)
@click.option("--format", "file_format", type=click.Choice(FORMATS), help="default: by the file's name and content")
@click.option("--column", default="identity", show_default=True, help="of CSV and Parquet: the raw uid")
@click.option("--time-column", help="of CSV and Parquet: the time in Unix seconds  [default: timestamp, if it exists]")
@setting_options("optout_store")
def import_(
    *,
    files: tuple[Path, ...],
    scope_name: str | None,
    file_format: str | None,
    column: str,
    time_column: str | None,
    **flags: Any,
) -> None:
    """Put opt-outs from files into the store; - is stdin.

    A file is text with a raw uid per line, in base64, or `raw uid,Unix seconds`; or CSV with a header, separated by
    commas, semicolons or tabs; or Parquet. Text
    and CSV may be compressed with gzip. A CSV file's column `scope` names the programme of each row, as in an export.
    Nothing is lost or doubled if an import is repeated. It may run while a service uses the store.

    Malformed lines are counted, and their numbers listed on stderr; the exit status is 1 then. A summary in JSON is
    printed at the end.
    """
    columns = Columns(column, time_column or "timestamp", "scope", is_time_named=time_column is not None)
    totals = {"read": 0, "new": 0, "malformed": 0}
    with OptOutStore(required_store(flags)) as store:
        for path in files:
            _import_file(store, path, file_format, columns, IdentityScope[scope_name] if scope_name else None, totals)
        emit(orjson.dumps({**totals, "optouts": store.count()}))
        grow_if_needed(store)  # without a filter, for which the disk may be too full, all of them count as well
    if totals["malformed"]:
        raise BidstreamError(f"{totals['malformed']} lines are not opt-outs; all others have been imported")


def _import_file(  # noqa: PLR0917 - what the command was given
    store: OptOutStore,
    path: Path,
    file_format: str | None,
    columns: Columns,
    scope: IdentityScope | None,
    totals: dict[str, int],
) -> None:
    arrived_s = wall_clock_ms() // MS_PER_S
    imports: dict[IdentityScope | None, OptOutImport] = {}
    lines = 0
    with open_input(path) as opened:
        file = opened if isinstance(opened, io.BufferedReader) else io.BufferedReader(opened)  # type: ignore[type-var]
        blocks = read_blocks(file, file_format or find_format(path, file, columns), columns)
        bar = click.progressbar(
            itertools.count(), length=size_of(file), label="importing", file=sys.stderr, hidden=not sys.stderr.isatty()
        )
        with bar:
            for block in blocks:
                count = 0
                for named, text in block.lines.items():
                    if named not in imports:
                        imports[named] = OptOutImport(store, scope if named is None else named, arrived_s)
                    importer = imports[named]
                    importer.lines = lines
                    importer.add_lines(text)
                    count = max(count, importer.lines - lines)
                lines += count
                bar.update(max(0, block.done_bytes - bar.pos))
            for importer in imports.values():
                importer.finish()
    _report(path, imports.values(), totals)
    totals["read"] += lines


def _report(path: Path, imports: Any, totals: dict[str, int]) -> None:
    malformed = sorted(itertools.chain.from_iterable(importer.malformed_lines for importer in imports))
    totals["new"] += sum(importer.added for importer in imports)
    count = sum(importer.malformed for importer in imports)
    totals["malformed"] += count
    if count:
        shown = ", ".join(map(str, malformed[:_SHOWN_LINES])) + (", ..." if count > _SHOWN_LINES else "")
        tell(f"bidstream-svc: {path}: not an opt-out in line {shown}")
