"""Requests to an operator and their answers, without I/O. Time, nonce and iv are parameters.

Source: docs/protocol.md, "Request and response envelopes".
"""

import re
import unicodedata
from dataclasses import dataclass, field
from http import HTTPStatus
from typing import NamedTuple, TypeVar

import msgspec

from bidstream_svc._version import __version__
from bidstream_svc.core.crypto import Envelope, decode_message, open_gcm, open_response, seal_request
from bidstream_svc.core.errors import (
    EnvelopeError,
    OperatorAnswerError,
    OperatorHttpError,
    OperatorRateLimitedError,
    OperatorRedirectError,
    OperatorUnauthorizedError,
)
from bidstream_svc.core.lenient import make_decoder
from bidstream_svc.operator.credentials import Credentials

BINARY_CONTENT_TYPE = "application/octet-stream"
CLIENT_VERSION = f"bidstream-svc-{__version__}"

_TEXT_CONTENT_TYPE = "text/plain"
_MAX_MESSAGE_CHARACTERS = 300
# An operator's message may quote the request: API keys, addresses, phone numbers, hashes, tokens, secrets. A long run
# of base64 or hexadecimal characters is one of the last three, unless it consists of words, as the path of a link or
# the name of a field does.
# An @ may be escaped for a URL, at any depth, for HTML or for JSON.
_PERSONAL_OR_SECRET = re.compile(
    r"""
    \b(?:UID2|EUID)-[A-Z]-[A-Z]-\S+
    | \S*(?:@|%(?:25)*40|[\\%][Uu]0040|\\x40|&(?:[Aa][Mm][Pp];)*(?:\#0*64(?!\d)|\#[Xx]0*40(?![0-9A-Fa-f])|commat;))\S*
    | \+?\(?\d(?:[ ()./\u2010-\u2015-]{0,4}\d){9,}
    | (?P<run>[A-Za-z0-9+/_=%-]{24,})
    """,
    re.ASCII | re.VERBOSE,
)
_WORDS = re.compile(r"/*[A-Z]?[a-z]{1,20}\d?(?:[/_-][A-Z]?[a-z]{1,20}\d?)*/?", re.ASCII)

_HTML = re.compile(rb"\s*<")
_DECODE_ERRORS = (msgspec.MsgspecError, ValueError, RecursionError)

_T = TypeVar("_T")


class Endpoint(NamedTuple):
    """An endpoint of an operator.

    Attributes:
        path: path below the base URL.
        is_retryable: whether a request that may have reached the operator can safely be sent again.
        is_binary: whether request and answer are sent without base64.
    """

    path: str
    is_retryable: bool = True
    is_binary: bool = False


@dataclass(frozen=True, slots=True)
class OperatorRequest:
    """A request to be posted.

    Attributes:
        endpoint: the endpoint to post to.
        headers: HTTP headers, with the API key.
        body: HTTP body.
        nonce: the 8 bytes that the answer must contain; empty if the answer has no nonce.
        secret: the key that decrypts the answer; empty if the answer is plain JSON.
    """

    endpoint: Endpoint
    headers: dict[str, str] = field(repr=False)
    body: bytes = field(repr=False)
    nonce: bytes = field(repr=False)
    secret: bytes = field(repr=False)


@dataclass(frozen=True, slots=True)
class HttpAnswer:
    """An HTTP answer.

    Attributes:
        status: the status code.
        content_type: "" if absent.
        body: the complete body.
        retry_after, age: the headers `Retry-After` and `Age`; None if absent.
        via: the headers `Via`, joined; "" if absent.
        begun_s: when it began to arrive, on the monotonic clock.
    """

    status: int
    content_type: str
    body: bytes = field(repr=False)
    retry_after: str | None = None
    age: str | None = None
    via: str = ""
    begun_s: float = 0.0


class _ErrorBody(msgspec.Struct):
    status: msgspec.Raw = msgspec.Raw(b"null")
    message: msgspec.Raw = msgspec.Raw(b"null")


_decode_error_body = make_decoder(_ErrorBody)


def build_request(
    endpoint: Endpoint, payload: bytes, credentials: Credentials, *, now_ms: int, nonce: bytes, iv: bytes
) -> OperatorRequest:
    """Encrypt a JSON payload for an endpoint.

    Args:
        endpoint: where to post it.
        payload: JSON in UTF-8, or empty.
        credentials: API key and client secret.
        now_ms: Unix ms; operators refuse old timestamps.
        nonce: 8 random bytes; never reuse them.
        iv: 12 random bytes; never reuse them.
    """
    body = seal_request(credentials.client_secret, iv, Envelope(now_ms, nonce, payload), binary=endpoint.is_binary)
    headers = _headers(BINARY_CONTENT_TYPE if endpoint.is_binary else _TEXT_CONTENT_TYPE, credentials)
    return OperatorRequest(endpoint, headers, body, nonce, credentials.client_secret)


def build_plain_request(
    endpoint: Endpoint, body: bytes, secret: bytes, credentials: Credentials | None = None
) -> OperatorRequest:
    """Build a request with a plain body, for /v2/token/refresh.

    Args:
        endpoint: where to post it.
        body: HTTP body.
        secret: the key that decrypts the answer; empty if the answer is plain JSON.
        credentials: their API key is sent. Operators do not require it, but tell only its owner why they refuse a
            refresh token: `expired_token` or `invalid_token`.
    """
    return OperatorRequest(endpoint, _headers(_TEXT_CONTENT_TYPE, credentials), body, b"", secret)


