"""Bearer, envelopes, paths and methods: what is the same for every endpoint."""

import asyncio
import os
import ssl
from collections.abc import AsyncIterator
from io import BytesIO

import aiohttp
import orjson
import pybase64
import pytest
import trustme

from bidstream_svc.core.crypto import Envelope, open_response, seal_gcm, seal_request
from bidstream_svc.devoperator import DevOperator, OperatorState
from bidstream_svc.devoperator.app import ENDPOINTS, REFRESH_PATH
from tests.support.operator import Clock, ask, operator_in_thread, post, running_operator

KEYS = "/v2/key/bidstream"


@pytest.fixture
async def operator() -> AsyncIterator[DevOperator]:
    async with running_operator() as running:
        yield running


def sealed(operator: DevOperator, body: bytes = b"", *, timestamp_ms: int | None = None, binary: bool = False) -> bytes:
    now_ms = operator.state.now_ms() if timestamp_ms is None else timestamp_ms
    secret = pybase64.b64decode(operator.state.client_secret)
    return seal_request(secret, os.urandom(12), Envelope(now_ms, b"8 bytes.", body), binary=binary)


@pytest.mark.parametrize("path", ENDPOINTS)
async def test_every_endpoint_but_refresh_wants_the_api_key(operator: DevOperator, path: str) -> None:
    for headers in (
        {},
        {"Authorization": "Bearer"},
        {"Authorization": "Bearer wrong"},
        {"Authorization": f"Basic {operator.state.api_key}"},
        {"Authorization": f"Bearer {operator.state.api_key}x"},
        {"Authorization": "Bearer \u00e9\u4e2d"},
    ):
        response, content = await post(operator, path, sealed(operator), api_key="", headers=headers)
        assert response.status == 401
        assert response.content_type == "application/json"
        assert orjson.loads(content)["status"] == "unauthorized"


async def test_rotated_credentials_replace_the_old_ones(operator: DevOperator) -> None:
    old_key, old_request = operator.state.api_key, sealed(operator)
    operator.state.rotate_credentials()
    assert (await post(operator, KEYS, old_request, api_key=old_key))[0].status == 401
    assert (await post(operator, KEYS, old_request))[0].status == 400
    assert (await ask(operator, KEYS)).http_status == 200


@pytest.mark.parametrize("path", ["/v2/key/bidstream", "/v3/identity/map"])
@pytest.mark.parametrize("binary", [False, True])
async def test_both_forms_of_the_envelope(operator: DevOperator, path: str, *, binary: bool) -> None:
    assert (await ask(operator, path, {"email": ["someone@example.com"]}, binary=binary)).http_status == 200


@pytest.mark.parametrize("content_type", [None, "application/x-www-form-urlencoded", "Text/Plain; charset=utf-8"])
async def test_any_other_content_type_or_none_means_base64(operator: DevOperator, content_type: str | None) -> None:
    headers = {} if content_type is None else {"Content-Type": content_type}
    wire = sealed(operator) + b"\n"
    response, content = await post(operator, KEYS, wire, headers=headers, skip_auto_headers=["Content-Type"])
    assert response.status == 200
    assert response.content_type == "text/plain"
    secret = pybase64.b64decode(operator.state.client_secret)
    assert b"keys" in open_response(secret, content, b"8 bytes.").body


async def test_parameters_of_the_content_type_do_not_matter(operator: DevOperator) -> None:
    headers = {"Content-Type": "Application/Octet-Stream; q=1"}
    response, _ = await post(operator, KEYS, sealed(operator, binary=True), headers=headers)
    assert (response.status, response.content_type) == (200, "application/octet-stream")


async def test_the_response_carries_the_operators_time(operator: DevOperator) -> None:
    operator.state.now_ms = Clock(1_700_000_000_000)
    _, content = await post(operator, KEYS, sealed(operator))
    secret = pybase64.b64decode(operator.state.client_secret)
    assert open_response(secret, content, b"8 bytes.").timestamp_ms == 1_700_000_000_000


@pytest.mark.parametrize(
    ("wire", "words"),
    [
        (b"", "version 1"),
        (b'{"email": "someone@example.com"}', "plain JSON"),
        (b" []", "plain JSON"),
        (b"not base64!", "not base64"),
        (pybase64.b64encode(b"\x02" + bytes(60)), "version 1"),
        (pybase64.b64encode(b"\x01" + bytes(60)), "cannot be decrypted"),
        (pybase64.b64encode(b"\x01"), "cannot be decrypted"),
    ],
)
async def test_invalid_envelopes_are_refused_with_the_reason(operator: DevOperator, wire: bytes, words: str) -> None:
    response, content = await post(operator, "/v2/token/generate", wire)
    answer = orjson.loads(content)
    assert (response.status, answer["status"]) == (400, "client_error")
    assert words in answer["message"]
    assert "someone" not in answer["message"]


