"""`bidstream-svc optouts check`: which raw uids are in the store, and which ones the operator knows beside."""

import asyncio
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import click
import pybase64

from bidstream_svc.cli.inputs import open_input
from bidstream_svc.cli.line_reader import LineReader
from bidstream_svc.cli.options import ONLY_OPERATOR_FIELDS, provided, setting_options
from bidstream_svc.cli.optouts_import_command import required_store
from bidstream_svc.cli.streams import emit, tell
from bidstream_svc.clock import wall_clock_ms
from bidstream_svc.config import load_settings
from bidstream_svc.core.errors import BidstreamError, OptOutRecordError
from bidstream_svc.core.identity import IdentityScope
from bidstream_svc.core.units import MS_PER_S
from bidstream_svc.operator import IdentityMapClient
from bidstream_svc.operator.from_settings import make_transport
from bidstream_svc.operator.identity_map_client import OptedOut
from bidstream_svc.operator_settings import OperatorSettings
from bidstream_svc.optouts.optout_environment import Environment, one_line, open_environment
from bidstream_svc.optouts.optout_records import OptOut, clamp_time_s, decode_raw_id, scope_of_raw_id
from bidstream_svc.optouts.optout_store import OptOutStore
from bidstream_svc.optouts.optout_tables import contains

_WINDOW_IDS = 20_000


@click.command()
@click.option(
    "--scope",
    "scope_name",
    type=click.Choice([scope.name for scope in IdentityScope]),
    help="programme of the raw uids; default: the one that each tells, and UID2 for those of 32 bytes",
)
@click.option("--online", is_flag=True, help="ask the operator, too; it knows the opt-outs of about a month")
@click.option("--add", "is_adding", is_flag=True, help="with --online: add to the store what it lacks")
@setting_options("optout_store", *ONLY_OPERATOR_FIELDS)
def check(*, scope_name: str | None, online: bool, is_adding: bool, **flags: Any) -> None:
    """Tell which raw uids on stdin are in the store.

    There is one on each line, and perhaps a comma and more behind it. Prints `raw uid,in store` or `raw uid,not in
    store`. With --online, `raw uid,missing,Unix seconds` is one that the operator says is opted out and the store
    lacks; the exit status is 1 if there is any that --add has not added. Malformed lines are counted on stderr.
    """
    if is_adding and not online:
        raise click.UsageError("--add adds what the operator knows: it needs --online")
    directory = required_store(flags)
    operator = load_settings(**provided(flags)).only_operator if online else None
    scope = IdentityScope[scope_name] if scope_name else None
    missing: list[OptOut] = []
    malformed = 0
    environment = open_environment(directory, is_writable=False)
    with open_input(None) as file:
        for ids in _windows(LineReader(file), scope):
            malformed += sum(each is None for each in ids)
            known = [each for each in ids if each is not None]
            missing.extend(_check(directory, environment, known, operator))
    if malformed:
        tell(f"bidstream-svc: {malformed} lines are not raw uids")
    if missing and is_adding:
        environment.close()
        with OptOutStore(directory) as store:
            tell(f"bidstream-svc: {store.add(missing, is_owed=store.is_in_stream)} opt-outs added")
    elif missing:
        raise BidstreamError(f"{len(missing)} opt-outs of the operator are not in the store; --add adds them")
    if malformed:
        raise BidstreamError("some lines are not raw uids")


def _windows(lines: LineReader, scope: IdentityScope | None) -> Iterator[list[OptOut | None]]:
    window: list[OptOut | None] = []
    arrived_s = wall_clock_ms() // MS_PER_S
    for line in lines:
        if not (text := line.partition(",")[0].strip()):  # an export has the time behind it
            continue
        try:
            raw_id = decode_raw_id(text)
        except OptOutRecordError:
            window.append(None)
        else:
            told_scope = scope_of_raw_id(raw_id) or IdentityScope.UID2
            window.append(OptOut(told_scope if scope is None else scope, raw_id, arrived_s))
        if len(window) == _WINDOW_IDS:
            yield window
            window = []
    if window:
        yield window


def _check(
    directory: Path, environment: Environment, ids: list[OptOut], operator: OperatorSettings | None
) -> Iterator[OptOut]:
    """Print a line for each id, and yield those that are missing."""
    with one_line(directory), environment:
        is_in = [contains(environment, optout.scope, optout.raw_id) for optout in ids]
    lacking = {_text(optout): optout for optout, found in zip(ids, is_in, strict=True) if not found}
    missing: dict[str, OptOut] = {}
    if operator is not None and lacking:
        for found in asyncio.run(_ask(operator, [*lacking])):
            if found.raw_uid in lacking:
                entry_s = clamp_time_s(found.since_ms // MS_PER_S)
                missing[found.raw_uid] = lacking[found.raw_uid]._replace(entry_s=entry_s)
    for optout, found_in_store in zip(ids, is_in, strict=True):
        text = _text(optout)
        if text in missing:
            emit(f"{text},missing,{missing[text].entry_s or ''}")
        else:
            emit(f"{text},{'in store' if found_in_store else 'not in store'}")
    yield from missing.values()


async def _ask(operator: OperatorSettings, raw_uids: list[str]) -> list[OptedOut]:
    async with make_transport(operator) as transport:
        return await IdentityMapClient(transport).get_opt_out_status(raw_uids)


def _text(optout: OptOut) -> str:
    return pybase64.b64encode(optout.raw_id).decode()
