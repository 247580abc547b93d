"""A client for advertisers: raw uids for lists of people, with /v2/identity/map."""

from collections.abc import Iterable, Sequence
from datetime import datetime
from typing import Self, Unpack

from bidstream_svc import operator
from bidstream_svc.core.identity import Identity, IdentityKind
from bidstream_svc.operator import IdentityMapResult
from bidstream_svc.sdk.client import ClientOptions, OperatorClient


class IdentityMapInput:
    """People to map, all given in the same way, in a list of any length. A repr shows how many.

    Addresses and numbers are hashed here and do not leave the machine; a malformed one raises IdentityError, which is a
    ValueError. A malformed hash comes back unmapped, as `invalid identifier`.

    Attributes:
        given: addresses, numbers or hashes, in the order given.
        identities: what the operator is told for each.
    """

    def __init__(self, given: Iterable[str], identities: Iterable[Identity]) -> None:
        self.given = list(given)
        self.identities = list(identities)

    def __repr__(self) -> str:
        """How many."""
        return f"IdentityMapInput({len(self.given)} identities)"

    @classmethod
    def from_emails(cls, emails: Sequence[str]) -> Self:
        """The owners of e-mail addresses, in any spelling."""
        return cls(emails, map(Identity.from_email, emails))

    @classmethod
    def from_phones(cls, phones: Sequence[str]) -> Self:
        """The owners of phone numbers in E.164."""
        return cls(phones, map(Identity.from_phone, phones))

    @classmethod
    def from_hashed_emails(cls, hashed_emails: Sequence[str]) -> Self:
        """The owners of addresses whose normalised spellings have these SHA-256s in base64."""
        return cls(hashed_emails, (Identity(IdentityKind.EMAIL_HASH, text) for text in hashed_emails))

    @classmethod
    def from_hashed_phones(cls, hashed_phones: Sequence[str]) -> Self:
        """The owners of numbers in E.164 that have these SHA-256s in base64."""
        return cls(hashed_phones, (Identity(IdentityKind.PHONE_HASH, text) for text in hashed_phones))


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


class IdentityMapResponse:
    """Who was mapped and who was not, by the address, number or hash exactly as it was given.

    Attributes:
        mapped_identities: raw uids.
        unmapped_identities: reasons.
    """

    def __init__(self, given: Sequence[str], results: Sequence[IdentityMapResult]) -> None:
        self.mapped_identities: dict[str, MappedIdentity] = {}
        self.unmapped_identities: dict[str, UnmappedIdentity] = {}
        for text, result in zip(given, results, strict=True):
            if isinstance(result, operator.MappedIdentity):
                self.mapped_identities[text] = MappedIdentity(result)
            else:
                self.unmapped_identities[text] = UnmappedIdentity(result)

    def __repr__(self) -> str:
        """How many of each."""
        mapped, unmapped = len(self.mapped_identities), len(self.unmapped_identities)
        return f"IdentityMapResponse({mapped} mapped, {unmapped} unmapped)"

    @property
    def status(self) -> str:
        """`success`; anything else raises instead."""
        return "success"

    def is_success(self) -> bool:
        """True; anything else raises instead."""
        return True


class Bucket:
    """A salt bucket that has changed."""

    def __init__(self, bucket: operator.IdentityBucket) -> None:
        self._bucket = bucket

    def __repr__(self) -> str:
        """Id and time."""
        return repr(self._bucket)

    def get_bucket_id(self) -> str:
        """What `MappedIdentity.get_bucket_id` gave."""
        return self._bucket.bucket_id

    def get_last_updated(self) -> str:
        """When it changed: ISO 8601 in UTC without a zone."""
        return self._bucket.last_updated


class IdentityBucketsResponse:
    """Salt buckets that have changed, in `buckets`."""

    def __init__(self, buckets: Iterable[operator.IdentityBucket]) -> None:
        self.buckets = [Bucket(bucket) for bucket in buckets]

    @property
    def status(self) -> str:
        """`success`; anything else raises instead."""
        return "success"

    def is_success(self) -> bool:
        """True; anything else raises instead."""
        return True


class IdentityMapClient(OperatorClient):
    """Raw uids with /v2/identity/map; see OperatorClient for what it takes.

    Both methods raise OperatorError or EnvelopeError if a call fails, as drawn in `bidstream_svc.core.errors`.
    """

    def __init__(self, base_url: str, api_key: str, client_secret: str, **options: Unpack[ClientOptions]) -> None:
        super().__init__(base_url, api_key, client_secret, **options)
        self._client = operator.IdentityMapClient(self._transport)

    def generate_identity_map(self, identity_map_input: IdentityMapInput) -> IdentityMapResponse:
        """Map people; a list of more than 5,000 is sent in pieces, a few at a time."""
        results = self._connection.run(self._client.map_identities(identity_map_input.identities))
        return IdentityMapResponse(identity_map_input.given, results)

    def get_identity_buckets(self, since_timestamp: datetime) -> IdentityBucketsResponse:
        """The salt buckets that changed after a time (a naive one is local): map their people again."""
        return IdentityBucketsResponse(self._connection.run(self._client.get_identity_buckets(since_timestamp)))
