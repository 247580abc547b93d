"""AES-GCM, AES-CBC with checked padding, and the envelope around every call to an operator.

Randomness and time are parameters: who seals chooses iv, nonce and `now_ms`. Sources: PROTOCOL sections 1 and 3 in
docs/protocol.md.
"""

from collections.abc import Callable
from typing import NamedTuple

import pybase64
from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers import Cipher
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from cryptography.hazmat.primitives.ciphers.algorithms import AES
from cryptography.hazmat.primitives.ciphers.modes import CBC

from bidstream_svc.core.errors import EnvelopeError

AES_KEY_LENGTHS = frozenset({16, 24, 32})
CBC_BLOCK_LENGTH = 16
GCM_IV_LENGTH = 12
GCM_TAG_LENGTH = 16
NONCE_LENGTH = 8

_REQUEST_VERSION = 1
_BODY_OFFSET = 8 + NONCE_LENGTH  # behind timestamp_ms and nonce
_MIN_CBC_LENGTH = 2 * CBC_BLOCK_LENGTH
_PADDING_OF_LAST_BYTE = {length: bytes([length]) * length for length in range(1, CBC_BLOCK_LENGTH + 1)}


def seal_gcm(secret: bytes, iv: bytes, plaintext: bytes) -> bytes:
    """Encrypt to `iv | ciphertext | tag`; iv is 12 bytes and never used twice with one secret."""
    return iv + AESGCM(secret).encrypt(iv, plaintext, None)


def open_gcm(secret: bytes, sealed: bytes) -> bytes:
    """Decrypt `iv | ciphertext | tag`.

    Raises:
        EnvelopeError: it is too short, or the tag does not fit.
    """
    view = memoryview(sealed)  # megabytes at times: not copied to be cut
    try:
        return AESGCM(secret).decrypt(view[:GCM_IV_LENGTH], view[GCM_IV_LENGTH:], None)
    except (InvalidTag, ValueError) as error:
        raise EnvelopeError("message does not open: another secret, truncated, or tampered with") from error


def cbc_encrypt(secret: bytes, iv: bytes, plaintext: bytes) -> bytes:
    """Encrypt with PKCS#7 padding; returns the ciphertext without the iv (16 bytes)."""
    padding = _PADDING_OF_LAST_BYTE[CBC_BLOCK_LENGTH - len(plaintext) % CBC_BLOCK_LENGTH]
    encryptor = Cipher(AES(secret), CBC(iv)).encryptor()
    return encryptor.update(plaintext + padding) + encryptor.finalize()


def make_cbc_decrypt(secret: bytes) -> Callable[[bytes], bytes]:
    """A function that decrypts `iv | ciphertext` and takes the PKCS#7 padding off; for one thread at a time.

    Making a cipher context costs more than decrypting a token. In CBC a block's plaintext depends only on its
    ciphertext and the block before, so one endless context serves every message: feed it `iv | ciphertext`, drop the
    first block.

    The function raises ValueError: not whole blocks, no ciphertext, or a padding other than n bytes of value n,
    1 <= n <= 16.
    """
    # The iv given here only touches the block that is dropped from the first message.
    update = Cipher(AES(secret), CBC(bytes(CBC_BLOCK_LENGTH))).decryptor().update

    def decrypt(iv_and_ciphertext: bytes) -> bytes:
        length = len(iv_and_ciphertext)
        # Checked before: what is not a whole block would stay in the context and spoil the next message.
        if length % CBC_BLOCK_LENGTH or length < _MIN_CBC_LENGTH:
            raise ValueError("not whole blocks")
        padded = update(iv_and_ciphertext)
        try:
            padding = _PADDING_OF_LAST_BYTE[padded[-1]]
        except KeyError:
            raise ValueError("bad padding") from None
        if not padded.endswith(padding):
            raise ValueError("bad padding")
        return padded[CBC_BLOCK_LENGTH : -len(padding)]

    return decrypt


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


def decode_base64(text: bytes) -> bytes:
    """Decode the standard base64 of a sealed message; blanks around it are allowed.

    Raises:
        EnvelopeError: it is none.
    """
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
    sealed = wire if binary else decode_base64(wire)
    if sealed[:1] != bytes([_REQUEST_VERSION]):
        raise EnvelopeError("request envelope is not of version 1")
    return _unpack(open_gcm(secret, sealed[1:]))


def seal_response(secret: bytes, iv: bytes, content: Envelope, *, binary: bool = False) -> bytes:
    """Seal a response: `iv | ciphertext | tag`, as base64 unless `binary`; the operator's side."""
    sealed = seal_gcm(secret, iv, _pack(*content))
    return sealed if binary else pybase64.b64encode(sealed)


def open_response(secret: bytes, wire: bytes, nonce: bytes | None, *, binary: bool = False) -> Envelope:
    """Open what `seal_response` sealed.

    Without a nonce, where that of the request is gone, an answer proves who sealed it, not when.

    Raises:
        EnvelopeError: not base64, it does not open, or its nonce is not that of the request.
    """
    envelope = _unpack(open_gcm(secret, wire if binary else decode_base64(wire)))
    if nonce is not None and envelope.nonce != nonce:
        raise EnvelopeError("response carries another nonce than the request: replayed or mixed up")
    return envelope
