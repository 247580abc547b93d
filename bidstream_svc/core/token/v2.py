"""Version 2: two layers of AES-CBC, in standard base64.

Nothing is authenticated: a modified token is detected only by its padding, lengths or UTF-8.
All integers are big endian::

    token         0x02 | master key id u32 | iv 16 | AES-CBC(master layer)
    master layer  expires_ms i64 | site key id u32 | iv 16 | AES-CBC(site layer)
    site layer    site id u32 | id length u32 | id | privacy bits u32 | established_ms i64
"""

from collections.abc import Callable, Mapping
from struct import Struct
from struct import error as StructError  # noqa: N812 - struct.error is a class

import pybase64

from bidstream_svc.core.crypto import CBC_BLOCK_LENGTH, cbc_encrypt, make_cbc_decrypt
from bidstream_svc.core.status import FailureReason
from bidstream_svc.core.token.content import OpenedToken, TokenContent, TokenKey

PREFIX = 0x02
_TOKEN = Struct(">BI")  # prefix, master key id
_MASTER_LAYER = Struct(">qI")  # expires_ms, site key id
_TOKEN_IV_AND_CIPHERTEXT = slice(_TOKEN.size, None)
_SITE_IV_AND_CIPHERTEXT = slice(_MASTER_LAYER.size, None)
_MAX_CACHED_ID_LENGTH = 256


def _site_layer(id_length: int) -> Struct:
    """Site id, id length, id, privacy bits, established_ms."""
    return Struct(f">II{id_length}sIq")


_MIN_SITE_LAYER_LENGTH = _site_layer(0).size


def open_token(raw: bytes, ciphers: Mapping[int, Callable[[bytes], bytes]], now_ms: int) -> OpenedToken | FailureReason:
    """Decrypt both layers of a token: lines 6 to 10 of the verdict in docs/protocol.md.

    Args:
        raw: the token's bytes.
        ciphers: functions that decrypt `iv | ciphertext`, by key id.
        now_ms: Unix ms; the site layer of a token that expired before is not decrypted.
    """
    try:
        _, master_key_id = _TOKEN.unpack_from(raw)
        decrypt_master_layer = ciphers[master_key_id]
    except KeyError:  # 6
        return FailureReason.MASTER_KEY_UNKNOWN
    except StructError:
        return FailureReason.MASTER_LAYER
    try:
        master_layer = decrypt_master_layer(raw[_TOKEN_IV_AND_CIPHERTEXT])
        expires_ms, site_key_id = _MASTER_LAYER.unpack_from(master_layer)
    except (ValueError, StructError):  # 7
        return FailureReason.MASTER_LAYER
    if expires_ms < now_ms:  # 8
        return FailureReason.EXPIRED
    try:
        site_layer = ciphers[site_key_id](master_layer[_SITE_IV_AND_CIPHERTEXT])
        site_id, raw_uid, privacy_bits, established_ms = parse_site_layer(site_layer)
    except KeyError:  # 9
        return FailureReason.SITE_KEY_UNKNOWN
    except ValueError:  # 10, UnicodeDecodeError among them
        return FailureReason.SITE_LAYER
    return expires_ms, None, site_id, privacy_bits, established_ms, raw_uid


def has_whole_master_layer(raw: bytes, secret: bytes) -> bool:
    """Whether the master layer opens with this key, and the site layer in it has whole blocks. Judges nothing else."""
    try:
        master_layer = make_cbc_decrypt(secret)(raw[_TOKEN_IV_AND_CIPHERTEXT])
    except ValueError:
        return False
    blocks, rest = divmod(len(master_layer) - _MASTER_LAYER.size, CBC_BLOCK_LENGTH)
    return blocks > 1 and rest == 0  # the iv and at least one


def read_fields(raw: bytes, secret_of: Callable[[int], bytes]) -> tuple[int, int, tuple[int, int] | None] | None:
    """Read fields of a token without judging it; see `v3.read_fields`."""
    try:
        _, master_key_id = _TOKEN.unpack_from(raw)
        master_layer = make_cbc_decrypt(secret_of(master_key_id))(raw[_TOKEN_IV_AND_CIPHERTEXT])
        expires_ms, site_key_id = _MASTER_LAYER.unpack_from(master_layer)
    except (KeyError, ValueError, StructError):
        return None
    try:
        site_layer = make_cbc_decrypt(secret_of(site_key_id))(master_layer[_SITE_IV_AND_CIPHERTEXT])
        site_id, _, privacy_bits, _ = parse_site_layer(site_layer)
    except (KeyError, ValueError):
        return expires_ms, site_key_id, None
    return expires_ms, site_key_id, (site_id, privacy_bits)


def parse_site_layer(plaintext: bytes) -> tuple[int, str, int, int]:
    """Parse the decrypted site layer: (site id, raw uid in base64, privacy bits, established_ms).

    Raises:
        ValueError: too short, the id length does not match, or the id is not UTF-8.
    """
    unpack = _unpack_site_layer[len(plaintext)]
    site_id, id_length, raw_uid, privacy_bits, established_ms = unpack(plaintext)
    if id_length != len(raw_uid):
        raise ValueError("id length does not match")
    return site_id, raw_uid.decode(), privacy_bits, established_ms


class _SiteLayouts(dict[int, Callable[[bytes], tuple[int, int, bytes, int, int]]]):
    """Cache of `unpack` functions by length of the site layer. A length that is too short raises ValueError."""

    def __missing__(self, length: int) -> Callable[[bytes], tuple[int, int, bytes, int, int]]:
        id_length = length - _MIN_SITE_LAYER_LENGTH
        if id_length < 0:
            raise ValueError("too short")
        unpack = _site_layer(id_length).unpack
        if id_length <= _MAX_CACHED_ID_LENGTH:  # real ids are shorter; bounds the cache
            self[length] = unpack
        return unpack


_unpack_site_layer = _SiteLayouts()


def build_v2(content: TokenContent, master: TokenKey, site: TokenKey) -> str:
    """Build a token. `content.raw_uid` is written as text.

    Raises:
        ValueError: an iv is not 16 bytes long.
    """
    raw_uid = content.raw_uid.encode()
    site_layer = _site_layer(len(raw_uid)).pack(
        content.site_id, len(raw_uid), raw_uid, content.privacy_bits, content.established_ms
    )
    master_layer = _MASTER_LAYER.pack(content.expires_ms, site.key_id) + _seal(site, site_layer)
    return pybase64.b64encode_as_string(_TOKEN.pack(PREFIX, master.key_id) + _seal(master, master_layer))


def _seal(key: TokenKey, plaintext: bytes) -> bytes:
    if len(key.iv) != CBC_BLOCK_LENGTH:
        raise ValueError("iv of a v2 layer is not 16 bytes long")
    return key.iv + cbc_encrypt(key.secret, key.iv, plaintext)
