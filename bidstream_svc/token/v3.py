"""Version 3: two layers of AES-GCM, in standard base64. Version 4 is the same bytes but one, in base64url.

All integers are big endian::

    token         prefix u8 | version u8 | master key id u32 | iv 12 | AES-GCM(master layer), tag 16
    master layer  expires_ms i64 | generated_ms i64 | operator site id u32 | operator type u8 | operator version u32 |
                  operator key id u32 | site key id u32 | iv 12 | AES-GCM(site layer), tag 16
    site layer    site id u32 | publisher id u64 | client key id u32 | privacy bits u32 | established_ms i64 |
                  refreshed_ms i64 | raw uid, 32 or 33 bytes
    prefix        bits 0-1 are 3 | bits 2-3 identity type | bit 4 scope | bits 5-7 are 0

The prefix is not authenticated. Scope and the constant bits are checked; the identity type is only a hint.
"""

from struct import Struct

import pybase64

from bidstream_svc.crypto import GCM_IV_LENGTH, seal_gcm
from bidstream_svc.identity import IdentityScope
from bidstream_svc.token.content import TokenContent, TokenKey

__all__ = [
    "IDENTITY_TYPE_BITS",
    "MASTER_LAYER_TO_READ",
    "MIN_SITE_LAYER_LENGTH",
    "RAW_UID",
    "SITE_CIPHERTEXT",
    "SITE_LAYER_TO_READ",
    "TOKEN",
    "TOKEN_CIPHERTEXT",
    "TOKEN_IV",
    "VERSION",
    "build_token_bytes",
    "build_v3",
    "prefix_of_scope",
]

VERSION = 112
TOKEN = Struct(">BBI")  # prefix, version, master key id
_MASTER_LAYER = Struct(">qqIBIII")
_SITE_LAYER = Struct(">IQIIqq")
# The same layouts for reading: padding stands for the fields that decide nothing.
MASTER_LAYER_TO_READ = Struct(">qq13xI12s")  # expires_ms, generated_ms, site key id, iv of the site layer
SITE_LAYER_TO_READ = Struct(">I12xIq8x")  # site id, privacy bits, established_ms

# Slices of what lies behind the fixed fields.
TOKEN_IV = slice(TOKEN.size, TOKEN.size + GCM_IV_LENGTH)
TOKEN_CIPHERTEXT = slice(TOKEN.size + GCM_IV_LENGTH, None)
SITE_CIPHERTEXT = slice(MASTER_LAYER_TO_READ.size, None)
RAW_UID = slice(SITE_LAYER_TO_READ.size, None)
MIN_SITE_LAYER_LENGTH = SITE_LAYER_TO_READ.size + 32

IDENTITY_TYPE_BITS = 0b1100
_IDENTITY_TYPE_SHIFT = 2
_SCOPE_SHIFT = 4
_PREFIX_CONSTANT = 3


def prefix_of_scope(scope: IdentityScope) -> int:
    """The first byte of a token of this scope, with the identity type bits at zero."""
    return scope << _SCOPE_SHIFT | _PREFIX_CONSTANT


def build_token_bytes(version: int, content: TokenContent, master: TokenKey, site: TokenKey) -> bytes:
    """Build the bytes of a v3 or v4 token.

    Raises:
        ValueError: `content.raw_uid` is not base64, or an iv is not 12 bytes.
    """
    if len(master.iv) != GCM_IV_LENGTH or len(site.iv) != GCM_IV_LENGTH:
        raise ValueError("a v3 or v4 layer takes an iv of 12 bytes")
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
    prefix = prefix_of_scope(content.scope) | content.identity_type << _IDENTITY_TYPE_SHIFT
    return TOKEN.pack(prefix, version, master.key_id) + seal_gcm(master.secret, master.iv, master_layer)


def build_v3(content: TokenContent, master: TokenKey, site: TokenKey) -> str:
    """Build a token in standard base64."""
    return pybase64.b64encode_as_string(build_token_bytes(VERSION, content, master, site))
