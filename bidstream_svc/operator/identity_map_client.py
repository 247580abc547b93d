"""An advertiser's requests: raw uids for identities, the salt buckets that changed, and users who have opted out."""

from collections.abc import AsyncGenerator, Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from operator import attrgetter
from typing import Annotated, TypeAlias

import msgspec

from bidstream_svc.core.errors import OperatorAnswerError
from bidstream_svc.core.identity import Identity, IdentityKind
from bidstream_svc.core.lenient import Integer
from bidstream_svc.operator.batches import MAX_CONCURRENCY, Progress, collect_results, send_in_batches
from bidstream_svc.operator.messages import Endpoint, decode_answer
from bidstream_svc.operator.transport import OperatorTransport

_MAP = Endpoint("/v2/identity/map")
_MAP_V3 = Endpoint("/v3/identity/map", is_binary=True)
_BUCKETS = Endpoint("/v2/identity/buckets")
_OPT_OUT_STATUS = Endpoint("/v2/optout/status")
_VALUE: Callable[[Identity], str] = attrgetter("value")
_INCOMPLETE = "operator's answer leaves out some of the identities"


@dataclass(frozen=True, slots=True)
class MappedIdentity:
    """A raw uid and its salt bucket: when the bucket changes, so does the raw uid."""

    raw_uid: str = field(repr=False)
    bucket_id: str | None


@dataclass(frozen=True, slots=True)
class MappedIdentityV3:
    """A raw uid that may change.

    Attributes:
        raw_uid: base64.
        previous_raw_uid: the raw uid before the last change, for 90 days after it; else None.
        refresh_from_s: Unix seconds from which the raw uid may have changed.
    """

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
    """A salt bucket that has changed; `last_updated` is ISO 8601 in UTC without a zone."""

    bucket_id: str
    last_updated: str


@dataclass(frozen=True, slots=True)
class OptedOut:
    """A raw uid whose user has opted out, and since when (Unix ms)."""

    raw_uid: str = field(repr=False)
    since_ms: int


_NotEmpty: TypeAlias = Annotated[str, msgspec.Meta(min_length=1)]


class _Mapped(msgspec.Struct):
    identifier: str
    advertising_id: _NotEmpty
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
    u: _NotEmpty | None = None
    p: str | None = None
    r: Integer | None = None
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
    opted_out_since: Integer


class _OptOutBody(msgspec.Struct):
    opted_out: list[_OptedOut] | None = None


class _OptOutAnswer(msgspec.Struct):
    body: _OptOutBody


