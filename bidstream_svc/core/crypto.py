"""AES-GCM, AES-CBC with checked padding, and the envelopes of requests and responses.

Randomness and time are parameters: the caller provides iv, nonce and `now_ms`.

Source: docs/protocol.md, sections 1 and 3.
"""

from collections.abc import Callable, Iterable, Iterator
from io import BytesIO
from typing import NamedTuple

import pybase64
from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers import Cipher
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from cryptography.hazmat.primitives.ciphers.algorithms import AES
from cryptography.hazmat.primitives.ciphers.modes import CBC, GCM

from bidstream_svc.core.errors import EnvelopeError
from bidstream_svc.core.lenient import decode_base64

AES_KEY_LENGTHS = frozenset({16, 24, 32})
CBC_BLOCK_LENGTH = 16
GCM_IV_LENGTH = 12
GCM_TAG_LENGTH = 16
NONCE_LENGTH = 8

_PART_BYTES = 64 * 1024
SEALED_PART_BYTES = 96 * 1024  # a multiple of three
_REQUEST_VERSION = 1
_BODY_OFFSET = 8 + NONCE_LENGTH  # after timestamp_ms and nonce
_MIN_CBC_LENGTH = 2 * CBC_BLOCK_LENGTH
_PADDING_OF_LAST_BYTE = {length: bytes([length]) * length for length in range(1, CBC_BLOCK_LENGTH + 1)}


def seal_gcm(secret: bytes, iv: bytes, plaintext: bytes) -> bytes:
    """Encrypt to `iv | ciphertext | tag`. The iv is 12 bytes; never reuse it with the same secret."""
    return iv + AESGCM(secret).encrypt(iv, plaintext, None)


def open_gcm(secret: bytes, sealed: bytes) -> bytes:
    """Decrypt `iv | ciphertext | tag`.

    Raises:
        EnvelopeError: too short, or the tag does not match.
    """
    view = memoryview(sealed)  # up to megabytes: slices must not copy
    try:
        if len(sealed) > _PART_BYTES and len(secret) in AES_KEY_LENGTHS:
            return _open_gcm_in_parts(secret, view)
        return AESGCM(secret).decrypt(view[:GCM_IV_LENGTH], view[GCM_IV_LENGTH:], None)
    except (InvalidTag, ValueError) as error:
        raise EnvelopeError("message cannot be decrypted: wrong secret, truncated, or tampered with") from error


def _open_gcm_in_parts(secret: bytes, sealed: memoryview) -> bytes:
    ciphertext, tag = sealed[GCM_IV_LENGTH:-GCM_TAG_LENGTH], sealed[-GCM_TAG_LENGTH:]
    decryptor = Cipher(AES(secret), GCM(bytes(sealed[:GCM_IV_LENGTH]), bytes(tag))).decryptor()
    plaintext = _join(map(decryptor.update, _split(ciphertext)))
    decryptor.finalize()  # checks the tag
    return plaintext


def _split(view: memoryview) -> Iterator[memoryview]:
    return (view[start : start + _PART_BYTES] for start in range(0, len(view), _PART_BYTES))


def _join(parts: Iterable[bytes | memoryview]) -> bytes:
    """Join parts that are made one by one.

    A single call that makes megabytes would hold the GIL for milliseconds, because it fills memory that is not mapped
    yet.
    """
    joined = BytesIO()
    for part in parts:
        joined.write(part)
    return joined.getvalue()  # not a copy


def cbc_encrypt(secret: bytes, iv: bytes, plaintext: bytes) -> bytes:
    """Encrypt with PKCS#7 padding. The iv is 16 bytes; the result does not include it."""
    padding = _PADDING_OF_LAST_BYTE[CBC_BLOCK_LENGTH - len(plaintext) % CBC_BLOCK_LENGTH]
    encryptor = Cipher(AES(secret), CBC(iv)).encryptor()
    return encryptor.update(plaintext + padding) + encryptor.finalize()


def make_cbc_decrypt(secret: bytes) -> Callable[[bytes], bytes]:
    """Make a function that decrypts `iv | ciphertext` and removes the PKCS#7 padding. It is not thread-safe.

    Making a cipher context costs more than decrypting a token. In CBC a block's plaintext depends only on its
    ciphertext and the previous block, so one context serves all messages: it decrypts `iv | ciphertext`, and the first
    block is dropped.

    The function raises ValueError if its input is not whole blocks or has no ciphertext, or if the padding is not n
    bytes of value n with 1 <= n <= 16.
    """
    # This iv affects only the block that is dropped.
    update = Cipher(AES(secret), CBC(bytes(CBC_BLOCK_LENGTH))).decryptor().update

    def decrypt(iv_and_ciphertext: bytes) -> bytes:
        length = len(iv_and_ciphertext)
        # Checked first: a partial block would stay in the context and corrupt the next message.
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
    """Content of an envelope: time of encryption in Unix ms, 8-byte nonce, JSON body in UTF-8."""

    timestamp_ms: int
    nonce: bytes
    body: bytes

    def __repr__(self) -> str:
        """Omit the body."""
        return f"Envelope(timestamp_ms={self.timestamp_ms}, {len(self.body)} bytes)"


