"""Version 3: two layers of AES-GCM, in standard base64. Version 4 differs in the version byte and uses base64url.

All integers are big endian::

    token         prefix u8 | version u8 | master key id u32 | iv 12 | AES-GCM(master layer), tag 16
    master layer  expires_ms i64 | generated_ms i64 | operator site id u32 | operator type u8 | operator version u32 |
                  operator key id u32 | site key id u32 | iv 12 | AES-GCM(site layer), tag 16
    site layer    site id u32 | publisher id u64 | client key id u32 | privacy bits u32 | established_ms i64 |
                  refreshed_ms i64 | raw uid, 32 or 33 bytes
    prefix        bits 0-1 are 3 | bits 2-3 identity type | bit 4 scope | bits 5-7 are 0

The prefix is not authenticated. Only its scope bit is checked, because not all generators set the other bits as above.
"""

from collections.abc import Callable, Mapping
from struct import Struct
from struct import error as StructError  # noqa: N812 - struct.error is a class
from typing import Any, TypeAlias

import pybase64
from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM

from bidstream_svc.core.crypto import GCM_IV_LENGTH, seal_gcm
from bidstream_svc.core.identity import IdentityScope, IdentityType
from bidstream_svc.core.status import FailureReason
from bidstream_svc.core.token.content import OpenedToken, TokenContent, TokenKey

# What `make_gcm_cipher` returns and `open_token` takes. Thread-safe.
GcmCipher: TypeAlias = Any

VERSION = 112
_TOKEN = Struct(">BBI")  # prefix, version, master key id
_MASTER_LAYER = Struct(">qqIBIII")
_SITE_LAYER = Struct(">IQIIqq")
# The same layouts for parsing: unused fields are padding.
_MASTER_LAYER_TO_READ = Struct(">qq13xI12s")  # expires_ms, generated_ms, site key id, iv of the site layer
_SITE_LAYER_TO_READ = Struct(">I12xIq8x")  # site id, privacy bits, established_ms

# Slices after the fixed fields.
_TOKEN_IV = slice(_TOKEN.size, _TOKEN.size + GCM_IV_LENGTH)
_TOKEN_CIPHERTEXT = slice(_TOKEN.size + GCM_IV_LENGTH, None)
_SITE_CIPHERTEXT = slice(_MASTER_LAYER_TO_READ.size, None)
_RAW_UID = slice(_SITE_LAYER_TO_READ.size, None)
_MIN_SITE_LAYER_LENGTH = _SITE_LAYER_TO_READ.size + 32

_IDENTITY_TYPE_SHIFT = 2
_UNREADABLE = (KeyError, InvalidTag, ValueError, StructError)
_SCOPE_SHIFT = 4
_SCOPE_BIT = 1 << _SCOPE_SHIFT
_PREFIX_CONSTANT = 3


def scope_bit(scope: IdentityScope) -> int:
    """Return the scope bit of the first byte of a token, in its place: 0x00 or 0x10."""
    return scope << _SCOPE_SHIFT


def scope_of(raw: bytes) -> IdentityScope:
    """Return the scope in the first byte of a token, which is not authenticated."""
    return IdentityScope(raw[0] >> _SCOPE_SHIFT & 1)


def make_gcm_cipher(secret: bytes) -> GcmCipher:
    """Make the cipher of a key of 16, 24 or 32 bytes."""
    return AESGCM(secret).decrypt


