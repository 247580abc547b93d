"""Requests compared with the layout tables byte by byte, and opened with another library."""

import base64
import json
import os
import re

import pytest
from Crypto.Cipher import AES  # what the published client and the reference scripts use

from bidstream_svc import __version__
from bidstream_svc.core.crypto import Envelope, seal_gcm, seal_response
from bidstream_svc.core.errors import (
    EnvelopeError,
    OperatorAnswerError,
    OperatorHttpError,
    OperatorRateLimitedError,
    OperatorRedirectError,
    OperatorUnauthorizedError,
)
from bidstream_svc.operator import Credentials
from bidstream_svc.operator.messages import (
    Endpoint,
    HttpAnswer,
    OperatorRequest,
    build_plain_request,
    build_request,
    decode_answer,
    read_answer,
    read_plain_answer,
)

SECRET = b"made-up client secret, 32 bytes!"
IV = bytes.fromhex("a0a1a2a3a4a5a6a7a8a9aaab")
NONCE = bytes.fromhex("b0b1b2b3b4b5b6b7")
NOW_MS = 1_700_000_000_000
PAYLOAD = b'{"email": "validate@example.com"}'
CREDENTIALS = Credentials("UID2-C-L-1-made.up/key", SECRET)
TEXT = Endpoint("/v2/token/generate")
BINARY = Endpoint("/v3/identity/map", is_binary=True)


def build(endpoint: Endpoint, payload: bytes = PAYLOAD) -> OperatorRequest:
    return build_request(endpoint, payload, CREDENTIALS, now_ms=NOW_MS, nonce=NONCE, iv=IV)


@pytest.mark.parametrize(("endpoint", "payload"), [(TEXT, PAYLOAD), (TEXT, b""), (BINARY, PAYLOAD), (BINARY, b"")])
def test_request_bytes_are_those_of_the_layout_tables(endpoint: Endpoint, payload: bytes) -> None:
    body = build(endpoint, payload).body
    envelope = body if endpoint.is_binary else base64.b64decode(body, validate=True)
    assert len(envelope) == 1 + 12 + (8 + 8 + len(payload)) + 16
    assert envelope[0] == 1  # version
    assert envelope[1:13] == IV
    content = AES.new(SECRET, AES.MODE_GCM, nonce=envelope[1:13]).decrypt_and_verify(envelope[13:-16], envelope[-16:])
    assert content[0:8] == (NOW_MS).to_bytes(8, "big")
    assert content[8:16] == NONCE
    assert content[16:] == payload


def test_request_is_pinned() -> None:
    # The first of tests/vectors/envelopes.json; tests/cli_clients runs uid2_request.py itself beside ours.
    assert build(TEXT).body == (
        b"AaChoqOkpaanqKmqq28eTURY2EvFSf5+lSBtEVANUrMO5Yak0I/Q0uJLScLHrqlWWEzpNla1z3/QeGZ6JRXivReO+gqisk2B3kBw8mHu"
    )


@pytest.mark.parametrize(("endpoint", "content_type"), [(TEXT, "text/plain"), (BINARY, "application/octet-stream")])
def test_request_headers(endpoint: Endpoint, content_type: str) -> None:
    assert build(endpoint).headers == {
        "Authorization": "Bearer UID2-C-L-1-made.up/key",
        "Content-Type": content_type,
        "X-UID2-Client-Version": f"bidstream-svc-{__version__}",
    }


def test_plain_request_is_the_refresh_token_as_it_is_and_needs_no_bearer() -> None:
    request = build_plain_request(Endpoint("/v2/token/refresh"), b"a refresh token", bytes(16))
    assert request.body == b"a refresh token"
    assert "Authorization" not in request.headers
    request = build_plain_request(Endpoint("/v2/token/refresh"), b"a refresh token", bytes(16), CREDENTIALS)
    assert request.headers["Authorization"] == "Bearer UID2-C-L-1-made.up/key"


def test_text_answer_is_read() -> None:
    wire = seal_response(SECRET, os.urandom(12), Envelope(NOW_MS, NONCE, b"{}"))
    assert read_answer(HttpAnswer(200, "text/plain", wire + b"\n"), build(TEXT)) == b"{}"


@pytest.mark.parametrize("content_type", ["", "application/octet-stream"])
def test_binary_answer_is_read_whatever_its_first_byte(content_type: str) -> None:
    wire = seal_response(SECRET, b"<" + bytes(11), Envelope(NOW_MS, NONCE, b"{}"), binary=True)
    assert read_answer(HttpAnswer(200, content_type, wire), build(BINARY)) == b"{}"


def test_binary_request_may_be_answered_in_base64() -> None:
    wire = seal_response(SECRET, os.urandom(12), Envelope(NOW_MS, NONCE, b"{}"))
    assert read_answer(HttpAnswer(200, "text/plain", wire), build(BINARY)) == b"{}"