class IdentityMapClient:
    """Looks up the raw uids of identities, the salt buckets that have changed, and the users who have opted out.

    Lists may have any length: they are sent in batches of at most 5,000 and 1 MiB, several at a time, and results come
    back in order.
    Every method raises OperatorError or EnvelopeError if a request fails; see `bidstream_svc.core.errors`.

    Args:
        transport: entered by the caller; other clients may share it.
        max_concurrency: requests in flight at a time.
    """

    def __init__(self, transport: OperatorTransport, *, max_concurrency: int = MAX_CONCURRENCY) -> None:
        self._transport = transport
        self._max_concurrency = max_concurrency

    async def map_identities(
        self, identities: Sequence[Identity], *, progress: Progress | None = None
    ) -> list[IdentityMapResult]:
        """Map identities with /v2/identity/map. Returns one result for each, in order.

        `progress(done, total)` is called in the event loop after each batch. The endpoint accepts one kind of identity
        a request, so a batch of several kinds takes several requests.
        """
        return await collect_results(self.map_batches(identities), len(identities), progress)

    async def map_identities_v3(
        self, identities: Sequence[Identity], *, progress: Progress | None = None
    ) -> list[IdentityMapV3Result]:
        """As `map_identities`, with /v3/identity/map, which also gives the previous raw uid."""
        return await collect_results(self.map_batches_v3(identities), len(identities), progress)

    def map_batches(
        self, identities: Iterable[Identity]
    ) -> AsyncGenerator[tuple[Sequence[Identity], Sequence[IdentityMapResult]]]:
        """As `map_identities`, but accept any iterable, and yield each batch with its results, in order.

        The batches before one that failed are yielded before its error is raised.
        """
        return send_in_batches(identities, self._map_batch, _VALUE, max_concurrency=self._max_concurrency)

    def map_batches_v3(
        self, identities: Iterable[Identity]
    ) -> AsyncGenerator[tuple[Sequence[Identity], Sequence[IdentityMapV3Result]]]:
        """As `map_batches`, with /v3/identity/map."""
        return send_in_batches(identities, self._map_batch_v3, _VALUE, max_concurrency=self._max_concurrency)

    async def get_identity_buckets(self, since: datetime) -> list[IdentityBucket]:
        """Return the salt buckets that changed after `since` (a naive time is local).

        Identities in them must be mapped again.
        """
        since_utc = since.astimezone(UTC).replace(tzinfo=None).isoformat()
        answer = await self._transport.call(_BUCKETS, msgspec.json.encode({"since_timestamp": since_utc}))
        buckets = decode_answer(answer.json, _BucketsAnswer).body
        return [IdentityBucket(bucket.bucket_id, bucket.last_updated) for bucket in buckets]

    async def get_opt_out_status(self, raw_uids: Sequence[str], *, progress: Progress | None = None) -> list[OptedOut]:
        """Return those of `raw_uids` whose users have opted out, each with the time of the opt-out."""
        batches = send_in_batches(raw_uids, self._get_opt_out_status, str, max_concurrency=self._max_concurrency)
        return await collect_results(batches, len(raw_uids), progress)

    async def _map_batch(self, batch: Sequence[Identity]) -> list[IdentityMapResult]:
        results = {kind: await self._map_values(kind, values) for kind, values in _values_by_kind(batch).items()}
        try:
            return [results[identity.kind][identity.value] for identity in batch]
        except KeyError:
            # Not chained: that exception carries the identifier.
            raise OperatorAnswerError(_INCOMPLETE) from None

    async def _map_values(self, kind: IdentityKind, values: list[str]) -> dict[str, IdentityMapResult]:
        answer = await self._transport.call(_MAP, msgspec.json.encode({kind: values}))
        body = decode_answer(answer.json, _MapAnswer).body
        results: dict[str, IdentityMapResult] = {
            mapped.identifier: MappedIdentity(mapped.advertising_id, mapped.bucket_id) for mapped in body.mapped or ()
        }
        results.update({unmapped.identifier: UnmappedIdentity(unmapped.reason) for unmapped in body.unmapped or ()})
        return results

    async def _map_batch_v3(self, batch: Sequence[Identity]) -> list[IdentityMapV3Result]:
        values_by_kind = _values_by_kind(batch)
        answer = await self._transport.call(_MAP_V3, msgspec.json.encode(values_by_kind))
        body = decode_answer(answer.json, _V3Answer).body
        results: dict[IdentityKind, Iterator[IdentityMapV3Result]] = {}
        for kind, values in values_by_kind.items():
            entries: list[_V3Entry] = getattr(body, kind) or []  # in the order of the values
            if len(entries) != len(values):
                raise OperatorAnswerError(_INCOMPLETE)
            results[kind] = map(_read_v3_entry, entries)
        return [next(results[identity.kind]) for identity in batch]

    async def _get_opt_out_status(self, batch: Sequence[str]) -> list[OptedOut]:
        payload = {"advertising_ids": batch}
        answer = await self._transport.call(_OPT_OUT_STATUS, msgspec.json.encode(payload))
        opted_out = decode_answer(answer.json, _OptOutAnswer).body.opted_out or ()
        return [OptedOut(entry.advertising_id, entry.opted_out_since) for entry in opted_out]


def _values_by_kind(identities: Iterable[Identity]) -> dict[IdentityKind, list[str]]:
    """The `value`s of each kind, in order."""
    values: dict[IdentityKind, list[str]] = {}
    for identity in identities:
        values.setdefault(identity.kind, []).append(identity.value)
    return values


def _read_v3_entry(entry: _V3Entry) -> IdentityMapV3Result:
    if entry.e is not None:
        return UnmappedIdentity(entry.e)
    if entry.u is None or entry.r is None:
        raise OperatorAnswerError("operator's answer: an identity is neither mapped nor unmapped")
    return MappedIdentityV3(entry.u, entry.p, entry.r)
