"""Functions of the published SDK that normalise and hash addresses and phone numbers."""

from datetime import UTC, datetime
from hashlib import sha256

import pybase64

from bidstream_svc.core.errors import IdentityError
from bidstream_svc.core.identity import hash_identity, normalise_email, normalise_phone


def normalize_email_string(email: str) -> str | None:
    """Return a normalised e-mail address, or None if it is malformed."""
    try:
        return normalise_email(email)
    except IdentityError:
        return None


def normalize_and_hash_email(email: str) -> str:
    """Return the base64 of the SHA-256 of an address, normalised. Raises IdentityError, a ValueError, if malformed."""
    return hash_identity(normalise_email(email))


def normalize_and_hash_phone(phone: str) -> str:
    """Return the base64 of the SHA-256 of a phone number. Raises IdentityError, a ValueError, if it is not in E.164."""
    return hash_identity(normalise_phone(phone))


def is_phone_number_normalized(phone_number: str | None) -> bool:
    """Whether a phone number is in E.164 format, `+` and 10 to 15 digits; False for None."""
    try:
        normalise_phone(phone_number or "")
    except IdentityError:
        return False
    return True


def get_base64_encoded_hash(input: str) -> str:  # noqa: A002 - the published name
    """Return the base64 of the SHA-256 of a text, which is not normalised."""
    return hash_identity(input)


def get_sha256_bytes(input: str) -> bytes:  # noqa: A002 - the published name
    """Return the SHA-256 of a text in UTF-8."""
    return sha256(input.encode()).digest()


def base64_to_byte_array(str: str | bytes) -> bytes:  # noqa: A002 - the published name
    """Decode standard base64. Raises ValueError if it is not."""
    return pybase64.b64decode(str, validate=True)


def byte_array_to_base64(b: bytes) -> str:
    """Encode in standard base64."""
    return pybase64.b64encode_as_string(b)


def get_datetime_utc_iso_format(timestamp: datetime) -> str:
    """Return a time as ISO 8601 in UTC without a zone, as operators read it. A naive one is local."""
    return timestamp.astimezone(UTC).replace(tzinfo=None).isoformat()


def is_ascii_digit(d: str) -> bool:
    """Whether a character is one of 0 to 9."""
    return "0" <= d <= "9"
