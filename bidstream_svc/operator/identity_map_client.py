"""An advertiser's calls: raw uids for lists of people, what changed since, and who has opted out."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import TypeAlias

import msgspec

from bidstream_svc.core.errors import OperatorAnswerError
from bidstream_svc.core.identity import Identity, IdentityKind
from bidstream_svc.operator.batches import MAX_CONCURRENCY, Progress, map_in_batches
from bidstream_svc.operator.messages import Endpoint, decode_answer
from bidstream_svc.operator.transport import OperatorTransport

_MAP = Endpoint("/v2/identity/map")
_MAP_V3 = Endpoint("/v3/identity/map", is_binary=True)
_BUCKETS = Endpoint("/v2/identity/buckets")
_OPT_OUT_STATUS = Endpoint("/v2/optout/status")


@dataclass(frozen=True, slots=True)
class MappedIdentity:
    """A raw uid and the salt bucket it was made in: when the bucket changes, so does the raw uid."""

    raw_uid: str = field(repr=False)
    bucket_id: str | None


@dataclass(frozen=True, slots=True)
class MappedIdentityV3:
    """A raw uid, the one before it for 90 days after a change (or None), and from when to ask again (Unix s)."""

    raw_uid: str = field(repr=False)
    previous_raw_uid: str | None = field(repr=False)
    refresh_from_s: int


@dataclass(frozen=True, slots=True)
class UnmappedIdentity:
    """Why there is no raw uid, in the operator's words: `optout` or `invalid identifier`."""

    reason: str


IdentityMapResult: TypeAlias = MappedIdentity | UnmappedIdentity
IdentityMapV3Result: TypeAlias = MappedIdentityV3 | UnmappedIdentity


@dataclass(frozen=True, slots=True)
class IdentityBucket:
    """A salt bucket that has changed; `last_updated` is ISO 8601 in UTC without a zone, as the operator writes it."""

    bucket_id: str
    last_updated: str


@dataclass(frozen=True, slots=True)
class OptedOut:
    """A raw uid whose person has opted out, and since when (Unix ms)."""

    raw_uid: str = field(repr=False)
    since_ms: int


class _Mapped(msgspec.Struct):
    identifier: str
    advertising_id: str
    bucket_id: str | None = None


class _Unmapped(msgspec.Struct):
    identifier: str
    reason: str


class _MapBody(msgspec.Struct):
    mapped: list[_Mapped] | None = None
    unmapped: list[_Unmapped] | None = None


class _MapAnswer(msgspec.Struct):
    body: _MapBody


class _V3Entry(msgspec.Struct):
    u: str | None = None
    p: str | None = None
    r: int | None = None
    e: str | None = None


class _V3Body(msgspec.Struct):
    email: list[_V3Entry] | None = None
    email_hash: list[_V3Entry] | None = None
    phone: list[_V3Entry] | None = None
    phone_hash: list[_V3Entry] | None = None


class _V3Answer(msgspec.Struct):
    body: _V3Body


class _Bucket(msgspec.Struct):
    bucket_id: str
    last_updated: str


class _BucketsAnswer(msgspec.Struct):
    body: list[_Bucket]


class _OptedOut(msgspec.Struct):
    advertising_id: str
    opted_out_since: int


class _OptOutBody(msgspec.Struct):
    opted_out: list[_OptedOut] | None = None


class _OptOutAnswer(msgspec.Struct):
    body: _OptOutBody


