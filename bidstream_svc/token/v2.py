"""Version 2: two layers of AES-CBC, in standard base64.

Nothing in v2 is authenticated: a changed token shows only where padding, lengths or UTF-8 no longer hold.
All integers are big endian::

    token         0x02 | master key id u32 | iv 16 | AES-CBC(master layer)
    master layer  expires_ms i64 | site key id u32 | iv 16 | AES-CBC(site layer)
    site layer    site id u32 | id length u32 | id | privacy bits u32 | established_ms i64
"""

from collections.abc import Callable
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
_LONGEST_ID_TO_EXPECT = 256


def _site_layer(id_length: int) -> Struct:
    """Site id, id length, id, privacy bits, established_ms."""
    return Struct(f">II{id_length}sIq")


_MIN_SITE_LAYER_LENGTH = _site_layer(0).size


def parse_site_layer(plaintext: bytes) -> tuple[int, str, int, int]:
    """Take the inner layer apart: (site id, raw uid in base64 as the operator wrote it, privacy bits, established_ms).

    Raises:
        ValueError: too short, the id's length does not fit the whole, or the id is not UTF-8.
    """
    unpack = _unpack_site_layer[len(plaintext)]
    site_id, id_length, raw_uid, privacy_bits, established_ms = unpack(plaintext)
    if id_length != len(raw_uid):
        raise ValueError("the id's length does not fit")
    return site_id, raw_uid.decode(), privacy_bits, established_ms


class _SiteLayouts(dict[int, Callable[[bytes], tuple[int, int, bytes, int, int]]]):
    """Length of a site layer -> `unpack` for it, made on first use; ValueError where nothing fits."""

    def __missing__(self, length: int) -> Callable[[bytes], tuple[int, int, bytes, int, int]]:
        id_length = length - _MIN_SITE_LAYER_LENGTH
        if id_length < 0:
            raise ValueError("too short")
        unpack = _site_layer(id_length).unpack
        if id_length <= _LONGEST_ID_TO_EXPECT:  # what is longer is nobody's, and would only fill the memory
            self[length] = unpack
        return unpack


_unpack_site_layer = _SiteLayouts()


def build_v2(content: TokenContent, master: TokenKey, site: TokenKey) -> str:
    """Build a token; `content.raw_uid` goes in as the text it is."""
    raw_uid = content.raw_uid.encode()
    site_layer = _site_layer(len(raw_uid)).pack(
        content.site_id, len(raw_uid), raw_uid, content.privacy_bits, content.established_ms
    )
    master_layer = MASTER_LAYER.pack(content.expires_ms, site.key_id) + _seal(site, site_layer)
    return pybase64.b64encode_as_string(TOKEN.pack(PREFIX, master.key_id) + _seal(master, master_layer))


def _seal(key: TokenKey, plaintext: bytes) -> bytes:
    if len(key.iv) != CBC_BLOCK_LENGTH:
        raise ValueError("a v2 layer takes an iv of 16 bytes")
    return key.iv + cbc_encrypt(key.secret, key.iv, plaintext)
