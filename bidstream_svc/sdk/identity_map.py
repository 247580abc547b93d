"""A client for advertisers: raw uids for lists of identities, with /v2/identity/map."""

from collections.abc import Iterable, Sequence
from datetime import datetime

from bidstream_svc import operator
from bidstream_svc.operator import IdentityMapResult
from bidstream_svc.sdk.identity_map_base import MapClient, MapInput, MapResponse, SuccessfulResponse


class IdentityMapInput(MapInput):
    """Identities of one kind; see MapInput."""


class MappedIdentityV2:
    """A raw uid and its salt bucket; a repr shows the bucket only."""

    def __init__(self, mapped: operator.MappedIdentity) -> None:
        self._mapped = mapped

    def __repr__(self) -> str:
        """Show the bucket only."""
        return repr(self._mapped)

    def get_raw_uid(self) -> str:
        """The raw uid."""
        return self._mapped.raw_uid

    def get_bucket_id(self) -> str | None:
        """The salt bucket: when it changes, so does the raw uid."""
        return self._mapped.bucket_id


class UnmappedIdentityV2:
    """Why there is no raw uid: `reason`, in the operator's words."""

    def __init__(self, unmapped: operator.UnmappedIdentity) -> None:
        self.reason = unmapped.reason

    def __repr__(self) -> str:
        """Show the reason."""
        return f"UnmappedIdentityV2({self.reason!r})"

    def get_reason(self) -> str:
        """`optout` or `invalid identifier`."""
        return self.reason


class IdentityMapResponse(MapResponse[MappedIdentityV2, UnmappedIdentityV2]):
    """What was mapped and what was not; see MapResponse."""

    def __init__(self, provided: Sequence[str], results: Sequence[IdentityMapResult]) -> None:
        super().__init__(provided, results, MappedIdentityV2, UnmappedIdentityV2)


class Bucket:
    """A salt bucket that has changed."""

    def __init__(self, bucket: operator.IdentityBucket) -> None:
        self._bucket = bucket

    def __repr__(self) -> str:
        """Show the id of the bucket and the time of its last change."""
        return repr(self._bucket)

    def get_bucket_id(self) -> str:
        """The id, as `MappedIdentityV2.get_bucket_id` returns it."""
        return self._bucket.bucket_id

    def get_last_updated(self) -> str:
        """When it changed: ISO 8601 in UTC without a zone."""
        return self._bucket.last_updated


class IdentityBucketsResponse(SuccessfulResponse):
    """Salt buckets that have changed, in `buckets`."""

    def __init__(self, buckets: Iterable[operator.IdentityBucket]) -> None:
        self.buckets = [Bucket(bucket) for bucket in buckets]


class IdentityMapClient(MapClient):
    """Maps identities with /v2/identity/map; see OperatorClient for its arguments."""

    def generate_identity_map(self, identity_map_input: IdentityMapInput) -> IdentityMapResponse:
        """Map identities; more than 5,000 are sent in batches, several at a time.

        Raises:
            OperatorError, EnvelopeError: a request failed; see `bidstream_svc.core.errors`.
        """
        results = self._connection.run(self._client.map_identities(identity_map_input.identities))
        return IdentityMapResponse(identity_map_input.provided, results)

    def get_identity_buckets(self, since_timestamp: datetime) -> IdentityBucketsResponse:
        """Return the salt buckets that changed after a time. Identities in them must be mapped again.

        Args:
            since_timestamp: the time; a naive one is local.

        Raises:
            OperatorError, EnvelopeError: the request failed; see `bidstream_svc.core.errors`.
        """
        return IdentityBucketsResponse(self._connection.run(self._client.get_identity_buckets(since_timestamp)))
