"""Whom a call to an operator is about: an address or number, by default as its hash, so that it does not leave here."""

from dataclasses import dataclass, field
from enum import StrEnum
from typing import Self

from bidstream_svc.errors import IdentityError
from bidstream_svc.identity import hash_identity, is_identity_hash, normalise_email, normalise_phone

__all__ = ["Identity", "IdentityKind"]


class IdentityKind(StrEnum):
    """The four ways to name somebody; the value is the field's name in an operator's JSON."""

    EMAIL = "email"
    EMAIL_HASH = "email_hash"
    PHONE = "phone"
    PHONE_HASH = "phone_hash"


@dataclass(frozen=True, slots=True)
class Identity:
    """One person, as an operator is told; a repr shows only the kind.

    Attributes:
        kind: what `value` is.
        value: a normalised address or number, or the base64 of the SHA-256 of one.
    """

    kind: IdentityKind
    value: str = field(repr=False)

    @classmethod
    def from_email(cls, address: str) -> Self:
        """The hash of an e-mail address, normalised first. Raises IdentityError if it is malformed."""
        return cls(IdentityKind.EMAIL_HASH, hash_identity(normalise_email(address)))

    @classmethod
    def from_phone(cls, number: str) -> Self:
        """The hash of a phone number in E.164. Raises IdentityError if it is in another form."""
        return cls(IdentityKind.PHONE_HASH, hash_identity(normalise_phone(number)))

    @classmethod
    def from_email_hash(cls, email_hash: str) -> Self:
        """Base64 of the SHA-256 of a normalised address. Raises IdentityError if it cannot be one."""
        return cls(IdentityKind.EMAIL_HASH, _check_hash(email_hash))

    @classmethod
    def from_phone_hash(cls, phone_hash: str) -> Self:
        """Base64 of the SHA-256 of a number in E.164. Raises IdentityError if it cannot be one."""
        return cls(IdentityKind.PHONE_HASH, _check_hash(phone_hash))

    @classmethod
    def from_unhashed_email(cls, address: str) -> Self:
        """A normalised address that the operator itself hashes. Raises IdentityError if it is malformed."""
        return cls(IdentityKind.EMAIL, normalise_email(address))

    @classmethod
    def from_unhashed_phone(cls, number: str) -> Self:
        """A number in E.164 that the operator itself hashes. Raises IdentityError if it is in another form."""
        return cls(IdentityKind.PHONE, normalise_phone(number))


def _check_hash(text: str) -> str:
    if not is_identity_hash(text):
        raise IdentityError("identity hash is not the base64 of a SHA-256: 44 characters are needed")
    return text