def test_text_answer_may_have_the_wrong_content_type() -> None:
    wire = seal_response(SECRET, os.urandom(12), Envelope(NOW_MS, NONCE, b"{}"))
    assert read_answer(HttpAnswer(200, "application/octet-stream", wire), build(TEXT)) == b"{}"


@pytest.mark.parametrize("key_length", [16, 32])
def test_refresh_answer_has_neither_time_nor_nonce(key_length: int) -> None:
    key = os.urandom(key_length)
    wire = base64.b64encode(seal_gcm(key, os.urandom(12), b'{"status":"optout"}'))
    request = build_plain_request(TEXT, b"token", key)
    assert read_plain_answer(HttpAnswer(200, "text/plain", wire), request) == b'{"status":"optout"}'


def test_refresh_answer_without_a_key_is_plain_json_and_with_a_key_never() -> None:
    answer = HttpAnswer(200, "application/json", b'{"status":"optout"}')
    assert read_plain_answer(answer, build_plain_request(TEXT, b"token", b"")) == b'{"status":"optout"}'
    with pytest.raises(EnvelopeError, match="not base64"):
        read_plain_answer(answer, build_plain_request(TEXT, b"token", bytes(16)))


@pytest.mark.parametrize("wire", [b"", b"AAAA", base64.b64encode(bytes(28)), b"\xff\xfe", b"{}"])
def test_invalid_envelope_is_an_envelope_error(wire: bytes) -> None:
    with pytest.raises(EnvelopeError):
        read_answer(HttpAnswer(200, "text/plain", wire), build(TEXT))
    with pytest.raises(EnvelopeError):
        read_plain_answer(HttpAnswer(200, "text/plain", wire), build_plain_request(TEXT, b"", bytes(16)))


def refuse(status: int, body: bytes, retry_after: str | None = None) -> OperatorHttpError:
    with pytest.raises(OperatorHttpError) as caught:
        read_answer(HttpAnswer(status, "application/json", body, retry_after), build(TEXT))
    assert caught.value.http_status == status
    return caught.value


def test_error_quotes_the_operators_message_and_status() -> None:
    error = refuse(400, b'{"status":"client_error","message":"Required parameter missing: token","x":1}')
    assert str(error) == "operator answered 400 (Required parameter missing: token)"
    assert error.api_status == "client_error"


@pytest.mark.parametrize(
    ("status", "kind"),
    [
        (302, OperatorRedirectError),
        (307, OperatorRedirectError),
        (401, OperatorUnauthorizedError),
        (403, OperatorUnauthorizedError),
        (404, OperatorHttpError),
        (429, OperatorRateLimitedError),
        (500, OperatorHttpError),
        (204, OperatorHttpError),
    ],
)
def test_each_status_has_its_error(status: int, kind: type[OperatorHttpError]) -> None:
    assert type(refuse(status, b"")) is kind


@pytest.mark.parametrize("body", [b"<html>secret page</html>", b'"secret"', b"\xff", b"[[[" * 5000, b'{"message":7}'])
def test_error_quotes_nothing_but_a_json_message(body: bytes) -> None:
    error = refuse(502, body)
    assert str(error) == "operator answered 502"
    assert error.api_status is None


@pytest.mark.parametrize("message", [b"7", b"null", b"[{}]", rb'"\ud83d"', b'"\xff"', b'"\xed\xa0\x80"'], ids=ascii)
def test_a_malformed_message_does_not_cost_the_status_nor_the_reverse(message: bytes) -> None:
    error = refuse(400, b'{"message":%b,"status":"expired_token","other":%b}' % (message, message))
    assert (str(error), error.api_status) == ("operator answered 400", "expired_token")
    error = refuse(400, b'{"status":%b,"message":"Expired Token presented"}' % message)
    assert (str(error), error.api_status) == ("operator answered 400 (Expired Token presented)", None)


