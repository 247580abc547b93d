"""Requests as an operator reads them: bearer, content type and envelope. The messages are an operator's.

A relay reads them, and the embedded operator.
"""

import binascii
from typing import Any

import orjson
import pybase64

from bidstream_svc.core.crypto import GCM_IV_LENGTH, GCM_TAG_LENGTH, NONCE_LENGTH, Envelope, open_request
from bidstream_svc.core.errors import EnvelopeError
from bidstream_svc.core.identity import IdentityScope
from bidstream_svc.core.units import MS_PER_S
from bidstream_svc.operator.refusals import client_error

BINARY, TEXT = "application/octet-stream", "text/plain"

_VERSION = 1
_MIN_LENGTH = 1 + GCM_IV_LENGTH + GCM_TAG_LENGTH + 8 + NONCE_LENGTH
_MAX_TIME_OFF_S = 120
_HOSTS = {IdentityScope.UID2: "https://unifiedid.com", IdentityScope.EUID: "https://euid.eu"}
_GUIDE = "/docs/getting-started/gs-encryption-decryption"


def api_key_of(authorization: str | None) -> str | None:
    """Return the API key in an `Authorization` header; None if it is absent or of another scheme."""
    scheme, _, key = (authorization or "").strip().partition(" ")
    return key if scheme.lower() == "bearer" else None


def is_binary(content_type: str | None, wire: bytes = b"") -> bool:
    """Whether a request is sent without base64, and its answer too.

    Args:
        content_type: the header, or None. Operators compare the whole value: with parameters it means base64. So does
            its absence.
        wire: the body; it may be base64 all the same.
    """
    if (content_type or "").lower() != BINARY:
        return False
    return not wire or wire[0] == _VERSION or not _is_base64(wire)


def open_envelope(wire: bytes, client_secret: bytes, scope: IdentityScope, now_ms: int, *, binary: bool) -> Envelope:
    """Decrypt a request.

    Args:
        wire: the HTTP body: base64, padded or not and without line ends, or bytes if `binary`.
        client_secret: the caller's.
        scope: chooses the links in messages.
        now_ms: the operator's clock, Unix ms.
        binary: whether the request is sent without base64.

    Raises:
        RequestRefusedError: 400.
    """
    guide = _HOSTS[scope] + _GUIDE
    sealed = wire if binary else _decode(wire, guide)
    if not sealed:
        raise client_error("Invalid body: Body is missing.")
    hint = f" See {guide} for details on the request envelope format."
    if len(sealed) < _MIN_LENGTH or sealed[0] != _VERSION:
        _refuse_plain_json(sealed, guide)
        if len(sealed) < _MIN_LENGTH:
            raise client_error("Invalid body: Body too short. Check encryption method." + hint)
        raise client_error(
            f"Invalid body: Invalid request envelope format version: received {sealed[0]}, must be {_VERSION}." + hint
        )
    try:
        envelope = open_request(client_secret, sealed, binary=True)
    except EnvelopeError:
        raise client_error("Invalid body: Check encryption key (ClientSecret)." + hint) from None
    if abs((now_ms - envelope.timestamp_ms) // MS_PER_S) >= _MAX_TIME_OFF_S:
        raise client_error("Invalid timestamp: Request too old or client time drift.")
    return envelope


def read_body(text: bytes) -> dict[str, Any]:
    """Parse the JSON object in an envelope, which may be empty.

    Raises:
        RequestRefusedError: 400.
    """
    if not text:
        return {}
    body = _parse_object(text)
    if body is None:
        raise client_error("Invalid payload in body: Data is not valid json string.")
    return body


def decode_unpadded(text: bytes | str) -> bytes:
    """Decode standard base64 with or without padding; anything else, such as a line end, is refused.

    Raises:
        ValueError: not base64.
    """
    raw = text.encode() if isinstance(text, str) else text
    return pybase64.b64decode(raw if b"=" in raw else raw + b"=" * (-len(raw) % 4), validate=True)


def _is_base64(wire: bytes) -> bool:
    """Whether `decode_unpadded` accepts it."""
    try:
        decode_unpadded(wire)
    except ValueError:
        return False
    return True


def _decode(wire: bytes, guide: str) -> bytes:
    try:
        return decode_unpadded(wire)
    except binascii.Error:
        _refuse_plain_json(wire, guide)
        raise client_error(
            f"Invalid body: Body is not valid base64. See {guide} for details on the request envelope format."
        ) from None


def _refuse_plain_json(text: bytes, guide: str) -> None:
    if _parse_object(text) is not None:
        raise client_error(
            "Invalid body: The request body is unencrypted JSON. It must be an encrypted request envelope. "
            f"See {guide}#encryption-and-decryption-code-examples for encryption and decryption code examples."
        )


def _parse_object(text: bytes) -> dict[str, Any] | None:
    try:
        value = orjson.loads(text.decode(errors="replace"))
    except orjson.JSONDecodeError:
        return None
    return value if isinstance(value, dict) else None