def _headers(content_type: str, credentials: Credentials | None) -> dict[str, str]:
    headers = {"Content-Type": content_type, "X-UID2-Client-Version": CLIENT_VERSION}
    if credentials is not None:
        headers["Authorization"] = f"Bearer {credentials.api_key}"
    return headers


def read_answer(answer: HttpAnswer, request: OperatorRequest) -> bytes:
    """Decrypt the answer to a request from `build_request`; returns its JSON.

    Raises:
        OperatorHttpError: the status is not 200.
        EnvelopeError: an HTML page, not base64, truncated, encrypted with another secret, or another nonce.
    """
    raise_for_status(answer)
    # A proxy or an older operator may answer a binary request in base64, with another content type.
    is_binary = request.endpoint.is_binary and answer.content_type in {"", BINARY_CONTENT_TYPE}
    if not is_binary:
        _reject_html(answer)
    return open_response(request.secret, answer.body, request.nonce, binary=is_binary).body


def read_plain_answer(answer: HttpAnswer, request: OperatorRequest) -> bytes:
    """Decrypt the answer to a request from `build_plain_request`; returns its JSON.

    With an empty secret the answer is plain JSON: the refresh token came without a response key.

    Raises:
        OperatorHttpError: the status is not 200.
        EnvelopeError: as for `read_answer`.
    """
    raise_for_status(answer)
    _reject_html(answer)
    return open_gcm(request.secret, decode_message(answer.body)) if request.secret else answer.body


def decode_answer(json: str | bytes, shape: type[_T]) -> _T:
    """Decode JSON into a msgspec type, which may contain `lenient.Integer`. Unknown fields are ignored.

    Raises:
        OperatorAnswerError: not JSON, or a field is missing or has the wrong type. The message names the field, and
            never contains its value.
    """
    try:
        return make_decoder(shape)(json)
    except _DECODE_ERRORS as error:
        raise OperatorAnswerError(f"operator's answer: {_describe(error)}") from None


def _describe(error: Exception) -> str:
    # Exceptions other than msgspec's may contain the text.
    return str(error) if isinstance(error, msgspec.MsgspecError) else f"not JSON ({type(error).__name__})"


def _reject_html(answer: HttpAnswer) -> None:
    if "html" in answer.content_type or _HTML.match(answer.body):
        raise EnvelopeError("answer is an HTML page, not an encrypted message: check the base URL, and for a proxy")


def raise_for_status(answer: HttpAnswer) -> None:
    """Raise the OperatorHttpError for a status other than 200. Its message quotes only the `message` of the JSON."""
    status = answer.status
    if status == HTTPStatus.OK:
        return
    if HTTPStatus.MULTIPLE_CHOICES <= status < HTTPStatus.BAD_REQUEST:
        raise OperatorRedirectError(
            f"operator answered {status}, and redirects are not followed: check the base URL", status
        )
    api_status, quote = _quote_error(answer.body)
    message = f"operator answered {status}{quote}"
    if status in {HTTPStatus.UNAUTHORIZED, HTTPStatus.FORBIDDEN}:
        raise OperatorUnauthorizedError(message + ": check the API key and its permissions", status, api_status)
    if status == HTTPStatus.TOO_MANY_REQUESTS:
        raise OperatorRateLimitedError(message, status, api_status, _seconds(answer.retry_after))
    raise OperatorHttpError(message, status, api_status)


def _quote_error(body: bytes) -> tuple[str | None, str]:
    """Return the JSON's `status` or None, and " (message)" with at most 300 characters, or "" without one."""
    try:
        error = _decode_error_body(body)
    except _DECODE_ERRORS:
        return None, ""
    status, message = _text(error.status), _text(error.message)
    return None if status is None else quote(status), f" ({quote(message)})" if message else ""


def _text(raw: msgspec.Raw) -> str | None:
    """Decode a text. Anything else is None, so that a malformed message does not cost the status."""
    try:
        return msgspec.json.decode(raw, type=str)
    except _DECODE_ERRORS:
        return None


def quote(text: str) -> str:
    """Return the beginning of an operator's text, printable and without secrets and personal data."""
    # NFKC makes the full-width forms of @, + and digits ASCII. Format characters, such as a zero-width space, would
    # divide what has to be recognised.
    examined = text[: 4 * _MAX_MESSAGE_CHARACTERS]
    normalised = unicodedata.normalize("NFKC", examined)
    printable = "".join(
        character if character.isprintable() else " "
        for character in normalised
        if unicodedata.category(character) != "Cf"
    )
    # Cut before matching, to bound its time, and after, because a replacement may be longer than the match. The first
    # cut drops the word that it meets, because a part of an address or a token may not be recognised as one.
    beginning = printable[: 2 * _MAX_MESSAGE_CHARACTERS]
    if len(beginning) < len(printable) or len(examined) < len(text):
        beginning = beginning.rpartition(" ")[0] or beginning
    return _PERSONAL_OR_SECRET.sub(_redact, beginning)[:_MAX_MESSAGE_CHARACTERS]


def _redact(match: re.Match[str]) -> str:
    run = match["run"]
    return run if run is not None and _WORDS.fullmatch(run) else "[removed]"


def _seconds(retry_after: str | None) -> float | None:
    """Return the seconds of a Retry-After header; None for a date, its other form (RFC 9110, section 10.2.3)."""
    return float(retry_after) if retry_after is not None and retry_after.isdecimal() else None
