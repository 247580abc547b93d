"""`bidstream-svc optouts export`: prints the opt-outs of a store."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import click
import pybase64

from bidstream_svc.cli.options import setting_options
from bidstream_svc.cli.optouts_import_command import required_store
from bidstream_svc.cli.streams import emit
from bidstream_svc.core.errors import ConfigurationError
from bidstream_svc.core.identity import IdentityScope
from bidstream_svc.optouts.optout_environment import Environment, Table, one_line, open_environment
from bidstream_svc.optouts.optout_records import decode_record
from bidstream_svc.optouts.optout_tables import count_ids, read_records

_CHUNK_IDS = 10_000


@click.command()
@click.option("--scope", "scope_name", type=click.Choice([scope.name for scope in IdentityScope]), help="only these")
@click.option("--format", "file_format", type=click.Choice(["text", "csv"]), default="text", show_default=True)
@setting_options("optout_store")
def export(*, scope_name: str | None, file_format: str, **flags: Any) -> None:
    """Print all opt-outs of the store.

    Raw uids are in base64, in the order of their bytes: those of 32 bytes, then those of 33. A line of text is `raw
    uid,Unix seconds`, or the raw uid where the time is unknown. CSV has the columns scope, identity, timestamp and
    arrived. `optouts import` reads both. It may run while a service uses the store.
    """
    directory = required_store(flags)
    environment = open_environment(directory, is_writable=False)
    scopes = [scope for scope in IdentityScope if scope_name in {None, scope.name}]
    if file_format == "csv":
        emit("scope,identity,timestamp,arrived")
    else:
        with one_line(directory), environment:
            counts = [count_ids(environment, scope) for scope in scopes]
        if all(counts) and len(counts) > 1:
            raise ConfigurationError("the store has opt-outs of both programmes: choose one with --scope, or CSV")
    for table in environment.tables.values():
        if table.scope in scopes:
            for records in _read(directory, environment, table):
                emit("\n".join(_line(table.scope, record, file_format) for record in records))


def _read(directory: Path, environment: Environment, table: Table) -> Iterator[list[bytes]]:
    """Yield records in chunks. What is written meanwhile may be among them."""
    records: list[bytes] = []
    while True:
        after = records[-1][: table.id_length] if records else b""
        with one_line(directory), environment:
            records = read_records(environment, table, after, _CHUNK_IDS)
        if not records:
            return
        yield records


def _line(scope: IdentityScope, record: bytes, file_format: str) -> str:
    optout = decode_record(scope, record)
    text = pybase64.b64encode(optout.raw_id).decode()
    time = "" if optout.entry_s is None else f"{optout.entry_s}"
    if file_format == "csv":
        return f"{scope.name},{text},{time},{optout.arrived_s}"
    return f"{text},{time}" if time else text
