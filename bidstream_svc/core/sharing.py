"""Encryption of raw uids into sharing tokens: (raw uid, snapshot, now_ms, two ivs) -> (status, token).

Sharing tokens are decrypted by `decrypt` with a snapshot made for `KeyPurpose.SHARING`. The outcome is a value, so that
a list does not stop at one bad raw uid.
"""

from enum import StrEnum
from struct import error as StructError  # noqa: N812 - struct.error is a class
from typing import NamedTuple

import pybase64

from bidstream_svc.core.identity import IdentityType
from bidstream_svc.core.keys import Key, KeySnapshot
from bidstream_svc.core.token import TokenContent, TokenKey, build_v4
from bidstream_svc.core.units import MS_PER_S

DEFAULT_TOKEN_LIFETIME_S = 30 * 24 * 3600
_RAW_UID_LENGTHS = frozenset({32, 33})
_PREFIXED_RAW_UID_LENGTH = 33  # the first byte of these contains the identity type
_PHONE_BIT = 0b100
_PUBLIC_OPERATOR = 1


class EncryptionStatus(StrEnum):
    """Outcome of an encryption, named as in the published SDKs."""

    SUCCESS = "SUCCESS"
    NOT_INITIALIZED = "NOT_INITIALIZED"
    KEYS_NOT_SYNCED = "KEYS_NOT_SYNCED"
    NOT_AUTHORIZED_FOR_KEY = "NOT_AUTHORIZED_FOR_KEY"
    NOT_AUTHORIZED_FOR_MASTER_KEY = "NOT_AUTHORIZED_FOR_MASTER_KEY"
    ENCRYPTION_FAILURE = "ENCRYPTION_FAILURE"


class Encryption(NamedTuple):
    """Status and, on SUCCESS, the token."""

    status: EncryptionStatus
    token: str | None = None

    def __repr__(self) -> str:
        """Omit the token."""
        return f"Encryption({self.status})"


def encrypt_raw_uid(
    raw_uid: str,
    keys: KeySnapshot | None,
    now_ms: int,
    *,
    master_iv: bytes,
    site_iv: bytes,
    keyset_id: int | None = None,
) -> Encryption:
    """Encrypt a raw uid into a v4 token for the participants that may use a key set.

    Args:
        raw_uid: standard base64 of 32 or 33 bytes; anything else is ENCRYPTION_FAILURE.
        keys: the answer of /v2/key/sharing, or None before the first.
        now_ms: Unix ms; the token's time of generation and of establishment.
        master_iv: 12 random bytes for the outer layer; never reuse them.
        site_iv: 12 random bytes for the inner layer; never reuse them.
        keyset_id: the key set to encrypt for; None for the caller's default.
    """
    if keys is None:
        return Encryption(EncryptionStatus.NOT_INITIALIZED)
    if keys.last_expiry_ms <= now_ms:
        return Encryption(EncryptionStatus.KEYS_NOT_SYNCED)
    master = _find_active_key(keys, keys.master_keyset_id, now_ms)
    if master is None:
        return Encryption(EncryptionStatus.NOT_AUTHORIZED_FOR_MASTER_KEY)
    key = _find_active_key(keys, keys.default_keyset_id if keyset_id is None else keyset_id, now_ms)
    if key is None:
        return Encryption(EncryptionStatus.NOT_AUTHORIZED_FOR_KEY)
    identity_type = _identity_type(raw_uid)
    if identity_type is None or keys.caller_site_id is None:
        return Encryption(EncryptionStatus.ENCRYPTION_FAILURE)
    lifetime_s = DEFAULT_TOKEN_LIFETIME_S if keys.token_expiry_s is None else keys.token_expiry_s
    content = TokenContent(
        raw_uid=raw_uid,
        site_id=keys.caller_site_id,
        expires_ms=now_ms + lifetime_s * MS_PER_S,
        generated_ms=now_ms,
        established_ms=now_ms,
        refreshed_ms=now_ms,
        scope=keys.scope,
        identity_type=identity_type,
        operator_type=_PUBLIC_OPERATOR,
    )
    try:
        token = build_v4(
            content, TokenKey(master.key_id, master.secret, master_iv), TokenKey(key.key_id, key.secret, site_iv)
        )
    except StructError:  # an id or a time in the key response that a token has no room for
        return Encryption(EncryptionStatus.ENCRYPTION_FAILURE)
    return Encryption(EncryptionStatus.SUCCESS, token)


def _find_active_key(keys: KeySnapshot, keyset_id: int | None, now_ms: int) -> Key | None:
    """Return the most recently activated key of a key set among those active now, or None; of several, the last."""
    now_s = now_ms / MS_PER_S
    active = [
        key
        for key in keys.keys.values()
        if keyset_id is not None and key.keyset_id == keyset_id and (key.activates_s or 0) <= now_s < key.expires_s
    ]
    return max(reversed(active), key=lambda key: key.activates_s or 0, default=None)


def _identity_type(raw_uid: str) -> IdentityType | None:
    """Return the identity type of a raw uid, EMAIL if it has no prefix byte; None if it is not a raw uid."""
    try:
        raw = pybase64.b64decode(raw_uid, validate=True)
    except (ValueError, TypeError):
        return None
    if len(raw) not in _RAW_UID_LENGTHS:
        return None
    is_phone = len(raw) == _PREFIXED_RAW_UID_LENGTH and raw[0] & _PHONE_BIT
    return IdentityType.PHONE if is_phone else IdentityType.EMAIL