def _pack(timestamp_ms: int, nonce: bytes, body: bytes) -> bytes:
    return timestamp_ms.to_bytes(8, "big", signed=True) + nonce + body


def _unpack(plaintext: bytes) -> Envelope:
    if len(plaintext) < _BODY_OFFSET:
        raise EnvelopeError("decrypted message is too short for timestamp and nonce")
    timestamp_ms = int.from_bytes(plaintext[:8], "big", signed=True)
    body = _join(_split(memoryview(plaintext)[_BODY_OFFSET:]))
    return Envelope(timestamp_ms, plaintext[8:_BODY_OFFSET], body)


def decode_message(text: bytes) -> bytes:
    """Decode a message in standard base64; whitespace is ignored.

    Raises:
        EnvelopeError: not base64.
    """
    try:
        decoded = _decode_in_parts(text) if len(text) > _PART_BYTES else None
        return decode_base64(text) if decoded is None else decoded
    except ValueError as error:
        raise EnvelopeError("message is not base64") from error


def _decode_in_parts(text: bytes) -> bytes | None:
    """Decode base64 without whitespace; None if there is some, or an error."""
    if 0 <= text.find(b"=") < len(text) - 2:  # padding in the middle, which may be the end of a part
        return None
    try:
        return _join(pybase64.b64decode(part, validate=True) for part in _split(memoryview(text)))
    except ValueError:
        return None


def seal_request(secret: bytes, iv: bytes, content: Envelope, *, binary: bool = False) -> bytes:
    """Encrypt a request to `0x01 | iv | ciphertext | tag`, in base64 unless `binary`."""
    sealed = bytes([_REQUEST_VERSION]) + seal_gcm(secret, iv, _pack(*content))
    return sealed if binary else pybase64.b64encode(sealed)


def open_request(secret: bytes, wire: bytes, *, binary: bool = False) -> Envelope:
    """Decrypt the result of `seal_request`, as an operator does.

    Raises:
        EnvelopeError: not base64, an unknown version, or it cannot be decrypted.
    """
    sealed = wire if binary else decode_message(wire)
    if sealed[:1] != bytes([_REQUEST_VERSION]):
        raise EnvelopeError("request envelope does not have version 1")
    return _unpack(open_gcm(secret, sealed[1:]))


def seal_response(secret: bytes, iv: bytes, content: Envelope, *, binary: bool = False) -> bytes:
    """Encrypt a response to `iv | ciphertext | tag`, in base64 unless `binary`, as an operator does."""
    sealed = seal_gcm(secret, iv, _pack(*content))
    return sealed if binary else pybase64.b64encode(sealed)


def seal_response_in_parts(
    secret: bytes, iv: bytes, content: Envelope, *, binary: bool = False
) -> tuple[int, Iterator[bytes]]:
    """Encrypt a response as `seal_response` does, in parts that are made when they are taken.

    Returns:
        The length of all parts together, and the parts.
    """
    sealed_bytes = GCM_IV_LENGTH + _BODY_OFFSET + len(content.body) + GCM_TAG_LENGTH
    if binary:
        return sealed_bytes, _seal_parts(secret, iv, content)
    # All but the last are multiples of three bytes, so that padding is at the end only.
    return -(-sealed_bytes // 3) * 4, map(pybase64.b64encode, _seal_parts(secret, iv, content))


def _seal_parts(secret: bytes, iv: bytes, content: Envelope) -> Iterator[bytes]:
    encryptor = Cipher(AES(secret), GCM(iv)).encryptor()
    body = memoryview(content.body)
    begun = SEALED_PART_BYTES - GCM_IV_LENGTH - _BODY_OFFSET
    part = iv + encryptor.update(_pack(content.timestamp_ms, content.nonce, bytes(body[:begun])))
    for start in range(begun, len(body), SEALED_PART_BYTES):
        yield part
        part = encryptor.update(body[start : start + SEALED_PART_BYTES])
    yield part + encryptor.finalize() + encryptor.tag


def open_response(secret: bytes, wire: bytes, nonce: bytes | None, *, binary: bool = False) -> Envelope:
    """Decrypt the result of `seal_response` and compare its nonce with that of the request.

    With None, for a stored response, the nonce is not checked. The response is then authentic but may be old.

    Raises:
        EnvelopeError: not base64, it cannot be decrypted, or the nonce does not match.
    """
    envelope = _unpack(open_gcm(secret, wire if binary else decode_message(wire)))
    if nonce is not None and envelope.nonce != nonce:
        raise EnvelopeError("response nonce does not match the request: replayed or mixed up")
    return envelope
