"""The content of a token, independent of its version."""

from dataclasses import dataclass, field
from typing import NamedTuple, TypeAlias

from bidstream_svc.core.identity import IdentityScope, IdentityType

# Bits of `privacy_bits`, counted from the least significant. Bit 0 is always set by operators and has no meaning.
CLIENT_SIDE_GENERATED = 0x2
OPTED_OUT = 0x4  # the user had opted out when the token was generated

# (expires_ms, generated_ms or None in v2, site id, privacy bits, established_ms, raw uid): what decides, and the uid.
OpenedToken: TypeAlias = tuple[int, int | None, int, int, int, str]


@dataclass(frozen=True, slots=True, kw_only=True)
class TokenContent:
    """The fields of a token. v2 has only the raw uid, the site, `expires_ms`, `established_ms` and the privacy bits.

    Attributes:
        raw_uid: standard base64, padded; 32 or 33 bytes in v3 and v4.
        site_id: the publisher's site.
        expires_ms, generated_ms, established_ms, refreshed_ms: Unix ms; when the token expires, when it was generated,
            when the user's id was first established on the site, and when the user's token was last refreshed.
        privacy_bits: CLIENT_SIDE_GENERATED, OPTED_OUT.
    """

    raw_uid: str = field(repr=False)
    site_id: int
    expires_ms: int
    established_ms: int
    generated_ms: int = 0
    refreshed_ms: int = 0
    privacy_bits: int = 0
    scope: IdentityScope = IdentityScope.UID2
    identity_type: IdentityType = IdentityType.EMAIL
    publisher_id: int = 0
    client_key_id: int = 0
    operator_site_id: int = 0
    operator_type: int = 0
    operator_version: int = 0
    operator_key_id: int = 0


class TokenKey(NamedTuple):
    """A key, and the iv for its layer: 16 bytes in v2, 12 in v3 and v4. Never reuse an iv with the same key."""

    key_id: int
    secret: bytes
    iv: bytes

    def __repr__(self) -> str:
        """Omit the secret."""
        return f"TokenKey(key_id={self.key_id})"
