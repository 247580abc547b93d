"""Identities: scopes, types, and the normalisation and hashing of e-mail addresses and phone numbers.

UID2 and EUID define the same rules, so that every participant computes the same hash for a person. No error message
here contains the address or number.

Source: docs/protocol.md, "Normalisation".
"""

import re
from dataclasses import dataclass, field
from enum import IntEnum, StrEnum
from hashlib import sha256
from typing import Self

import pybase64

from bidstream_svc.core.errors import IdentityError


class IdentityScope(IntEnum):
    """The programme of a uid. The value is bit 4 of the first byte of a v3 or v4 token."""

    __hash__ = int.__hash__  # as of DecryptionStatus

    UID2 = 0
    EUID = 1


class IdentityType(IntEnum):
    """What a uid was derived from. The value is bits 2-3 of the first byte of a v3 or v4 token."""

    EMAIL = 0
    PHONE = 1


_ASCII_LOWER = str.maketrans("ABCDEFGHIJKLMNOPQRSTUVWXYZ", "abcdefghijklmnopqrstuvwxyz")
_PHONE = re.compile(r"\+[0-9]{10,15}", re.ASCII)
_SHA256_LENGTH = 32
_HEX_SHA256 = re.compile(r"[0-9A-Fa-f]{64}", re.ASCII)


def normalise_email(address: str) -> str:
    """Normalise an e-mail address for hashing, exactly as operators do.

    Lower-cases ASCII letters, drops the spaces (U+0020) around the address and within its local part and, for
    gmail.com, dots and `+suffix` from the local part. Any other whitespace is part of the address.

    Raises:
        IdentityError: not exactly one `@`, an empty side of it, or a lone surrogate.
    """
    local, _, domain = address.translate(_ASCII_LOWER).partition("@")
    local, domain = local.replace(" ", ""), domain.rstrip(" ")
    if domain == "gmail.com":
        local = local.partition("+")[0].replace(".", "")
    if not local or not domain or "@" in domain:
        raise IdentityError("not an e-mail address: exactly one @ between two non-empty parts is required")
    normalised = f"{local}@{domain}"
    _encode(normalised)  # checked here as well, because an address may be sent without being hashed
    return normalised


def normalise_phone(number: str) -> str:
    """Return a phone number that is in E.164 format, `+` and 10 to 15 digits, unchanged.

    Other formats are not converted: a wrong guess at the country would give another person's number.

    Raises:
        IdentityError: the number is in another format.
    """
    if not _PHONE.fullmatch(number):
        raise IdentityError("phone number is not in E.164 format: + and 10 to 15 digits are required")
    return number


def hash_identity(normalised: str) -> str:
    """Return the base64 of the SHA-256 of a normalised address or number: 44 characters.

    Raises:
        IdentityError: it contains a lone surrogate, which UTF-8 cannot encode.
    """
    return pybase64.b64encode_as_string(sha256(_encode(normalised)).digest())


def normalise_hash(text: str) -> str:
    """Return the base64 of a SHA-256, which may be written in base64 or in hexadecimal digits.

    Raises:
        IdentityError: it is neither.
    """
    if _HEX_SHA256.fullmatch(text):
        return pybase64.b64encode_as_string(bytes.fromhex(text))
    try:
        digest = pybase64.b64decode(text, validate=True)
    except ValueError:
        digest = b""
    # Encoded again because several texts decode to the same digest.
    if len(digest) != _SHA256_LENGTH or pybase64.b64encode_as_string(digest) != text:
        raise IdentityError(
            "identity hash is not a SHA-256: 44 characters of base64 or 64 hexadecimal digits are required"
        )
    return text


def _encode(text: str) -> bytes:
    try:
        return text.encode()
    except UnicodeEncodeError:
        # Not chained: that exception contains the text.
        raise IdentityError("identity is not valid Unicode text") from None


class IdentityKind(StrEnum):
    """How a person is identified. The value is the field name in an operator's JSON."""

    EMAIL = "email"
    EMAIL_HASH = "email_hash"
    PHONE = "phone"
    PHONE_HASH = "phone_hash"


@dataclass(frozen=True, slots=True)
class Identity:
    """A person, as sent to an operator. The repr shows only the kind.

    Attributes:
        kind: the kind of `value`.
        value: a normalised address or number, or the base64 of the SHA-256 of one.
    """

    kind: IdentityKind
    value: str = field(repr=False)

    @classmethod
    def parse(cls, kind: IdentityKind, text: str) -> Self:
        """Make a hashed identity: addresses and numbers are normalised and hashed, hashes are checked.

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
        """Normalise and hash an e-mail address. Raises IdentityError if it is malformed."""
        return cls(IdentityKind.EMAIL_HASH, hash_identity(normalise_email(address)))

    @classmethod
    def from_phone(cls, number: str) -> Self:
        """Hash a phone number in E.164 format. Raises IdentityError if it is in another format."""
        return cls(IdentityKind.PHONE_HASH, hash_identity(normalise_phone(number)))

    @classmethod
    def from_email_hash(cls, email_hash: str) -> Self:
        """Take the SHA-256 of a normalised address, in base64 or hexadecimal. Raises IdentityError if it is neither."""
        return cls(IdentityKind.EMAIL_HASH, normalise_hash(email_hash))

    @classmethod
    def from_phone_hash(cls, phone_hash: str) -> Self:
        """Take the SHA-256 of a number in E.164, in base64 or hexadecimal. Raises IdentityError if it is neither."""
        return cls(IdentityKind.PHONE_HASH, normalise_hash(phone_hash))

    @classmethod
    def from_unhashed_email(cls, address: str) -> Self:
        """Normalise an address, for the operator to hash. Raises IdentityError if it is malformed."""
        return cls(IdentityKind.EMAIL, normalise_email(address))

    @classmethod
    def from_unhashed_phone(cls, number: str) -> Self:
        """Take a number in E.164 format, for the operator to hash. Raises IdentityError if it is in another format."""
        return cls(IdentityKind.PHONE, normalise_phone(number))

    @property
    def identity_type(self) -> IdentityType:
        """EMAIL or PHONE, hashed or not."""
        is_email = self.kind in {IdentityKind.EMAIL, IdentityKind.EMAIL_HASH}
        return IdentityType.EMAIL if is_email else IdentityType.PHONE
