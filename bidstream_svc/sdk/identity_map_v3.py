"""A client for advertisers: raw uids for lists of people, the ones before them too, with /v3/identity/map."""

from collections.abc import Callable, Iterable, Sequence
from datetime import datetime
from enum import Enum
from typing import Self, Unpack

from bidstream_svc import operator
from bidstream_svc.core.identity import Identity, IdentityKind
from bidstream_svc.core.units import MS_PER_S
from bidstream_svc.operator import IdentityMapV3Result
from bidstream_svc.sdk.client import ClientOptions, OperatorClient
from bidstream_svc.sdk.times import from_unix_ms


class IdentityMapV3Input:
    """People to map, given in any mixture of ways, in lists of any length. A repr shows how many.

    `with_` methods add to the object and return it, to be chained. Addresses and numbers are hashed here and do not
    leave the machine; a malformed one raises IdentityError, which is a ValueError. A malformed hash comes back
    unmapped, as `invalid identifier`.

    Attributes:
        given: addresses, numbers or hashes, in the order given.
        identities: what the operator is told for each.
    """

    def __init__(self) -> None:
        self.given: list[str] = []
        self.identities: list[Identity] = []

    def __repr__(self) -> str:
        """How many."""
        return f"IdentityMapV3Input({len(self.given)} identities)"

    @classmethod
    def from_emails(cls, emails: Iterable[str]) -> Self:
        """The owners of e-mail addresses, in any spelling."""
        return cls().with_emails(emails)

    @classmethod
    def from_phones(cls, phones: Iterable[str]) -> Self:
        """The owners of phone numbers in E.164."""
        return cls().with_phones(phones)

    @classmethod
    def from_hashed_emails(cls, hashed_emails: Iterable[str]) -> Self:
        """The owners of addresses whose normalised spellings have these SHA-256s in base64."""
        return cls().with_hashed_emails(hashed_emails)

    @classmethod
    def from_hashed_phones(cls, hashed_phones: Iterable[str]) -> Self:
        """The owners of numbers in E.164 that have these SHA-256s in base64."""
        return cls().with_hashed_phones(hashed_phones)

    def with_email(self, email: str) -> Self:
        """Add the owner of an address."""
        return self._add([email], Identity.from_email)

    def with_emails(self, emails: Iterable[str]) -> Self:
        """Add the owners of addresses."""
        return self._add(emails, Identity.from_email)

    def with_phone(self, phone: str) -> Self:
        """Add the owner of a number."""
        return self._add([phone], Identity.from_phone)

    def with_phones(self, phones: Iterable[str]) -> Self:
        """Add the owners of numbers."""
        return self._add(phones, Identity.from_phone)

    def with_hashed_email(self, hashed_email: str) -> Self:
        """Add the owner of a hashed address."""
        return self.with_hashed_emails([hashed_email])

    def with_hashed_emails(self, hashed_emails: Iterable[str]) -> Self:
        """Add the owners of hashed addresses."""
        return self._add(hashed_emails, lambda text: Identity(IdentityKind.EMAIL_HASH, text))

    def with_hashed_phone(self, hashed_phone: str) -> Self:
        """Add the owner of a hashed number."""
        return self.with_hashed_phones([hashed_phone])

    def with_hashed_phones(self, hashed_phones: Iterable[str]) -> Self:
        """Add the owners of hashed numbers."""
        return self._add(hashed_phones, lambda text: Identity(IdentityKind.PHONE_HASH, text))

    def _add(self, given: Iterable[str], identify: Callable[[str], Identity]) -> Self:
        for text in given:
            self.identities.append(identify(text))  # first: it may raise, and then nothing has been added
            self.given.append(text)
        return self


class MappedIdentityV3:
    """A raw uid, the one before it, and when to ask again; a repr shows the time only."""

    def __init__(self, mapped: operator.MappedIdentityV3) -> None:
        self._mapped = mapped

    def __repr__(self) -> str:
        """The time."""
        return f"MappedIdentityV3(refresh_from={self.refresh_from.isoformat()})"

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
        """From when on the raw uid may have changed (UTC)."""
        return from_unix_ms(self._mapped.refresh_from_s * MS_PER_S)


class UnmappedIdentityReason(Enum):
    """Why there is no raw uid."""

    OPTOUT = "optout"
    INVALID_IDENTIFIER = "invalid identifier"
    UNKNOWN = "unknown"


class UnmappedIdentityV3:
    """Why there is no raw uid: `reason`, and `raw_reason` in the operator's words."""

    def __init__(self, unmapped: operator.UnmappedIdentity) -> None:
        self.raw_reason = unmapped.reason

    def __repr__(self) -> str:
        """The reason."""
        return f"UnmappedIdentityV3({self.raw_reason!r})"

    @property
    def reason(self) -> UnmappedIdentityReason:
        """The reason, UNKNOWN if the operator gives one that this version does not know."""
        try:
            return UnmappedIdentityReason(self.raw_reason)
        except ValueError:
            return UnmappedIdentityReason.UNKNOWN


class IdentityMapV3Response:
    """Who was mapped and who was not, by the address, number or hash exactly as it was given.

    Attributes:
        mapped_identities: raw uids.
        unmapped_identities: reasons.
    """

    def __init__(self, given: Sequence[str], results: Sequence[IdentityMapV3Result]) -> None:
        self.mapped_identities: dict[str, MappedIdentityV3] = {}
        self.unmapped_identities: dict[str, UnmappedIdentityV3] = {}
        for text, result in zip(given, results, strict=True):
            if isinstance(result, operator.MappedIdentityV3):
                self.mapped_identities[text] = MappedIdentityV3(result)
            else:
                self.unmapped_identities[text] = UnmappedIdentityV3(result)

    def __repr__(self) -> str:
        """How many of each."""
        mapped, unmapped = len(self.mapped_identities), len(self.unmapped_identities)
        return f"IdentityMapV3Response({mapped} mapped, {unmapped} unmapped)"

    @property
    def status(self) -> str:
        """`success`; anything else raises instead."""
        return "success"

    def is_success(self) -> bool:
        """True; anything else raises instead."""
        return True


class IdentityMapV3Client(OperatorClient):
    """Raw uids with /v3/identity/map; see OperatorClient for what it takes."""

    def __init__(self, base_url: str, api_key: str, client_secret: str, **options: Unpack[ClientOptions]) -> None:
        super().__init__(base_url, api_key, client_secret, **options)
        self._client = operator.IdentityMapClient(self._transport)

    def generate_identity_map(self, identity_map_input: IdentityMapV3Input) -> IdentityMapV3Response:
        """Map people; lists of more than 5,000 are sent in pieces, a few at a time.

        Raises:
            OperatorError, EnvelopeError: a call failed.
        """
        results = self._connection.run(self._client.map_identities_v3(identity_map_input.identities))
        return IdentityMapV3Response(identity_map_input.given, results)