async def test_an_envelope_without_nonce_is_refused(operator: DevOperator) -> None:
    secret = pybase64.b64decode(operator.state.client_secret)
    wire = pybase64.b64encode(b"\x01" + seal_gcm(secret, os.urandom(12), bytes(15)))
    response, content = await post(operator, KEYS, wire)
    assert response.status == 400
    assert "too short" in orjson.loads(content)["message"]


@pytest.mark.parametrize("sign", [1, -1])
async def test_a_timestamp_may_be_a_minute_off(operator: DevOperator, sign: int) -> None:
    clock = operator.state.now_ms = Clock()
    assert (await post(operator, KEYS, sealed(operator, timestamp_ms=clock() + sign * 60_000)))[0].status == 200
    response, content = await post(operator, KEYS, sealed(operator, timestamp_ms=clock() + sign * 60_001))
    assert response.status == 400
    assert orjson.loads(content)["status"] == "client_error"
    assert "60 seconds" in orjson.loads(content)["message"]


@pytest.mark.parametrize("body", [b"nonsense", b"\xff", b"[1]", b"7", b"null"])
async def test_a_body_that_is_not_a_json_object_is_refused(operator: DevOperator, body: bytes) -> None:
    response, content = await post(operator, "/v2/token/generate", sealed(operator, body))
    assert (response.status, orjson.loads(content)["status"]) == (400, "client_error")
    assert "contain" in orjson.loads(content)["message"]


async def test_unknown_paths_and_methods(operator: DevOperator) -> None:
    response, content = await post(operator, "/v2/nothing", b"")
    assert (response.status, orjson.loads(content)["status"]) == (404, "client_error")
    async with aiohttp.ClientSession() as session:
        for path in (*ENDPOINTS, REFRESH_PATH):
            async with session.get(operator.url + path) as refused:
                assert refused.status == 405
                assert refused.headers["Allow"] == "POST"
                assert (await refused.json())["status"] == "client_error"


async def test_a_request_that_is_too_large(operator: DevOperator) -> None:
    too_much = BytesIO(b"A" * (4 * 1024 * 1024 + 1))
    response, content = await post(operator, KEYS, too_much)
    assert (response.status, orjson.loads(content)["status"]) == (413, "client_error")


async def test_calls_are_counted(operator: DevOperator) -> None:
    await ask(operator, KEYS)
    await ask(operator, KEYS)
    await post(operator, REFRESH_PATH, b"")
    assert operator.state.calls == {KEYS: 2, REFRESH_PATH: 1}


async def test_nothing_secret_is_printed_or_logged(
    operator: DevOperator, caplog: pytest.LogCaptureFixture, capfd: pytest.CaptureFixture[str]
) -> None:
    caplog.set_level(0)
    await ask(operator, "/v2/token/generate", {"email": "someone@example.com"})
    await ask(operator, "/v2/token/generate", {"email": "nobody"})
    await post(operator, KEYS, b"{}", api_key="wrong")
    printed = caplog.text + "".join(capfd.readouterr())
    for secret in (operator.state.api_key, operator.state.client_secret, "someone", "nobody"):
        assert secret not in printed


async def test_https() -> None:
    authority = trustme.CA()
    server, client = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH), ssl.create_default_context()
    authority.issue_cert("127.0.0.1").configure_cert(server)
    authority.configure_trust(client)
    async with running_operator(ssl_context=server) as operator:
        assert operator.url.startswith("https://127.0.0.1:")
        response, _ = await post(operator, KEYS, sealed(operator), ssl=client)
        assert response.status == 200


async def test_ipv6_has_brackets_in_its_url() -> None:
    try:
        async with running_operator(host="::1") as operator:
            assert operator.url.startswith("http://[::1]:")
            assert (await ask(operator, KEYS)).http_status == 200
    except OSError:
        pytest.skip("this machine has no IPv6")


async def test_a_port_in_use_is_an_error_and_leaves_nothing_behind(operator: DevOperator) -> None:
    port = int(operator.url.rpartition(":")[2])
    with pytest.raises(OSError, match="in use"):
        async with DevOperator(OperatorState(), port=port):
            pass
    assert (await ask(operator, KEYS)).http_status == 200


async def test_an_operator_in_a_thread_ends_with_its_block() -> None:
    with operator_in_thread() as operator:
        assert (await ask(operator, KEYS)).http_status == 200
    with pytest.raises(OSError, match="Connect call failed"):
        await asyncio.open_connection("127.0.0.1", int(operator.url.rpartition(":")[2]))
