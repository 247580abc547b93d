"""A client for advertisers: raw uids for lists of identities, with /v2/identity/map."""

from collections.abc import Iterable, Sequence
from datetime import datetime

from bidstream_svc import operator
from bidstream_svc.operator import IdentityMapResult
from bidstream_svc.sdk.identity_map_base import MapClient, MapInput, MapResponse, SuccessfulResponse


class IdentityMapInput(MapInput):
    """Identities of one kind; see MapInput."""


class MappedIdentity:
    """A raw uid and its salt bucket; a repr shows the bucket only."""

    def __init__(self, mapped: operator.MappedIdentity) -> None:
        self._mapped = mapped

    def __repr__(self) -> str:
        """The bucket."""
        return repr(self._mapped)

    def get_raw_uid(self) -> str:
        """The raw uid."""
        return self._mapped.raw_uid

    def get_bucket_id(self) -> str | None:
        """The salt bucket: when it changes, so does the raw uid."""
        return self._mapped.bucket_id


class UnmappedIdentity:
    """Why there is no raw uid."""

    def __init__(self, unmapped: operator.UnmappedIdentity) -> None:
        self._reason = unmapped.reason

    def __repr__(self) -> str:
        """The reason."""
        return f"UnmappedIdentity({self._reason!r})"

    def get_reason(self) -> str:
        """`optout` or `invalid identifier`."""
        return self._reason


class IdentityMapResponse(MapResponse[MappedIdentity, UnmappedIdentity]):
    """What was mapped and what was not; see MapResponse."""

    def __init__(self, provided: Sequence[str], results: Sequence[IdentityMapResult]) -> None:
        super().__init__(provided, results, MappedIdentity, UnmappedIdentity)


class Bucket:
    """A salt bucket that has changed."""

    def __init__(self, bucket: operator.IdentityBucket) -> None:
        self._bucket = bucket

    def __repr__(self) -> str:
        """Id and time."""
        return repr(self._bucket)

    def get_bucket_id(self) -> str:
        """The id, as `MappedIdentity.get_bucket_id` returns it."""
        return self._bucket.bucket_id

    def get_last_updated(self) -> str:
        """When it changed: ISO 8601 in UTC without a zone."""
        return self._bucket.last_updated


class IdentityBucketsResponse(SuccessfulResponse):
    """Salt buckets that have changed, in `buckets`."""

    def __init__(self, buckets: Iterable[operator.IdentityBucket]) -> None:
        self.buckets = [Bucket(bucket) for bucket in buckets]


class IdentityMapClient(MapClient):
    """Maps identities with /v2/identity/map; see OperatorClient for its arguments.

    Both methods raise OperatorError or EnvelopeError if a request fails; see `bidstream_svc.core.errors`.
    """

    def generate_identity_map(self, identity_map_input: IdentityMapInput) -> IdentityMapResponse:
        """Map identities; more than 5,000 are sent in batches, several at a time."""
        results = self._connection.run(self._client.map_identities(identity_map_input.identities))
        return IdentityMapResponse(identity_map_input.provided, results)

    def get_identity_buckets(self, since_timestamp: datetime) -> IdentityBucketsResponse:
        """The salt buckets that changed after a time (a naive one is local): identities in them need a new map."""
        return IdentityBucketsResponse(self._connection.run(self._client.get_identity_buckets(since_timestamp)))
