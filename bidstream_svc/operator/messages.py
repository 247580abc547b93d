"""Requests to an operator as bytes and answers read back, without any I/O: what every client here is made of.

Time, nonce and iv are parameters. Layouts: docs/protocol.md, "Request and response envelopes".
"""

import re
from dataclasses import dataclass, field
from http import HTTPStatus
from typing import NamedTuple, TypeVar

import msgspec

from bidstream_svc._version import __version__
from bidstream_svc.core.crypto import Envelope, decode_base64, open_gcm, open_response, seal_request
from bidstream_svc.core.errors import (
    EnvelopeError,
    OperatorAnswerError,
    OperatorHttpError,
    OperatorRateLimitedError,
    OperatorRedirectError,
    OperatorUnauthorizedError,
)
from bidstream_svc.operator.credentials import Credentials

BINARY_CONTENT_TYPE = "application/octet-stream"
CLIENT_VERSION = f"bidstream-svc-{__version__}"

_TEXT_CONTENT_TYPE = "text/plain"
_MAX_MESSAGE_CHARACTERS = 200
# An operator may repeat what it was sent: addresses, phone numbers, and what could be a hash, a token or a key.
_PERSONAL_OR_SECRET = re.compile(r"\S*@\S*|\+?\d{10,}|[A-Za-z0-9+/_=%-]{24,}", re.ASCII)

_T = TypeVar("_T")


class Endpoint(NamedTuple):
    """One call of an operator.

    Attributes:
        path: behind the base URL.
        is_repeatable: whether a request that may have reached the operator can be sent again without harm.
        is_binary: whether request and answer skip the base64.
    """

    path: str
    is_repeatable: bool = True
    is_binary: bool = False


@dataclass(frozen=True, slots=True)
class OperatorRequest:
    """A request ready to be posted.

    Attributes:
        endpoint: where it goes.
        headers: among them the API key.
        body: bytes of the HTTP body.
        nonce: the 8 bytes that the answer must repeat; empty where the answer has none.
        secret: the key that opens the answer.
    """

    endpoint: Endpoint
    headers: dict[str, str] = field(repr=False)
    body: bytes = field(repr=False)
    nonce: bytes = field(repr=False)
    secret: bytes = field(repr=False)


@dataclass(frozen=True, slots=True)
class HttpAnswer:
    """What came back: status code, `Content-Type` ("" if absent), the complete body, `Retry-After` if given."""

    status: int
    content_type: str
    body: bytes = field(repr=False)
    retry_after: str | None = None


class _ErrorBody(msgspec.Struct):
    status: str | None = None
    message: str | None = None


def build_request(
    endpoint: Endpoint, payload: bytes, credentials: Credentials, *, now_ms: int, nonce: bytes, iv: bytes
) -> OperatorRequest:
    """Seal a JSON payload (UTF-8, may be empty) for an endpoint; nonce 8 bytes, iv 12, neither ever used twice."""
    body = seal_request(credentials.client_secret, iv, Envelope(now_ms, nonce, payload), binary=endpoint.is_binary)
    headers = _headers(BINARY_CONTENT_TYPE if endpoint.is_binary else _TEXT_CONTENT_TYPE)
    headers["Authorization"] = f"Bearer {credentials.api_key}"
    return OperatorRequest(endpoint, headers, body, nonce, credentials.client_secret)


def build_plain_request(endpoint: Endpoint, body: bytes, secret: bytes) -> OperatorRequest:
    """A request that goes out as it is, without a bearer; the answer is sealed with `secret` (/v2/token/refresh)."""
    return OperatorRequest(endpoint, _headers(_TEXT_CONTENT_TYPE), body, b"", secret)


def _headers(content_type: str) -> dict[str, str]:
    return {"Content-Type": content_type, "X-UID2-Client-Version": CLIENT_VERSION}