class IdentityMapClient:
    """Raw uids from an operator.

    Lists may have any length: they are sent in pieces of 5,000, a few at a time, and come back in order. Every method
    raises OperatorError or EnvelopeError if a call fails, as drawn in `errors`.

    Args:
        transport: entered by the caller, and shared with other clients at will.
        max_concurrency: requests under way at a time.
    """

    def __init__(self, transport: OperatorTransport, *, max_concurrency: int = MAX_CONCURRENCY) -> None:
        self._transport = transport
        self._max_concurrency = max_concurrency

    async def map_identities(
        self, identities: Sequence[Identity], *, progress: Progress | None = None
    ) -> list[IdentityMapResult]:
        """Map people with /v2/identity/map; one result each, in order.

        `progress(done, total)` is called in the event loop as answers come in. The endpoint takes one kind of
        identity a request, so a mixed list is sorted by kind on the way.
        """
        results: list[IdentityMapResult | None] = [None] * len(identities)
        done = 0
        for positions in _positions_by_kind(identities).values():
            told = _shift(progress, done, len(identities))
            part = [identities[position] for position in positions]
            answers = await map_in_batches(part, self._map, max_concurrency=self._max_concurrency, progress=told)
            for position, result in zip(positions, answers, strict=True):
                results[position] = result
            done += len(part)
        return [result for result in results if result is not None]

    async def map_identities_v3(
        self, identities: Sequence[Identity], *, progress: Progress | None = None
    ) -> list[IdentityMapV3Result]:
        """Map people with /v3/identity/map, which also names the previous raw uid; one result each, in order."""
        return await map_in_batches(identities, self._map_v3, max_concurrency=self._max_concurrency, progress=progress)

    async def get_identity_buckets(self, since: datetime) -> list[IdentityBucket]:
        """The salt buckets that changed after `since` (a naive one is local time): map their people again."""
        since_utc = since.astimezone(UTC).replace(tzinfo=None).isoformat()
        answer = await self._transport.call(_BUCKETS, msgspec.json.encode({"since_timestamp": since_utc}))
        buckets = decode_answer(answer.json, _BucketsAnswer).body
        return [IdentityBucket(bucket.bucket_id, bucket.last_updated) for bucket in buckets]

    async def get_opt_out_status(self, raw_uids: Sequence[str], *, progress: Progress | None = None) -> list[OptedOut]:
        """Those of `raw_uids` whose people have opted out, and since when."""
        return await map_in_batches(
            raw_uids, self._opt_out_status, max_concurrency=self._max_concurrency, progress=progress
        )

    async def _map(self, batch: Sequence[Identity]) -> list[IdentityMapResult]:
        payload = {batch[0].kind.value: [identity.value for identity in batch]}
        answer = await self._transport.call(_MAP, msgspec.json.encode(payload))
        body = decode_answer(answer.json, _MapAnswer).body
        results: dict[str, IdentityMapResult] = {
            mapped.identifier: MappedIdentity(mapped.advertising_id, mapped.bucket_id) for mapped in body.mapped or ()
        }
        results.update({unmapped.identifier: UnmappedIdentity(unmapped.reason) for unmapped in body.unmapped or ()})
        try:
            return [results[identity.value] for identity in batch]
        except KeyError:
            # Not chained: that exception carries the identifier.
            raise OperatorAnswerError("operator's answer leaves out some of the identities") from None

    async def _map_v3(self, batch: Sequence[Identity]) -> list[IdentityMapV3Result]:
        positions_by_kind = _positions_by_kind(batch)
        payload = {
            kind.value: [batch[position].value for position in positions]
            for kind, positions in positions_by_kind.items()
        }
        answer = await self._transport.call(_MAP_V3, msgspec.json.encode(payload))
        body = decode_answer(answer.json, _V3Answer).body
        results: dict[int, IdentityMapV3Result] = {}
        for kind, positions in positions_by_kind.items():
            entries: list[_V3Entry] = getattr(body, kind.value) or []
            if len(entries) != len(positions):
                raise OperatorAnswerError("operator's answer leaves out some of the identities")
            results.update(zip(positions, map(_read_v3_entry, entries), strict=True))
        return [results[position] for position in range(len(batch))]

    async def _opt_out_status(self, batch: Sequence[str]) -> list[OptedOut]:
        payload = {"advertising_ids": batch}
        answer = await self._transport.call(_OPT_OUT_STATUS, msgspec.json.encode(payload))
        opted_out = decode_answer(answer.json, _OptOutAnswer).body.opted_out or ()
        return [OptedOut(entry.advertising_id, entry.opted_out_since) for entry in opted_out]


def _positions_by_kind(identities: Sequence[Identity]) -> dict[IdentityKind, list[int]]:
    positions: dict[IdentityKind, list[int]] = {}
    for position, identity in enumerate(identities):
        positions.setdefault(identity.kind, []).append(position)
    return positions


def _shift(progress: Progress | None, before: int, total: int) -> Progress | None:
    """`progress` for one part of a list, of which `before` elements are done already."""
    return None if progress is None else lambda done, _: progress(before + done, total)


def _read_v3_entry(entry: _V3Entry) -> IdentityMapV3Result:
    if entry.e is not None:
        return UnmappedIdentity(entry.e)
    if entry.u is None or entry.r is None:
        raise OperatorAnswerError("operator's answer: an identity is neither mapped nor unmapped")
    return MappedIdentityV3(entry.u, entry.p, entry.r)
