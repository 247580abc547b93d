"""`bidstream-svc optouts stat`: what a store holds, and how far the hosts of a fleet are."""

import json
import socket
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime
from http import HTTPStatus
from http.client import HTTPConnection, HTTPException
from pathlib import Path
from typing import Any, NamedTuple
from urllib.parse import urlsplit

import click
import orjson

from bidstream_svc.cli.options import setting_options
from bidstream_svc.cli.optouts_import_command import required_store
from bidstream_svc.cli.streams import emit
from bidstream_svc.clock import iso_time, wall_clock_ms
from bidstream_svc.core.errors import BidstreamError, OptOutStoreError
from bidstream_svc.core.identity import IdentityScope
from bidstream_svc.optouts.filter_file import FilterFile
from bidstream_svc.optouts.optout_environment import Environment, one_line, open_environment
from bidstream_svc.optouts.optout_store import read_position
from bidstream_svc.optouts.optout_tables import count_ids

_TIMEOUT_S = 5.0
_MAX_ANSWER_BYTES = 1024**2
_MAX_CONCURRENCY = 32
_BLOCK_BYTES = 512  # the unit of st_blocks


class _Applied(NamedTuple):
    """A place in the stream: EPOCH/SEQUENCE, as /info tells them."""

    epoch: str
    sequence: int


def _parse_applied(_context: click.Context, _parameter: click.Parameter, text: str | None) -> _Applied | None:
    if text is None:
        return None
    epoch, _, sequence = text.partition("/")
    if not epoch or not sequence.isdecimal():
        raise click.BadParameter("EPOCH/SEQUENCE is needed, as `stat` prints them")
    return _Applied(epoch, int(sequence))


def _parse_time(_context: click.Context, _parameter: click.Parameter, text: str | None) -> float | None:
    if text is None:
        return None
    try:
        return _timestamp(text)
    except ValueError:
        raise click.BadParameter("Unix seconds or ISO 8601 is needed") from None


@click.command()
@click.option("--fleet", "urls", multiple=True, metavar="URL", help="admin plane of a host, or of all behind a name")
@click.option("--applied", callback=_parse_applied, metavar="EPOCH/SEQUENCE", help="fail unless all hosts are this far")
@click.option("--until", "until_s", callback=_parse_time, metavar="TIME", help="fail unless all were level since TIME")
@setting_options("optout_store")
def stat(*, urls: tuple[str, ...], applied: _Applied | None, until_s: float | None, **flags: Any) -> None:
    """Print what the store holds, or how far a fleet is.

    Prints JSON; with --fleet, a line for each host. A DNS name with several addresses counts as several hosts. The
    exit status is 1 if a host does not answer. With --applied or --until, it is also 1 unless every host has applied
    the stream up to this entry, or has been known to hold all of it at or after this time; `level` tells which have.
    """
    if not urls:
        if applied or until_s is not None:
            raise click.UsageError("--applied and --until are about hosts: name them with --fleet")
        emit(orjson.dumps(describe_store(required_store(flags))))
        return
    hosts = [host for url in urls for host in _resolve(url)]
    with ThreadPoolExecutor(_MAX_CONCURRENCY) as threads:
        answers = list(threads.map(_ask, hosts))
    is_judged = applied is not None or until_s is not None
    behind = 0
    for (_, address, port), answer in zip(hosts, answers, strict=True):
        is_level = _is_level(answer, applied, until_s)
        behind += not is_level
        verdict = {"level": is_level} if is_judged else {}
        emit(orjson.dumps({"host": f"{address}:{port}", **verdict, **answer}))
    if behind:
        raise BidstreamError(f"{behind} of {len(hosts)} hosts are behind, or do not answer")


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


def _resolve(url: str) -> list[tuple[str, str, int]]:
    """Return the name, the address and the port of each host behind a URL."""
    parts = urlsplit(url)
    if parts.scheme != "http" or not parts.hostname:
        raise click.UsageError("--fleet: http://HOST:PORT of an admin plane is needed")
    port = parts.port or 9464
    try:
        found = socket.getaddrinfo(parts.hostname, port, type=socket.SOCK_STREAM)
    except OSError as error:
        raise BidstreamError(f"{parts.hostname}: {error.strerror}") from None
    return [(parts.hostname, address, port) for address in dict.fromkeys(str(each[4][0]) for each in found)]


def _ask(host: tuple[str, str, int]) -> dict[str, Any]:
    """Return what a host's /info tells of opt-outs, or why it does not."""
    _, address, port = host
    connection = HTTPConnection(address, port, timeout=_TIMEOUT_S)
    try:
        connection.request("GET", "/info")
        response = connection.getresponse()
        body = response.read(_MAX_ANSWER_BYTES)
        if response.status != HTTPStatus.OK:
            return {"error": f"/info answers {response.status}"}
        optouts = json.loads(body).get("optouts")
    except OSError as error:
        return {"error": error.strerror or str(error) or type(error).__name__}
    except (HTTPException, ValueError, AttributeError):
        return {"error": "the answer is not from bidstream-svc"}
    finally:
        connection.close()
    return {"optouts": optouts} if isinstance(optouts, dict) else {"error": "it has no opt-out store"}


def _is_level(answer: dict[str, Any], applied: _Applied | None, until_s: float | None) -> bool:
    optouts = answer.get("optouts")
    if optouts is None:
        return False
    try:
        if applied is not None:
            position = optouts["position"]
            if position["epoch"] != applied.epoch or position["sequence"] < applied.sequence:
                return False
        return until_s is None or _timestamp(optouts["last_contact"]) >= until_s
    except (AttributeError, KeyError, TypeError, ValueError):
        return False  # it has applied nothing, or was never in contact


def _timestamp(text: str) -> float:
    if text.isdecimal():
        return float(text)
    time = datetime.fromisoformat(text)
    return (time if time.tzinfo else time.replace(tzinfo=UTC)).timestamp()
