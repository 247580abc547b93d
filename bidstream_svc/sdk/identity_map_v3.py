"""A client for advertisers: raw uids for lists of identities, and the previous ones, with /v3/identity/map."""

from collections.abc import Iterable, Sequence
from datetime import datetime
from enum import Enum
from typing import Self

from bidstream_svc import operator
from bidstream_svc.core.identity import IdentityKind
from bidstream_svc.core.units import MS_PER_S
from bidstream_svc.operator import IdentityMapV3Result
from bidstream_svc.sdk.identity_map_base import MapClient, MapInput, MapResponse
from bidstream_svc.sdk.times import from_unix_ms


class IdentityMapV3Input(MapInput):
    """Identities of any kinds; see MapInput. `with_` methods add to the object and return it, to be chained."""

    def with_email(self, email: str) -> Self:
        """Add an e-mail address, normalised or not."""
        return self.with_emails([email])

    def with_emails(self, emails: Iterable[str]) -> Self:
        """Add e-mail addresses."""
        return self._add(emails, IdentityKind.EMAIL)

    def with_phone(self, phone: str) -> Self:
        """Add a phone number in E.164."""
        return self.with_phones([phone])

    def with_phones(self, phones: Iterable[str]) -> Self:
        """Add phone numbers."""
        return self._add(phones, IdentityKind.PHONE)

    def with_hashed_email(self, hashed_email: str) -> Self:
        """Add the SHA-256, in base64, of a normalised e-mail address."""
        return self.with_hashed_emails([hashed_email])

    def with_hashed_emails(self, hashed_emails: Iterable[str]) -> Self:
        """Add hashes of e-mail addresses."""
        return self._add(hashed_emails, IdentityKind.EMAIL_HASH)

    def with_hashed_phone(self, hashed_phone: str) -> Self:
        """Add the SHA-256, in base64, of a phone number in E.164."""
        return self.with_hashed_phones([hashed_phone])

    def with_hashed_phones(self, hashed_phones: Iterable[str]) -> Self:
        """Add hashes of phone numbers."""
        return self._add(hashed_phones, IdentityKind.PHONE_HASH)


class MappedIdentity:
    """A raw uid, the previous one, and from when it may change; a repr shows the time only."""

    def __init__(self, mapped: operator.MappedIdentityV3) -> None:
        self._mapped = mapped

    def __repr__(self) -> str:
        """Show the time only."""
        return f"MappedIdentity(refresh_from={self.refresh_from.isoformat()})"

    @property
    def current_raw_uid(self) -> str:
        """The raw uid."""
        return self._mapped.raw_uid

    @property
    def previous_raw_uid(self) -> str | None:
        """The raw uid before the last change, for 90 days after it; else None."""
        return self._mapped.previous_raw_uid

    @property
    def refresh_from(self) -> datetime:
        """The time (UTC) from which the raw uid may have changed."""
        return from_unix_ms(self._mapped.refresh_from_s * MS_PER_S)


class UnmappedIdentityReason(Enum):
    """Why there is no raw uid."""

    OPTOUT = "optout"
    INVALID_IDENTIFIER = "invalid identifier"
    UNKNOWN = "unknown"

    @classmethod
    def from_string(cls, reason_str: str) -> Self:
        """Return the reason for the operator's text; UNKNOWN for one that is not among the members."""
        try:
            return cls(reason_str)
        except ValueError:
            return cls.UNKNOWN


class UnmappedIdentity:
    """Why there is no raw uid: `reason`, and `raw_reason` in the operator's words."""

    def __init__(self, unmapped: operator.UnmappedIdentity) -> None:
        self.raw_reason = unmapped.reason

    def __repr__(self) -> str:
        """Show the reason."""
        return f"UnmappedIdentity({self.raw_reason!r})"

    @property
    def reason(self) -> UnmappedIdentityReason:
        """The reason; UNKNOWN for one that is not among the members."""
        return UnmappedIdentityReason.from_string(self.raw_reason)


class IdentityMapV3Response(MapResponse[MappedIdentity, UnmappedIdentity]):
    """What was mapped and what was not; see MapResponse."""

    def __init__(self, provided: Sequence[str], results: Sequence[IdentityMapV3Result]) -> None:
        super().__init__(provided, results, MappedIdentity, UnmappedIdentity)


class IdentityMapV3Client(MapClient):
    """Maps identities with /v3/identity/map; see OperatorClient for its arguments."""

    def generate_identity_map(self, identity_map_input: IdentityMapV3Input) -> IdentityMapV3Response:
        """Map identities; more than 5,000 are sent in batches, several at a time.

        Raises:
            OperatorError, EnvelopeError: a request failed; see `bidstream_svc.core.errors`.
        """
        results = self._connection.run(self._client.map_identities_v3(identity_map_input.identities))
        return IdentityMapV3Response(identity_map_input.provided, results)
