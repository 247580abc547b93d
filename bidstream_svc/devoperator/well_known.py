"""Test identities with a special meaning at every operator, and the parsing of identifiers in requests."""

from bidstream_svc.core.errors import IdentityError
from bidstream_svc.core.identity import Identity, IdentityKind

OPTED_OUT_USERS = ("optout@example.com", "+00000000000")
OPTED_OUT_ON_REFRESH_USERS = ("refresh-optout@example.com", "+00000000002")  # generated once, never refreshed

# Names of the fields that contain identifiers, in every endpoint.
IDENTIFIER_FIELDS = tuple(kind.value for kind in IdentityKind)
ONE_IDENTIFIER_REQUIRED = (
    f"Required Parameter Missing: exactly one of [{', '.join(IDENTIFIER_FIELDS)}] must be specified"
)


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