@pytest.mark.parametrize(
    "secret",
    [
        "someone@example.com",
        "ntI244ZRTXwAwpki6/M5cyBYW7h/Wq576lnN3l9+W/c=",
        "+12345678901",
        "12345678901",
        "+1 (234) 567-8901",
        "(234) 567 89 01",
        "UID2-C-L-101-made-up-key-of-somebody",
        "EUID-C-P-101-AbCdEf.GhIjKlMn",
        "123.456.7890",
        "+1.234.567.8901",
        "123/456/7890",
        "+1 - (234) - 567 - 8901",
        "123\u2013456\u20137890",
        "+" + "".join(chr(0xFF10 + digit % 10) for digit in range(1, 12)),
        "someone%40example.com",
        "someone%2540example.com",
        "someone%252540example.com",
        "someone&#64;example.com",
        "someone&#064;example.com",
        "someone&#x40;example.com",
        "someone&#X40;example.com",
        "someone&#64example.com",
        "someone&amp;#64;example.com",
        "someone&commat;example.com",
        "someone\\\\u0040example.com",
        "someone%u0040example.com",
        "someone\uff20example.com",
        "someone\ufe6bexample.com",
        "someone\u200b@example.com",
        "some\u00adone@example.com",
        "A4AAAAzWVTEAZU3T-_GiDGBAJc3vUs1OqZdgTbTeYbTyYLnqfZ8L",
        "CPhJRpMPhJRpMABAMBFRACBoALAAAEJAAIYgAKwAQAKgArABAAqAAA",
        "0123456789abcdef0123456789abcdef",
        "https://prod.euid.eu/v2/token/refresh?token=AAAAAgzWVTEAZU3TxGiDGBAJc3vUs1Oq",
    ],
)
def test_message_that_repeats_what_was_sent_is_cleaned(secret: str) -> None:
    error = refuse(400, b'{"status":"%b","message":"invalid value: %b."}' % (secret.encode(), secret.encode()))
    assert secret not in str(error)
    assert secret not in str(error.api_status)
    assert "[removed]" in str(error)
    assert not any(part in str(error) for part in re.split(r"[^A-Za-z0-9]", secret) if len(part) > 8)


@pytest.mark.parametrize(
    "message",
    [
        # Of the reference operator.
        (
            "Invalid body: The request body is unencrypted JSON. It must be an encrypted request envelope. See "
            "https://unifiedid.com/docs/getting-started/gs-encryption-decryption#encryption-and-decryption-code-examples"
            " for encryption and decryption code examples."
        ),
        (
            "Invalid body: Check encryption key (ClientSecret). See https://euid.eu/docs/getting-started/"
            "gs-encryption-decryption for details on the request envelope format."
        ),
        "Required Parameter Missing: exactly one of [email, email_hash, phone, phone_hash] must be specified",
        "Invalid body: Invalid request envelope format version: received 42, must be 1.",
        "Expired Token presented",
        # Made up: names of fields and paths that are longer than a token's shortest run.
        "unknown field: max_bidstream_lifetime_seconds at /v2/token/client-generate/email_hash",
        "since 2025-11-28T12:30:00Z",
    ],
)
def test_message_without_personal_data_is_quoted_in_full(message: str) -> None:
    error = refuse(400, json.dumps({"status": "insufficient_user_consent", "message": message}).encode())
    assert str(error) == f"operator answered 400 ({message})"
    assert error.api_status == "insufficient_user_consent"


@pytest.mark.parametrize("secret", ["quentin.hush@example.com", "A4AAAAzWVTEAZU3TGiDGBAJc3vUs1OqZ"])
def test_no_cut_leaves_a_part_of_a_secret(secret: str) -> None:
    for length in range(530, 605):
        tokens = f"{'A1b2' * 12} " * (length // 49)
        message = tokens + "-" * (length - len(tokens) - 1) + f" {secret} and more " + "word " * 50
        error = refuse(400, json.dumps({"message": message}).encode())
        assert not any(secret[:end] in str(error) for end in range(4, len(secret)))


def test_message_is_bounded_and_printable() -> None:
    error = refuse(400, b'{"message":"a\\u0000b\\n' + b"word " * 100_000 + b'"}')
    assert str(error).startswith("operator answered 400 (a b word word")
    assert len(str(error)) < 340


@pytest.mark.parametrize(
    ("header", "seconds"),
    [("7", 7.0), (None, None), ("Wed, 21 Oct 2026 07:28:00 GMT", None), ("-1", None), ("²", None)],
)
def test_retry_after(header: str | None, seconds: float | None) -> None:
    error = refuse(429, b"", header)
    assert isinstance(error, OperatorRateLimitedError)
    assert error.retry_after_s == seconds


@pytest.mark.parametrize("json", [b"", b"secret", b'{"a":"secret"}', b'["secret"]', b"[" * 100_000, b'"\xff secret"'])
def test_answer_of_another_shape_is_an_error_that_shows_no_value(json: bytes) -> None:
    with pytest.raises(OperatorAnswerError, match="operator's answer: ") as caught:
        decode_answer(json, dict[str, int])
    assert "secret" not in str(caught.value)
    assert caught.value.__cause__ is None


def test_repr_of_request_and_answer_show_no_content() -> None:
    request = build(TEXT)
    answer = HttpAnswer(200, "text/plain", b"sealed", None)
    for text in (repr(request), repr(answer), repr(CREDENTIALS)):
        for secret in ("made", "Bearer", "AaCh", "sealed"):
            assert secret not in text