def open_token(
    raw: bytes,
    scope_bit: int,
    master_ciphers: Mapping[int, GcmCipher],
    site_ciphers: Mapping[int, GcmCipher],
    now_ms: int,
) -> OpenedToken | FailureReason:
    """Decrypt both layers of a v3 or v4 token: lines 5 to 10 of the verdict in docs/protocol.md.

    Args:
        raw: the token's bytes, at least one.
        scope_bit: the scope bit that the first byte must have, in its place.
        master_ciphers: ciphers for the master layer, by key id.
        site_ciphers: ciphers for the site layer, by key id.
        now_ms: Unix ms, a signed 64-bit integer; the site layer of a token that expired before is not decrypted.
    """
    if raw[0] & _SCOPE_BIT != scope_bit:  # 5
        return FailureReason.IDENTITY_SCOPE
    try:
        _, _, master_key_id = _TOKEN.unpack_from(raw)
        decrypt_master_layer = master_ciphers[master_key_id]
    except KeyError:  # 6
        return FailureReason.MASTER_KEY_UNKNOWN
    except StructError:
        return FailureReason.MASTER_LAYER
    try:
        master_layer = decrypt_master_layer(raw[_TOKEN_IV], raw[_TOKEN_CIPHERTEXT], None)
        expires_ms, generated_ms, site_key_id, site_iv = _MASTER_LAYER_TO_READ.unpack_from(master_layer)
    except (InvalidTag, ValueError, StructError):  # 7
        return FailureReason.MASTER_LAYER
    if expires_ms < now_ms:  # 8
        return FailureReason.EXPIRED
    try:
        site_layer = site_ciphers[site_key_id](site_iv, master_layer[_SITE_CIPHERTEXT], None)
    except KeyError:  # 9
        return FailureReason.SITE_KEY_UNKNOWN
    except (InvalidTag, ValueError):  # 10
        return FailureReason.SITE_LAYER
    if len(site_layer) < _MIN_SITE_LAYER_LENGTH:
        return FailureReason.SITE_LAYER
    site_id, privacy_bits, established_ms = _SITE_LAYER_TO_READ.unpack_from(site_layer)
    raw_uid = pybase64.b64encode_as_string(site_layer[_RAW_UID])
    return expires_ms, generated_ms, site_id, privacy_bits, established_ms, raw_uid


def read_fields(raw: bytes, secret_of: Callable[[int], bytes]) -> tuple[int, int, tuple[int, int] | None] | None:
    """Read fields of a token without judging it: (expires_ms, site key id, (site id, privacy bits)).

    Returns None if the master layer cannot be decrypted, and None in place of the last two if the site layer cannot.

    Args:
        raw: the token's bytes.
        secret_of: returns the key with an id, or raises KeyError.
    """
    try:
        _, _, master_key_id = _TOKEN.unpack_from(raw)
        master_layer = AESGCM(secret_of(master_key_id)).decrypt(raw[_TOKEN_IV], raw[_TOKEN_CIPHERTEXT], None)
        expires_ms, _, site_key_id, site_iv = _MASTER_LAYER_TO_READ.unpack_from(master_layer)
    except _UNREADABLE:
        return None
    try:
        site_layer = AESGCM(secret_of(site_key_id)).decrypt(site_iv, master_layer[_SITE_CIPHERTEXT], None)
        site_id, privacy_bits, _ = _SITE_LAYER_TO_READ.unpack_from(site_layer)
    except _UNREADABLE:
        return expires_ms, site_key_id, None
    return expires_ms, site_key_id, (site_id, privacy_bits)


def identity_type_of(raw: bytes) -> IdentityType:
    """Return the identity type in the first byte: anything but EMAIL counts as PHONE."""
    return IdentityType.PHONE if raw[0] >> _IDENTITY_TYPE_SHIFT & 0b11 else IdentityType.EMAIL


def build_token_bytes(version: int, content: TokenContent, master: TokenKey, site: TokenKey) -> bytes:
    """Build the bytes of a v3 or v4 token.

    Raises:
        ValueError: `content.raw_uid` is not base64, or an iv is not 12 bytes long.
    """
    if len(master.iv) != GCM_IV_LENGTH or len(site.iv) != GCM_IV_LENGTH:
        raise ValueError("iv of a v3 or v4 layer is not 12 bytes long")
    site_layer = _SITE_LAYER.pack(
        content.site_id,
        content.publisher_id,
        content.client_key_id,
        content.privacy_bits,
        content.established_ms,
        content.refreshed_ms,
    ) + pybase64.b64decode(content.raw_uid, validate=True)
    master_layer = _MASTER_LAYER.pack(
        content.expires_ms,
        content.generated_ms,
        content.operator_site_id,
        content.operator_type,
        content.operator_version,
        content.operator_key_id,
        site.key_id,
    ) + seal_gcm(site.secret, site.iv, site_layer)
    prefix = scope_bit(content.scope) | content.identity_type << _IDENTITY_TYPE_SHIFT | _PREFIX_CONSTANT
    return _TOKEN.pack(prefix, version, master.key_id) + seal_gcm(master.secret, master.iv, master_layer)


def build_v3(content: TokenContent, master: TokenKey, site: TokenKey) -> str:
    """Build a token in standard base64. Raises ValueError as `build_token_bytes` does."""
    return pybase64.b64encode_as_string(build_token_bytes(VERSION, content, master, site))
