"""Builds tokens by hand from arbitrary bytes, which the real builders refuse."""

from base64 import b64encode, urlsafe_b64encode

from cryptography.hazmat.primitives.ciphers import Cipher
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from cryptography.hazmat.primitives.ciphers.algorithms import AES
from cryptography.hazmat.primitives.ciphers.modes import CBC


def u32(number: int) -> bytes:
    return number.to_bytes(4, "big")


def pkcs7(plaintext: bytes) -> bytes:
    length = 16 - len(plaintext) % 16
    return plaintext + bytes([length]) * length


def cbc_blocks(secret: bytes, iv: bytes, padded: bytes) -> bytes:
    """AES-CBC of whole blocks: the padding is the caller's, right or wrong."""
    encryptor = Cipher(AES(secret), CBC(iv)).encryptor()
    return encryptor.update(padded) + encryptor.finalize()


def v2_layer(key_id: int, secret: bytes, iv: bytes, padded: bytes) -> bytes:
    return u32(key_id) + iv + cbc_blocks(secret, iv, padded)


def gcm_layer(key_id: int, secret: bytes, iv: bytes, plaintext: bytes) -> bytes:
    return u32(key_id) + iv + AESGCM(secret).encrypt(iv, plaintext, None)


def standard(raw: bytes) -> str:
    return b64encode(raw).decode()


def url_safe(raw: bytes) -> str:
    return urlsafe_b64encode(raw).decode().rstrip("=")


def spellings(raw: bytes) -> dict[str, str]:
    """The four base64 spellings of some bytes."""
    padded, url_padded = b64encode(raw).decode(), urlsafe_b64encode(raw).decode()
    return {
        "standard": padded,
        "standard, unpadded": padded.rstrip("="),
        "base64url, padded": url_padded,
        "base64url": url_padded.rstrip("="),
    }
