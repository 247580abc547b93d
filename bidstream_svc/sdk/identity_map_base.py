"""What the clients of both versions of the identity map share; `identity_map` and `identity_map_v3` add their own."""

from collections.abc import Callable, Iterable, Sequence
from functools import partial
from typing import Generic, Self, TypeVar, Unpack

from bidstream_svc import operator
from bidstream_svc.core.identity import Identity, IdentityKind
from bidstream_svc.sdk.client import ClientOptions, OperatorClient

_Result = TypeVar("_Result")
_Mapped = TypeVar("_Mapped")
_Unmapped = TypeVar("_Unmapped")


def _take_hash(kind: IdentityKind, text: str) -> Identity:
    """A hash as it is. JSON cannot hold a lone surrogate; a question mark makes the hash as invalid as that."""
    return Identity(kind, text.encode(errors="replace").decode())


_IDENTIFY: dict[IdentityKind, Callable[[str], Identity]] = {
    IdentityKind.EMAIL: Identity.from_email,
    IdentityKind.PHONE: Identity.from_phone,
    # Hashes are not checked here: the operator says which are invalid, and the rest of the list is mapped.
    IdentityKind.EMAIL_HASH: partial(_take_hash, IdentityKind.EMAIL_HASH),
    IdentityKind.PHONE_HASH: partial(_take_hash, IdentityKind.PHONE_HASH),
}


class MapInput:
    """Identities to map, in a list of any length. A repr shows only their number.

    Addresses and numbers are hashed here; only hashes are sent. A malformed address or number raises IdentityError,
    which is a ValueError. A malformed hash comes back unmapped, as `invalid identifier`.

    Attributes:
        provided: addresses, numbers or hashes as they were provided, in order.
        identities: the identities that the operator receives, one for each element of `provided`, in the same order.
    """

    def __init__(self, texts: Iterable[str] = (), kind: IdentityKind = IdentityKind.EMAIL) -> None:
        self.provided: list[str] = []
        self.identities: list[Identity] = []
        self._add(texts, kind)

    def __repr__(self) -> str:
        """Show the number of identities only."""
        return f"{type(self).__name__}({len(self.identities)} identities)"

    @classmethod
    def from_emails(cls, emails: Iterable[str]) -> Self:
        """Make an input from e-mail addresses, normalised or not."""
        return cls(emails, IdentityKind.EMAIL)

    @classmethod
    def from_phones(cls, phones: Iterable[str]) -> Self:
        """Make an input from phone numbers in E.164."""
        return cls(phones, IdentityKind.PHONE)

    @classmethod
    def from_hashed_emails(cls, hashed_emails: Iterable[str]) -> Self:
        """Make an input from SHA-256 hashes, in base64, of normalised e-mail addresses."""
        return cls(hashed_emails, IdentityKind.EMAIL_HASH)

    @classmethod
    def from_hashed_phones(cls, hashed_phones: Iterable[str]) -> Self:
        """Make an input from SHA-256 hashes, in base64, of phone numbers in E.164."""
        return cls(hashed_phones, IdentityKind.PHONE_HASH)

    def _add(self, texts: Iterable[str], kind: IdentityKind) -> Self:
        identify = _IDENTIFY[kind]
        for text in texts:
            self.identities.append(identify(text))  # first: if it raises, both lists stay of one length
            self.provided.append(text)
        return self


class SuccessfulResponse:
    """A response of the operator; a request that fails raises an error instead."""

    @property
    def status(self) -> str:
        """Always `success`."""
        return "success"

    def is_success(self) -> bool:
        """Always True."""
        return True


class MapResponse(SuccessfulResponse, Generic[_Mapped, _Unmapped]):
    """Results, keyed by the address, number or hash exactly as it was provided. A repr shows only their numbers.

    Attributes:
        mapped_identities: the results with a raw uid.
        unmapped_identities: the results without one, each with the reason.
    """

    def __init__(
        self,
        provided: Sequence[str],
        results: Sequence[_Result | operator.UnmappedIdentity],
        mapped: Callable[[_Result], _Mapped],
        unmapped: Callable[[operator.UnmappedIdentity], _Unmapped],
    ) -> None:
        self.mapped_identities: dict[str, _Mapped] = {}
        self.unmapped_identities: dict[str, _Unmapped] = {}
        for text, result in zip(provided, results, strict=True):
            if isinstance(result, operator.UnmappedIdentity):
                self.unmapped_identities[text] = unmapped(result)
            else:
                self.mapped_identities[text] = mapped(result)

    def __repr__(self) -> str:
        """Show the numbers of mapped and unmapped identities only."""
        mapped, unmapped = len(self.mapped_identities), len(self.unmapped_identities)
        return f"{type(self).__name__}({mapped} mapped, {unmapped} unmapped)"


class MapClient(OperatorClient):
    """A client with an asynchronous IdentityMapClient on its transport; see OperatorClient for its arguments."""

    def __init__(self, base_url: str, api_key: str, client_secret: str, **options: Unpack[ClientOptions]) -> None:
        super().__init__(base_url, api_key, client_secret, **options)
        self._client = operator.IdentityMapClient(self._transport)
