"""Rows into raw uids, window by window: a few requests' worth of rows is held at a time, however many there are."""

import asyncio
from collections.abc import Generator, Iterable, Iterator
from itertools import islice
from typing import NamedTuple, TypeAlias

from bidstream_svc.cli.rows import Row
from bidstream_svc.core.errors import BidstreamError, ConfigurationError, IdentityError
from bidstream_svc.core.identity import Identity, IdentityKind
from bidstream_svc.operator import (
    IdentityMapClient,
    IdentityMapResult,
    IdentityMapV3Result,
    OperatorTransport,
    UnmappedIdentity,
)
from bidstream_svc.operator.batches import MAX_BATCH, MAX_CONCURRENCY

_INVALID = UnmappedIdentity("invalid identifier")  # as an operator says it

_Result: TypeAlias = IdentityMapResult | IdentityMapV3Result


class LookupStoppedError(BidstreamError):
    """A request failed; what stands before a row has been handed out."""


class Found(NamedTuple):
    """What became of a row; `problem` says why it was not sent to the operator, if it was not."""

    number: int
    result: _Result
    problem: str | None = None


class _Asked(NamedTuple):
    number: int
    identity: Identity | None
    problem: str | None


def look_up(transport: OperatorTransport, rows: Iterable[Row], kind: str, api: str) -> Generator[list[Found]]:
    """Look rows up; yields them in order, at most 20,000 at a time.

    Rows are read and results handed out in the caller's thread while no request is under way, so that Ctrl-C and a
    closed pipe stop it at once.

    Args:
        transport: not entered; it is until this is exhausted or closed.
        rows: in any number.
        kind: what their texts are, an IdentityKind.
        api: version of the endpoint, "2" or "3".

    Raises:
        LookupStoppedError: a request failed; everything before the row that it names has been yielded.
    """
    client = IdentityMapClient(transport)
    asked = (_ask(row, kind) for row in rows)
    with asyncio.Runner() as runner:
        runner.run(transport.__aenter__())
        try:
            while window := list(islice(asked, MAX_BATCH * MAX_CONCURRENCY)):
                pieces = [window[start : start + MAX_BATCH] for start in range(0, len(window), MAX_BATCH)]
                found: list[Found] = []
                for piece, answer in zip(pieces, runner.run(_send_all(client, pieces, api)), strict=True):
                    if isinstance(answer, BaseException):
                        yield found
                        raise _stopped(piece[0].number, answer)
                    found.extend(answer)
                yield found
        finally:
            runner.run(transport.__aexit__(None, None, None))


def _ask(row: Row, kind: str) -> _Asked:
    if row.problem is not None:
        return _Asked(row.number, None, row.problem)
    try:
        return _Asked(row.number, Identity.parse(IdentityKind(kind), row.text), None)
    except IdentityError as error:
        return _Asked(row.number, None, str(error))


async def _send_all(
    client: IdentityMapClient, pieces: list[list[_Asked]], api: str
) -> list[list[Found] | BaseException]:
    return await asyncio.gather(*(_send(client, piece, api) for piece in pieces), return_exceptions=True)


async def _send(client: IdentityMapClient, piece: list[_Asked], api: str) -> list[Found]:
    identities = [asked.identity for asked in piece if asked.identity is not None]
    results: Iterator[_Result]
    if api == "2":
        results = iter(await client.map_identities(identities))
    else:
        results = iter(await client.map_identities_v3(identities))
    return [
        Found(asked.number, _INVALID, asked.problem) if asked.identity is None else Found(asked.number, next(results))
        for asked in piece
    ]


def _stopped(number: int, error: BaseException) -> BaseException:
    if isinstance(error, ConfigurationError) or not isinstance(error, BidstreamError):
        return error
    return LookupStoppedError(f"{error}; stopped before row {number}, go on with --start-row {number}")
