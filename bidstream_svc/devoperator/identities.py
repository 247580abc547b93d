"""Who a request is about: its identifiers as hashes, and the well-known test identities."""

from dataclasses import dataclass, field
from typing import Self

import pybase64

from bidstream_svc.errors import IdentityError
from bidstream_svc.identity import IdentityType, hash_identity, is_identity_hash, normalise_email, normalise_phone

__all__ = [
    "IDENTIFIER_FIELDS",
    "OPTED_OUT_EMAIL",
    "OPTED_OUT_ON_REFRESH_EMAIL",
    "VALIDATE_EMAIL",
    "Identity",
]

# The names under which every endpoint takes identifiers.
IDENTIFIER_FIELDS = ("email", "email_hash", "phone", "phone_hash")

VALIDATE_EMAIL = "validate@example.com"  # the only one that /v2/token/validate accepts
OPTED_OUT_EMAIL = "optout@example.com"
OPTED_OUT_ON_REFRESH_EMAIL = "refresh-optout@example.com"  # a token is generated, but its refresh answers optout


@dataclass(frozen=True, slots=True)
class Identity:
    """An e-mail address or phone number, as the SHA-256 of its normalised spelling."""

    identity_type: IdentityType
    digest: bytes = field(repr=False)

    @classmethod
    def of(cls, text: str) -> Self:
        """Of an address, or of a number if it begins with `+`.

        Raises:
            IdentityError: it is malformed.
        """
        return cls.read("phone" if text.startswith("+") else "email", text)

    @classmethod
    def read(cls, field_name: str, identifier: object) -> Self:
        """Of an identifier that came in under one of IDENTIFIER_FIELDS.

        Raises:
            IdentityError: it is no text, or malformed.
        """
        if not isinstance(identifier, str):
            raise IdentityError("identifier is no text")
        kind, _, is_hash = field_name.partition("_")
        identity_type = IdentityType[kind.upper()]
        if not is_hash:
            normalise = normalise_email if identity_type is IdentityType.EMAIL else normalise_phone
            identifier = hash_identity(normalise(identifier))
        elif not is_identity_hash(identifier):
            raise IdentityError("identifier is not the base64 of a SHA-256")
        return cls(identity_type, pybase64.b64decode(identifier))
