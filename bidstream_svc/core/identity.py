"""Who an id stands for: scopes, identity types, and e-mail addresses and phone numbers made comparable.

Both programmes, UID2 and EUID, define the same rules (docs/protocol.md, "Normalisation"), so that every participant
arrives at the same hash for the same person. No message of an error here repeats the address or number.
"""

import re
from dataclasses import dataclass, field
from enum import IntEnum, StrEnum
from hashlib import sha256
from typing import Self

import pybase64

from bidstream_svc.core.errors import IdentityError


class IdentityScope(IntEnum):
    """The programme an id belongs to; the value is bit 4 of a v3 or v4 token's first byte."""

    UID2 = 0
    EUID = 1


class IdentityType(IntEnum):
    """What an id was made from; the value is bits 2-3 of a v3 or v4 token's first byte."""

    EMAIL = 0
    PHONE = 1


_ASCII_LOWER = str.maketrans("ABCDEFGHIJKLMNOPQRSTUVWXYZ", "abcdefghijklmnopqrstuvwxyz")
_PHONE = re.compile(r"\+[0-9]{10,15}", re.ASCII)
_SHA256_LENGTH = 32


def normalise_email(address: str) -> str:
    """Bring an e-mail address into the one spelling that is hashed.

    Trims, lower-cases ASCII letters and, for gmail.com, drops dots and `+suffix` from the local part.

    Raises:
        IdentityError: not exactly one `@`, or nothing on one side of it.
    """
    local, at, domain = address.strip().translate(_ASCII_LOWER).partition("@")
    if domain == "gmail.com":
        local = local.partition("+")[0].replace(".", "")
    if not at or not local or not domain or "@" in domain:
        raise IdentityError("not an e-mail address: exactly one @ and something on both sides are needed")
    return f"{local}@{domain}"


def normalise_phone(number: str) -> str:
    """Check that a phone number is in E.164, `+` and 10 to 15 digits, which is its one spelling.

    Raises:
        IdentityError: it is not; guessing a country or dropping punctuation could make it another person's.
    """
    if not _PHONE.fullmatch(number):
        raise IdentityError("phone number is not in E.164: + and 10 to 15 digits, nothing else")
    return number


def hash_identity(normalised: str) -> str:
    """Base64 of the SHA-256 of a normalised address or number: 44 characters.

    Raises:
        IdentityError: it holds a lone surrogate and so has no UTF-8.
    """
    try:
        encoded = normalised.encode()
    except UnicodeEncodeError:
        # Not chained: that exception carries the text.
        raise IdentityError("identity is not valid Unicode text") from None
    return pybase64.b64encode_as_string(sha256(encoded).digest())


def is_identity_hash(text: str) -> bool:
    """Whether `text` can be what `hash_identity` returns."""
    try:
        digest = pybase64.b64decode(text, validate=True)
    except ValueError:
        return False
    # Encoded again, because several texts decode to one digest and only one of them is the hash.
    return len(digest) == _SHA256_LENGTH and pybase64.b64encode_as_string(digest) == text


class IdentityKind(StrEnum):
    """The four ways to name a person; the value is the field's name in an operator's JSON."""

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
    def parse(cls, kind: IdentityKind, text: str) -> Self:
        """An identity that does not reveal the person: addresses and numbers are normalised and hashed.

        Raises:
            IdentityError: `text` is malformed for its kind.
        """
        match kind:
            case IdentityKind.EMAIL:
                return cls.from_email(text)
            case IdentityKind.PHONE:
                return cls.from_phone(text)
            case IdentityKind.EMAIL_HASH:
                return cls.from_email_hash(text)
            case IdentityKind.PHONE_HASH:
                return cls.from_phone_hash(text)

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

    @property
    def identity_type(self) -> IdentityType:
        """Whether it is an e-mail address or a phone number, hashed or not."""
        is_email = self.kind in {IdentityKind.EMAIL, IdentityKind.EMAIL_HASH}
        return IdentityType.EMAIL if is_email else IdentityType.PHONE


def _check_hash(text: str) -> str:
    if not is_identity_hash(text):
        raise IdentityError("identity hash is not the base64 of a SHA-256: 44 characters are needed")
    return text
