"""AES-GCM, AES-CBC with checked padding, and the envelope around every call to an operator.

Randomness and time are parameters: who seals chooses iv, nonce and `now_ms`. Sources: PROTOCOL sections 1 and 3 in
docs/protocol.md.
"""

from threading import Lock
from typing import NamedTuple

import pybase64
from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers import Cipher
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from cryptography.hazmat.primitives.ciphers.algorithms import AES
from cryptography.hazmat.primitives.ciphers.modes import CBC

from bidstream_svc.errors import EnvelopeError

__all__ = [
    "AES_KEY_LENGTHS",
    "CBC_BLOCK_LENGTH",
    "GCM_IV_LENGTH",
    "GCM_TAG_LENGTH",
    "NONCE_LENGTH",
    "CbcDecryptor",
    "Envelope",
    "cbc_encrypt",
    "open_gcm",
    "open_request",
    "open_response",
    "seal_gcm",
    "seal_request",
    "seal_response",
]

AES_KEY_LENGTHS = frozenset({16, 24, 32})
CBC_BLOCK_LENGTH = 16
GCM_IV_LENGTH = 12
GCM_TAG_LENGTH = 16
NONCE_LENGTH = 8

_REQUEST_VERSION = 1
_BODY_OFFSET = 8 + NONCE_LENGTH  # behind timestamp_ms and nonce
_PADDINGS = tuple(bytes([length]) * length for length in range(CBC_BLOCK_LENGTH + 1))


def seal_gcm(secret: bytes, iv: bytes, plaintext: bytes) -> bytes:
    """Encrypt to `iv | ciphertext | tag`; iv is 12 bytes and never used twice with one secret."""
    return iv + AESGCM(secret).encrypt(iv, plaintext, None)


def open_gcm(secret: bytes, sealed: bytes) -> bytes:
    """Decrypt `iv | ciphertext | tag`.

    Raises:
        EnvelopeError: it is too short, or the tag does not fit.
    """
    try:
        return AESGCM(secret).decrypt(sealed[:GCM_IV_LENGTH], sealed[GCM_IV_LENGTH:], None)
    except (InvalidTag, ValueError) as error:
        raise EnvelopeError("message does not open: another secret, truncated, or tampered with") from error


def cbc_encrypt(secret: bytes, iv: bytes, plaintext: bytes) -> bytes:
    """Encrypt with PKCS#7 padding; returns the ciphertext without the iv (16 bytes)."""
    padding = _PADDINGS[CBC_BLOCK_LENGTH - len(plaintext) % CBC_BLOCK_LENGTH]
    encryptor = Cipher(AES(secret), CBC(iv)).encryptor()
    return encryptor.update(plaintext + padding) + encryptor.finalize()


class CbcDecryptor:
    """AES-CBC with one cipher context for the lifetime of a key.

    Making a context costs more than decrypting a token. In CBC a block's plaintext depends only on its ciphertext and
    the block before, so one endless context serves every message: feed `iv | ciphertext`, drop the first block.
    """

    __slots__ = ("_lock", "_update")

    def __init__(self, secret: bytes) -> None:
        # The iv given here only touches the block that is dropped from the first message.
        self._update = Cipher(AES(secret), CBC(bytes(CBC_BLOCK_LENGTH))).decryptor().update
        # The context has a state between two blocks: one message at a time.
        self._lock = Lock()

    def decrypt(self, iv_and_ciphertext: bytes) -> bytes:
        """Decrypt `iv | ciphertext` and take the PKCS#7 padding off.

        Raises:
            ValueError: not whole blocks, no ciphertext, or a padding other than n bytes of value n, 1 <= n <= 16.
        """
        length = len(iv_and_ciphertext)
        if length % CBC_BLOCK_LENGTH or length < 2 * CBC_BLOCK_LENGTH:
            raise ValueError("not whole blocks")
        with self._lock:
            padded = self._update(iv_and_ciphertext)
        padding_length = padded[-1]
        if not 1 <= padding_length <= CBC_BLOCK_LENGTH or not padded.endswith(_PADDINGS[padding_length]):
            raise ValueError("bad padding")
        return padded[CBC_BLOCK_LENGTH:-padding_length]


class Envelope(NamedTuple):
    """What an envelope holds: when it was sealed (Unix ms), the 8-byte nonce, and the JSON body in UTF-8."""

    timestamp_ms: int
    nonce: bytes
    body: bytes

    def __repr__(self) -> str:
        """Without the body."""
        return f"Envelope(timestamp_ms={self.timestamp_ms}, {len(self.body)} bytes)"


def _pack(timestamp_ms: int, nonce: bytes, body: bytes) -> bytes:
    return timestamp_ms.to_bytes(8, "big", signed=True) + nonce + body


def _unpack(plaintext: bytes) -> Envelope:
    if len(plaintext) < _BODY_OFFSET:
        raise EnvelopeError("message opens, but is too short for timestamp and nonce")
    timestamp_ms = int.from_bytes(plaintext[:8], "big", signed=True)
    return Envelope(timestamp_ms, plaintext[8:_BODY_OFFSET], plaintext[_BODY_OFFSET:])


def _from_base64(text: bytes) -> bytes:
    try:
        return pybase64.b64decode(text.strip(), validate=True)
    except ValueError as error:
        raise EnvelopeError("message is not base64") from error


def seal_request(secret: bytes, iv: bytes, content: Envelope, *, binary: bool = False) -> bytes:
    """Seal a request: `0x01 | iv | ciphertext | tag`, as base64 unless `binary`."""
    sealed = bytes([_REQUEST_VERSION]) + seal_gcm(secret, iv, _pack(*content))
    return sealed if binary else pybase64.b64encode(sealed)


def open_request(secret: bytes, wire: bytes, *, binary: bool = False) -> Envelope:
    """Open what `seal_request` sealed; the operator's side.

    Raises:
        EnvelopeError: not base64, another version, or it does not open.
    """
    sealed = wire if binary else _from_base64(wire)
    if sealed[:1] != bytes([_REQUEST_VERSION]):
        raise EnvelopeError("request envelope is not of version 1")
    return _unpack(open_gcm(secret, sealed[1:]))


def seal_response(secret: bytes, iv: bytes, content: Envelope, *, binary: bool = False) -> bytes:
    """Seal a response: `iv | ciphertext | tag`, as base64 unless `binary`; the operator's side."""
    sealed = seal_gcm(secret, iv, _pack(*content))
    return sealed if binary else pybase64.b64encode(sealed)


def open_response(secret: bytes, wire: bytes, nonce: bytes, *, binary: bool = False) -> Envelope:
    """Open what `seal_response` sealed.

    Raises:
        EnvelopeError: not base64, it does not open, or its nonce is not that of the request.
    """
    envelope = _unpack(open_gcm(secret, wire if binary else _from_base64(wire)))
    if envelope.nonce != nonce:
        raise EnvelopeError("response carries another nonce than the request: replayed or mixed up")
    return envelope
