"""Test identities with a special meaning at every operator, and the parsing of identifiers in requests."""

from bidstream_svc.core.errors import IdentityError
from bidstream_svc.core.identity import Identity, IdentityKind

VALIDATE_EMAIL = "validate@example.com"  # the only one that /v2/token/validate accepts
OPTED_OUT_EMAIL = "optout@example.com"
OPTED_OUT_ON_REFRESH_EMAIL = "refresh-optout@example.com"  # a token is generated, but its refresh answers optout

# Names of the fields that contain identifiers, in every endpoint.
IDENTIFIER_FIELDS = tuple(kind.value for kind in IdentityKind)


def parse_identifier(field_name: str, identifier: object) -> Identity:
    """Make the hashed identity of an identifier in one of IDENTIFIER_FIELDS.

    Raises:
        IdentityError: it is not a string, or malformed.
    """
    if not isinstance(identifier, str):
        raise IdentityError("identifier is not a string")
    return Identity.parse(IdentityKind(field_name), identifier)


def identity_of(text: str) -> Identity:
    """Make the hashed identity of an address, or of a number if it begins with `+`.

    Raises:
        IdentityError: it is malformed.
    """
    return Identity.from_phone(text) if text.startswith("+") else Identity.from_email(text)
