"""Version 2: two layers of AES-CBC, in standard base64.

Nothing in v2 is authenticated: a changed token shows only where padding, lengths or UTF-8 no longer hold.
All integers are big endian::

    token         0x02 | master key id u32 | iv 16 | AES-CBC(master layer)
    master layer  expires_ms i64 | site key id u32 | iv 16 | AES-CBC(site layer)
    site layer    site id u32 | id length u32 | id | privacy bits u32 | established_ms i64
"""

from struct import Struct

import pybase64

from bidstream_svc.crypto import CBC_BLOCK_LENGTH, cbc_encrypt
from bidstream_svc.token.content import TokenContent, TokenKey

__all__ = [
    "MASTER_LAYER",
    "PREFIX",
    "SITE_IV_AND_CIPHERTEXT",
    "TOKEN",
    "TOKEN_IV_AND_CIPHERTEXT",
    "build_v2",
    "parse_site_layer",
]

PREFIX = 0x02
TOKEN = Struct(">BI")  # prefix, master key id
MASTER_LAYER = Struct(">qI")  # expires_ms, site key id
TOKEN_IV_AND_CIPHERTEXT = slice(TOKEN.size, None)
SITE_IV_AND_CIPHERTEXT = slice(MASTER_LAYER.size, None)
_SITE_HEAD = Struct(">II")  # site id, id length
_SITE_TAIL = Struct(">Iq")  # privacy bits, established_ms
_MIN_SITE_LAYER_LENGTH = _SITE_HEAD.size + _SITE_TAIL.size
_RAW_UID = slice(_SITE_HEAD.size, -_SITE_TAIL.size)


def parse_site_layer(plaintext: bytes) -> tuple[int, str, int, int]:
    """Take the inner layer apart: (site id, raw uid in base64 as the operator wrote it, privacy bits, established_ms).

    Raises:
        ValueError: too short, the id's length does not fit the whole, or the id is not UTF-8.
    """
    if len(plaintext) < _MIN_SITE_LAYER_LENGTH:
        raise ValueError("too short")
    site_id, id_length = _SITE_HEAD.unpack_from(plaintext)
    if len(plaintext) != _MIN_SITE_LAYER_LENGTH + id_length:
        raise ValueError("the id's length does not fit")
    privacy_bits, established_ms = _SITE_TAIL.unpack_from(plaintext, _SITE_HEAD.size + id_length)
    return site_id, plaintext[_RAW_UID].decode(), privacy_bits, established_ms


def build_v2(content: TokenContent, master: TokenKey, site: TokenKey) -> str:
    """Build a token; `content.raw_uid` goes in as the text it is."""
    raw_uid = content.raw_uid.encode()
    site_layer = (
        _SITE_HEAD.pack(content.site_id, len(raw_uid))
        + raw_uid
        + _SITE_TAIL.pack(content.privacy_bits, content.established_ms)
    )
    master_layer = MASTER_LAYER.pack(content.expires_ms, site.key_id) + _seal(site, site_layer)
    return pybase64.b64encode_as_string(TOKEN.pack(PREFIX, master.key_id) + _seal(master, master_layer))


def _seal(key: TokenKey, plaintext: bytes) -> bytes:
    if len(key.iv) != CBC_BLOCK_LENGTH:
        raise ValueError("a v2 layer takes an iv of 16 bytes")
    return key.iv + cbc_encrypt(key.secret, key.iv, plaintext)
