"""Refresh tokens: opaque, self-contained, 388 base64 characters.

The token is the base64 of iv 12 | AES-GCM under the operator's own key | tag 16. The plaintext is big endian, padded
with zeros::

    identity type u8 | site id u32 | established_ms i64 | expires_ms i64 | SHA-256 of the identity 32 | response key 32
"""

import os
from struct import Struct
from typing import NamedTuple

import pybase64

from bidstream_svc.core.crypto import GCM_IV_LENGTH, GCM_TAG_LENGTH, open_gcm, seal_gcm
from bidstream_svc.core.errors import EnvelopeError
from bidstream_svc.core.identity import Identity, IdentityKind, IdentityType

REFRESH_TOKEN_CHARACTERS = 388
RESPONSE_KEY_LENGTH = 32

_HASH_KINDS = {IdentityType.EMAIL: IdentityKind.EMAIL_HASH, IdentityType.PHONE: IdentityKind.PHONE_HASH}
_LAYOUT = Struct(">BIqq32s32s")
_PLAINTEXT_LENGTH = REFRESH_TOKEN_CHARACTERS * 3 // 4 - GCM_IV_LENGTH - GCM_TAG_LENGTH


class RefreshToken(NamedTuple):
    """The content of a refresh token: the user, its times in Unix ms, and the key that encrypts the response."""

    identity: Identity
    site_id: int
    established_ms: int
    expires_ms: int
    response_key: bytes

    def __repr__(self) -> str:
        """Omit the identity and the key."""
        return f"RefreshToken(site_id={self.site_id}, expires_ms={self.expires_ms})"


def seal_refresh_token(secret: bytes, token: RefreshToken) -> str:
    """Encrypt a refresh token to the text that a publisher stores."""
    identity, site_id, established_ms, expires_ms, response_key = token
    plaintext = _LAYOUT.pack(
        identity.identity_type, site_id, established_ms, expires_ms, pybase64.b64decode(identity.value), response_key
    ).ljust(_PLAINTEXT_LENGTH, b"\0")
    return pybase64.b64encode_as_string(seal_gcm(secret, os.urandom(GCM_IV_LENGTH), plaintext))


def open_refresh_token(secret: bytes, text: bytes) -> RefreshToken:
    """Decrypt the result of `seal_refresh_token`.

    Raises:
        EnvelopeError: not base64, or it cannot be decrypted.
    """
    try:
        sealed = pybase64.b64decode(text.strip(), validate=True)
    except ValueError:
        raise EnvelopeError("refresh token is not base64") from None
    identity_type, site_id, established_ms, expires_ms, digest, response_key = _LAYOUT.unpack_from(
        open_gcm(secret, sealed)
    )
    return RefreshToken(
        Identity(_HASH_KINDS[identity_type], pybase64.b64encode_as_string(digest)),
        site_id,
        established_ms,
        expires_ms,
        response_key,
    )
