"""Refresh tokens: opaque, self-contained, 388 base64 characters.

The token is the base64 of scope u8 | key id u32 | iv 12 | AES-GCM under the operator's own key | tag 16. Integers are
big endian; scope is shifted to bit 4. The plaintext is padded with zeros::

    identity type u8 | site id u32 | privacy_bits u32 | established_ms i64 | expires_ms i64 |
    SHA-256 of the identity 32 | response key 32
"""

import os
from struct import Struct
from typing import NamedTuple

import pybase64

from bidstream_svc.core.crypto import GCM_IV_LENGTH, GCM_TAG_LENGTH, open_gcm, seal_gcm
from bidstream_svc.core.errors import EnvelopeError
from bidstream_svc.core.identity import Identity, IdentityKind, IdentityScope, IdentityType

REFRESH_TOKEN_CHARACTERS = 388
RESPONSE_KEY_LENGTH = 32

_HASH_KINDS = {IdentityType.EMAIL: IdentityKind.EMAIL_HASH, IdentityType.PHONE: IdentityKind.PHONE_HASH}
_KEY_ID = 2
_HEAD = Struct(">Bi")
_LAYOUT = Struct(">BIIqq32s32s")
_PLAINTEXT_LENGTH = REFRESH_TOKEN_CHARACTERS * 3 // 4 - _HEAD.size - GCM_IV_LENGTH - GCM_TAG_LENGTH


class RefreshToken(NamedTuple):
    """The content of a refresh token: the user, its times in Unix ms, and the key that encrypts the response."""

    identity: Identity
    site_id: int
    privacy_bits: int
    established_ms: int
    expires_ms: int
    response_key: bytes

    def __repr__(self) -> str:
        """Omit the identity and the key."""
        return f"RefreshToken(site_id={self.site_id}, expires_ms={self.expires_ms})"


def seal_refresh_token(secret: bytes, scope: IdentityScope, token: RefreshToken) -> str:
    """Encrypt a refresh token to the text that a publisher stores."""
    identity, *numbers, response_key = token
    plaintext = _LAYOUT.pack(identity.identity_type, *numbers, pybase64.b64decode(identity.value), response_key).ljust(
        _PLAINTEXT_LENGTH, b"\0"
    )
    sealed = _HEAD.pack(scope << 4, _KEY_ID) + seal_gcm(secret, os.urandom(GCM_IV_LENGTH), plaintext)
    return pybase64.b64encode_as_string(sealed)


def open_refresh_token(secret: bytes, text: bytes) -> RefreshToken:
    """Decrypt the result of `seal_refresh_token`.

    Raises:
        EnvelopeError: text of another length, not base64, or it cannot be decrypted. The message is an operator's.
    """
    if len(text) != REFRESH_TOKEN_CHARACTERS:
        raise EnvelopeError("Invalid Token presented")
    try:
        sealed = pybase64.b64decode(text, validate=True)
    except ValueError:
        raise EnvelopeError("Invalid body: Body is not valid base64.") from None
    _, key_id = _HEAD.unpack_from(sealed)
    if key_id != _KEY_ID:
        raise EnvelopeError(f"Invalid key: Generator of this token (Key ID: {key_id}) does not exist.")
    try:
        plaintext = open_gcm(secret, sealed[_HEAD.size :])
    except EnvelopeError:
        raise EnvelopeError("Invalid data: Check encryption method and encryption key.") from None
    identity_type, site_id, privacy_bits, established_ms, expires_ms, digest, response_key = _LAYOUT.unpack_from(
        plaintext
    )
    identity = Identity(_HASH_KINDS[identity_type], pybase64.b64encode_as_string(digest))
    return RefreshToken(identity, site_id, privacy_bits, established_ms, expires_ms, response_key)