def read_answer(answer: HttpAnswer, request: OperatorRequest) -> bytes:
    """Open the answer to `build_request`; returns its JSON.

    Raises:
        OperatorHttpError: another status than 200.
        EnvelopeError: a page instead of an envelope, not base64, truncated, another secret, or another nonce.
    """
    raise_for_status(answer)
    # A proxy or an older operator may answer a binary request in base64 all the same, and then says so.
    is_binary = request.endpoint.is_binary and answer.content_type in {"", BINARY_CONTENT_TYPE}
    if not is_binary:
        _refuse_page(answer)
    return open_response(request.secret, answer.body, request.nonce, binary=is_binary).body


def read_plain_answer(answer: HttpAnswer, request: OperatorRequest) -> bytes:
    """Open the answer to `build_plain_request`; returns its JSON.

    With an empty secret the answer is JSON as it stands: that is how tokens without a response key are refreshed.

    Raises:
        OperatorHttpError: another status than 200.
        EnvelopeError: as for `read_answer`.
    """
    raise_for_status(answer)
    _refuse_page(answer)
    return open_gcm(request.secret, decode_base64(answer.body)) if request.secret else answer.body


def decode_answer(json: str | bytes, shape: type[_T]) -> _T:
    """Read JSON of a known shape; fields that the shape does not have are ignored.

    Raises:
        OperatorAnswerError: not JSON, a field is missing or of another type; the message names it, never its value.
    """
    try:
        return msgspec.json.decode(json, type=shape)
    except (msgspec.MsgspecError, ValueError, RecursionError) as error:
        raise OperatorAnswerError(f"operator's answer: {_describe(error)}") from None


def _describe(error: Exception) -> str:
    # Other exceptions than msgspec's own would carry the text that was to be read.
    return str(error) if isinstance(error, msgspec.MsgspecError) else f"not JSON ({type(error).__name__})"


def _refuse_page(answer: HttpAnswer) -> None:
    if "html" in answer.content_type or answer.body.lstrip().startswith(b"<"):
        raise EnvelopeError("answer is an HTML page, not a sealed message: is a proxy or another server in between?")


def raise_for_status(answer: HttpAnswer) -> None:
    """Raise the OperatorHttpError that fits a status other than 200; its message quotes only the JSON `message`."""
    status = answer.status
    if status == HTTPStatus.OK:
        return
    if HTTPStatus.MULTIPLE_CHOICES <= status < HTTPStatus.BAD_REQUEST:
        raise OperatorRedirectError(
            f"operator answered {status}, a redirect, which is not followed: check the base URL", status
        )
    api_status, said = _quote_error(answer.body)
    message = f"operator answered {status}{said}"
    if status == HTTPStatus.UNAUTHORIZED:
        raise OperatorUnauthorizedError(message + ": check the API key and its permissions", status, api_status)
    if status == HTTPStatus.TOO_MANY_REQUESTS:
        raise OperatorRateLimitedError(message, status, api_status, _seconds(answer.retry_after))
    raise OperatorHttpError(message, status, api_status)


def _quote_error(body: bytes) -> tuple[str | None, str]:
    """The operator's `status`, and " (message)" of at most 200 characters or "" if there is no such JSON."""
    try:
        error = msgspec.json.decode(body, type=_ErrorBody)
    except (msgspec.MsgspecError, ValueError, RecursionError):
        return None, ""
    status = None if error.status is None else _quote(error.status)
    return status, f" ({_quote(error.message)})" if error.message else ""


def _quote(text: str) -> str:
    printable = "".join(character if character.isprintable() else " " for character in text)
    # Cut first: a match costs time that grows with the text. Cut again: a replacement may be longer than its match.
    return _PERSONAL_OR_SECRET.sub("[removed]", printable[: 2 * _MAX_MESSAGE_CHARACTERS])[:_MAX_MESSAGE_CHARACTERS]


def _seconds(retry_after: str | None) -> float | None:
    """The seconds of a Retry-After header; None for its other form, a date."""
    return float(retry_after) if retry_after is not None and retry_after.isdecimal() else None
