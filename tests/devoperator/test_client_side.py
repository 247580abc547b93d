"""Generation with a public key, from a client written after the description of the protocol."""

import base64
import json
import os
from collections.abc import AsyncIterator
from typing import Any

import orjson
import pytest
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat, load_der_public_key

from bidstream_svc.core.crypto import open_gcm
from bidstream_svc.core.decrypt import decrypt
from bidstream_svc.core.identity import hash_identity
from bidstream_svc.core.key_response import parse_key_response
from bidstream_svc.core.status import DecryptionStatus
from bidstream_svc.devoperator import DevOperator, OperatorSite, OperatorState
from bidstream_svc.devoperator.key_endpoints import bidstream_keys
from tests.support.operator import post, running_operator

GENERATE, REFRESH = "/v2/token/client-generate", "/v2/token/refresh"
EMAIL, PHONE, APP = "someone@example.com", "+12345678901", "com.example.app"
EMAIL_HASH = {"email_hash": hash_identity(EMAIL)}
PAGE = {"Origin": "https://example.com"}
SITES = [OperatorSite(101, ("example.com", "localhost", "com.example.app", "123456789"))]


@pytest.fixture
async def operator() -> AsyncIterator[DevOperator]:
    async with running_operator(OperatorState(seed=1, sites=SITES)) as running:
        yield running


class Page:
    """A page or an app that generates tokens; `public_key` is what its publisher was given."""

    def __init__(self, subscription_id: str, public_key: str) -> None:
        server_key = load_der_public_key(base64.b64decode(public_key.removeprefix("UID2-X-L-")))
        assert isinstance(server_key, ec.EllipticCurvePublicKey)
        own_key = ec.generate_private_key(ec.SECP256R1())
        self.secret = own_key.exchange(ec.ECDH(), server_key)
        self.own_key = encoded(own_key.public_key())
        self.subscription_id = subscription_id

    def request(self, payload: bytes, app_name: str | None = None) -> dict[str, Any]:
        iv, time_ms = os.urandom(12), 1_700_000_000_000
        app = {} if app_name is None else {"app_name": app_name}
        authenticated = json.dumps([time_ms, *app.values()], separators=(",", ":")).encode()
        return {
            "payload": base64.b64encode(AESGCM(self.secret).encrypt(iv, payload, authenticated)).decode(),
            "iv": base64.b64encode(iv).decode(),
            "public_key": self.own_key,
            "timestamp": time_ms,
            "subscription_id": self.subscription_id,
            **app,
        }


def encoded(key: ec.EllipticCurvePublicKey) -> str:
    return base64.b64encode(key.public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)).decode()


def page_of(operator: DevOperator) -> Page:
    keys = operator.state.client_side
    return Page(keys.subscription_id, keys.public_key)


async def send(operator: DevOperator, request: object, headers: dict[str, str]) -> tuple[int, Any]:
    body = request if isinstance(request, bytes) else orjson.dumps(request)
    response, content = await post(operator, GENERATE, body, api_key="", headers=headers)
    return response.status, content if response.status == 200 else orjson.loads(content)


async def generate(
    operator: DevOperator, identity: dict[str, str], app_name: str | None = None, headers: dict[str, str] = PAGE
) -> Any:
    page = page_of(operator)
    status, content = await send(operator, page.request(orjson.dumps(identity), app_name), headers)
    return orjson.loads(open_gcm(page.secret, base64.b64decode(content, validate=True))) if status == 200 else content


def decrypted(operator: DevOperator, token: str, domain: str | None) -> tuple[DecryptionStatus, str | None]:
    keys = parse_key_response(orjson.dumps(bidstream_keys(operator.state, {})))
    return decrypt(token, domain, keys, operator.state.now_ms())[:2]


@pytest.mark.parametrize(("name", "identity"), [("email_hash", EMAIL), ("phone_hash", PHONE)])
async def test_tokens_of_a_page_are_good_on_its_site_only(operator: DevOperator, name: str, identity: str) -> None:
    tokens = (await generate(operator, {name: hash_identity(identity)}))["body"]
    token = tokens["advertising_token"]
    assert decrypted(operator, token, "example.com") == (DecryptionStatus.SUCCESS, operator.state.raw_uid(identity))
    assert decrypted(operator, token, None)[0] is DecryptionStatus.DOMAIN_NAME_CHECK_FAILED


async def test_refreshed_tokens_stay_client_side(operator: DevOperator) -> None:
    tokens = (await generate(operator, EMAIL_HASH))["body"]
    _, content = await post(operator, REFRESH, tokens["refresh_token"].encode(), api_key="")
    answer = orjson.loads(open_gcm(base64.b64decode(tokens["refresh_response_key"]), base64.b64decode(content)))
    token = answer["body"]["advertising_token"]
    assert decrypted(operator, token, None)[0] is DecryptionStatus.DOMAIN_NAME_CHECK_FAILED
    assert decrypted(operator, token, "example.com")[0] is DecryptionStatus.SUCCESS


