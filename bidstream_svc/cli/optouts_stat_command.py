"""`bidstream-svc optouts stat`: what a store holds, and how far the hosts of a fleet are."""

from pathlib import Path
from typing import Any

import click
import orjson

from bidstream_svc.cli.options import setting_options
from bidstream_svc.cli.optouts_fleet import Applied, ask_hosts, count_problems, find_hosts
from bidstream_svc.cli.optouts_import_command import required_store
from bidstream_svc.cli.streams import emit
from bidstream_svc.cli.time_option import moment_or_none
from bidstream_svc.clock import iso_time, wall_clock_ms
from bidstream_svc.core.errors import BidstreamError, OptOutStoreError
from bidstream_svc.core.identity import IdentityScope
from bidstream_svc.optouts.filter_file import FilterFile
from bidstream_svc.optouts.optout_environment import Environment, one_line, open_environment
from bidstream_svc.optouts.optout_store import read_position
from bidstream_svc.optouts.optout_tables import count_ids

_BLOCK_BYTES = 512  # the unit of st_blocks


def _parse_applied(_context: click.Context, _parameter: click.Parameter, text: str | None) -> Applied | None:
    if text is None:
        return None
    epoch, _, sequence = text.partition("/")
    if not epoch or not sequence.isdecimal():
        raise click.BadParameter("EPOCH/SEQUENCE is needed, as `stat` prints them")
    return Applied(epoch, int(sequence))


@click.command()
@click.option("--fleet", "urls", multiple=True, metavar="URL", help="admin plane of a host, or of all behind a name")
@click.option("--applied", callback=_parse_applied, metavar="EPOCH/SEQUENCE", help="fail unless all hosts are this far")
@click.option(
    "--until", "until_ms", callback=moment_or_none, metavar="TIME", help="fail unless all were level since TIME"
)
@setting_options("optout_store")
def stat(*, urls: tuple[str, ...], applied: Applied | None, until_ms: int | None, **flags: Any) -> None:
    """Print what the store holds, or how far a fleet is.

    Prints JSON; with --fleet, a line for each host. A DNS name with several addresses counts as several hosts. The
    exit status is 1 if a host has `problems`: `no answer`; `stale`; `gap`, opt-outs may be missing until it has a
    snapshot; or `behind`, it has not come within 5 seconds to where the furthest one was. With --applied or --until, it
    is also 1 unless every host has applied the stream up to this entry, or has been known to hold all of it at or after
    this time; `level` tells which have.
    """
    if not urls:
        if applied or until_ms is not None:
            raise click.UsageError("--applied and --until are about hosts: name them with --fleet")
        emit(orjson.dumps(describe_store(required_store(flags))))
        return
    hosts = find_hosts(urls)
    furthest = ask_hosts(hosts)
    is_judged = applied is not None or until_ms is not None
    bad: list[list[str]] = []
    for host in hosts:
        is_level = host.has_applied(applied) and (until_ms is None or host.was_level_at(until_ms))
        problems = [*host.problems(furthest), *([] if is_level else ["not level"])]
        verdict = {"level": is_level} if is_judged else {}
        emit(orjson.dumps({"host": f"{host.address}:{host.port}", "problems": problems, **verdict, **host.answer}))
        bad.extend([problems] if problems else [])
    if bad:
        raise BidstreamError(f"{len(bad)} of {len(hosts)} hosts have problems: {count_problems(bad)}")


def describe_store(directory: Path) -> dict[str, object]:
    """Return what a store holds; no id is in it.

    Raises:
        OptOutStoreError: it cannot be opened.
    """
    environment = open_environment(directory, is_writable=False)
    with one_line(directory), environment:
        position = read_position(environment)
        fresh_until_ms = environment.control.fresh_until_ms
        return {
            "directory": str(directory),
            "store_id": environment.store_id.hex(),
            "optouts": {scope.name: count_ids(environment, scope) for scope in IdentityScope},
            "position": position and {"epoch": position.epoch.hex(), "sequence": position.sequence},
            "fresh_until": iso_time(fresh_until_ms) if 0 < fresh_until_ms < 2**50 else None,
            "stale": 0 < fresh_until_ms < wall_clock_ms(),
            "disk_bytes": sum(path.stat().st_blocks * _BLOCK_BYTES for path in directory.iterdir()),
            "filter": _describe_filter(directory, environment),
        }


def _describe_filter(directory: Path, environment: Environment) -> dict[str, object] | None:
    generation = environment.control.generation
    try:
        file = FilterFile.open(directory, generation, environment.store_id)
    except (OSError, OptOutStoreError):
        return None
    try:
        return {"generation": generation, "capacity": file.identity.capacity, "bytes": file.identity.file_bytes}
    finally:
        file.close()