async def test_an_opted_out_user_gets_no_token(operator: DevOperator) -> None:
    operator.state.opt_out(EMAIL)
    assert await generate(operator, EMAIL_HASH) == {"status": "optout"}


@pytest.mark.parametrize(
    ("origin", "is_allowed"),
    [
        ("https://example.com", True),
        ("https://www.EXAMPLE.com:8443", True),
        ("http://localhost:3000", True),
        ("http://a.localhost", True),
        ("https://notexample.com", False),
        ("https://example.com.elsewhere.net", False),
        ("https://com.example.app", False),
        ("example.com", False),
        ("//example.com", False),
        ("https://[", False),
        ("null", False),
        (None, False),
    ],
)
async def test_the_origin_must_belong_to_the_site(
    operator: DevOperator, origin: str | None, *, is_allowed: bool
) -> None:
    answer = await generate(operator, EMAIL_HASH, headers={} if origin is None else {"Origin": origin})
    if is_allowed:
        assert answer["status"] == "success"
    else:
        assert answer == {"status": "invalid_http_origin", "message": "unexpected http origin"}


@pytest.mark.parametrize(
    ("app_name", "is_allowed"),
    [(APP, True), ("COM.Example.App", True), ("123456789", True), ("com.elsewhere", False), ("example.com", False)],
)
async def test_an_app_name_takes_the_place_of_the_origin(
    operator: DevOperator, app_name: str, *, is_allowed: bool
) -> None:
    for headers in ({}, PAGE):
        answer = await generate(operator, EMAIL_HASH, app_name, headers)
        if is_allowed:
            assert decrypted(operator, answer["body"]["advertising_token"], APP)[0] is DecryptionStatus.SUCCESS
        else:
            assert answer == {"status": "invalid_app_name", "message": "unexpected app name"}


@pytest.mark.parametrize(
    ("payload", "message"),
    [
        (b"junk", "encrypted payload contains invalid json"),
        (b"[]", "encrypted payload contains invalid json"),
        (b"{}", "please provide exactly one of: email_hash, phone_hash"),
        (b'{"email": "someone@example.com"}', "please provide exactly one of: email_hash, phone_hash"),
        (b'{"email_hash": "a", "phone_hash": "b"}', "please provide exactly one of: email_hash, phone_hash"),
        (b'{"email_hash": "junk"}', "Invalid Identifier"),
    ],
)
async def test_a_bad_payload_is_refused(operator: DevOperator, payload: bytes, message: str) -> None:
    refused = await send(operator, page_of(operator).request(payload), PAGE)
    assert refused == (400, {"status": "client_error", "message": message})


UNEXPECTED = (500, "unknown", "Unknown error while handling client side token generate")
OTHER_CURVE = encoded(ec.generate_private_key(ec.SECP384R1()).public_key())


@pytest.mark.parametrize(
    ("changes", "refusal"),
    [
        ({"subscription_id": "other"}, (400, "client_error", "bad subscription_id")),
        ({"subscription_id": None}, (400, "client_error", "bad subscription_id")),
        ({"payload": None}, (400, "client_error", "required parameters: payload, iv, public_key")),
        ({"iv": None}, (400, "client_error", "required parameters: payload, iv, public_key")),
        ({"public_key": None}, (400, "client_error", "required parameters: payload, iv, public_key")),
        ({"public_key": "junk"}, (400, "client_error", "bad public key")),
        ({"public_key": "AAAA"}, (400, "client_error", "bad public key")),
        ({"public_key": OTHER_CURVE}, UNEXPECTED),
        ({"iv": "!"}, (400, "client_error", "bad iv")),
        ({"iv": "AAAA"}, (400, "client_error", "bad iv")),
        ({"payload": "!"}, (400, "client_error", "payload decryption failed")),
        ({"payload": "AAAA"}, (400, "client_error", "payload decryption failed")),
        ({"timestamp": 1}, (400, "client_error", "payload decryption failed")),
        ({"timestamp": "now"}, UNEXPECTED),
        ({"payload": []}, UNEXPECTED),
        ({"unknown": 1}, UNEXPECTED),
    ],
)
async def test_a_bad_request_is_refused(
    operator: DevOperator, changes: dict[str, object], refusal: tuple[int, str, str]
) -> None:
    request = page_of(operator).request(orjson.dumps(EMAIL_HASH)) | changes
    status, answer = await send(operator, request, PAGE)
    assert (status, answer["status"], answer["message"]) == refusal


@pytest.mark.parametrize(
    ("body", "refusal"),
    [
        (b"", (400, "client_error", "json payload expected but not found")),
        (b"null", (400, "client_error", "json payload expected but not found")),
        (b"junk", (400, "client_error", "json payload is not valid")),
        (b"[]", UNEXPECTED),
    ],
)
async def test_what_is_not_a_json_object_is_refused(
    operator: DevOperator, body: bytes, refusal: tuple[int, str, str]
) -> None:
    status, answer = await send(operator, body, PAGE)
    assert (status, answer["status"], answer["message"]) == refusal
