"""Bearer, envelopes, paths and methods: what is the same for every endpoint."""

import asyncio
import os
import socket
import ssl
from collections.abc import AsyncIterator
from contextlib import suppress
from io import BytesIO

import aiohttp
import orjson
import pybase64
import pytest
import trustme

from bidstream_svc.core.crypto import Envelope, open_response, seal_request
from bidstream_svc.core.identity import IdentityScope
from bidstream_svc.devoperator import DevOperator, OperatorState, Role
from bidstream_svc.devoperator.endpoints import ENDPOINTS, Form
from tests.support.operator import Clock, ask, operator_in_thread, post, running_operator

KEYS, REFRESH = "/v2/key/bidstream", "/v2/token/refresh"
IN_ENVELOPES = [endpoint.path for endpoint in ENDPOINTS if endpoint.form is Form.ENVELOPE]
GUIDE = "https://unifiedid.com/docs/getting-started/gs-encryption-decryption"
HINT = f" See {GUIDE} for details on the request envelope format."
NOT_BASE64 = f"Invalid body: Body is not valid base64.{HINT}"
PLAIN_JSON = (
    "Invalid body: The request body is unencrypted JSON. It must be an encrypted request envelope. "
    f"See {GUIDE}#encryption-and-decryption-code-examples for encryption and decryption code examples."
)


@pytest.fixture
async def operator() -> AsyncIterator[DevOperator]:
    async with running_operator() as running:
        yield running


def sealed(operator: DevOperator, body: bytes = b"", *, timestamp_ms: int | None = None, binary: bool = False) -> bytes:
    now_ms = operator.state.now_ms() if timestamp_ms is None else timestamp_ms
    secret = pybase64.b64decode(operator.state.client_secret)
    return seal_request(secret, os.urandom(12), Envelope(now_ms, b"8 bytes.", body), binary=binary)


@pytest.mark.parametrize("path", IN_ENVELOPES)
async def test_every_endpoint_with_envelopes_wants_an_api_key(operator: DevOperator, path: str) -> None:
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
        assert orjson.loads(content) == {"status": "unauthorized"}


@pytest.mark.parametrize(
    ("path", "roles"),
    [
        ("/v2/key/bidstream", {Role.BIDDER}),
        ("/v2/key/sharing", {Role.BIDDER, Role.SHARER}),
        ("/v2/key/latest", {Role.BIDDER}),
        ("/v2/token/generate", {Role.GENERATOR}),
        ("/v2/token/validate", {Role.GENERATOR}),
        ("/v2/token/logout", {Role.OPTOUT}),
        ("/v2/identity/map", {Role.MAPPER}),
        ("/v3/identity/map", {Role.MAPPER}),
        ("/v2/identity/buckets", {Role.MAPPER}),
        ("/v2/optout/status", {Role.BIDDER, Role.MAPPER, Role.SHARER}),
    ],
)
async def test_an_api_key_without_the_role_is_refused_like_an_unknown_one(
    operator: DevOperator, path: str, roles: set[Role]
) -> None:
    clients = operator.state.clients
    for role, client in [*clients.with_one_role.items(), (None, clients.without_role)]:
        answer = await ask(operator, path, {"email": 7}, client=client)
        if role in roles:
            assert answer.http_status in {200, 400}
        else:
            assert answer == (401, {"status": "unauthorized"})
    assert path in IN_ENVELOPES


async def test_the_main_api_key_has_the_roles_that_it_is_given() -> None:
    async with running_operator(OperatorState(roles={Role.MAPPER})) as operator:
        assert (await ask(operator, KEYS)).http_status == 401
        assert (await ask(operator, "/v2/identity/map", {"email": []})).http_status == 200
        operator.state.rotate_credentials()
        assert (await ask(operator, KEYS)).http_status == 401


async def test_an_added_api_key_may_belong_to_another_site(operator: DevOperator) -> None:
    client = operator.state.clients.add(102, {Role.SHARER})
    assert (await ask(operator, "/v2/key/sharing", client=client)).body["caller_site_id"] == 102


@pytest.mark.parametrize("scheme", ["Bearer ", "bearer ", "BEARER ", " Bearer "])
async def test_the_scheme_may_be_in_any_case(operator: DevOperator, scheme: str) -> None:
    headers = {"Authorization": scheme + operator.state.api_key}
    assert (await post(operator, KEYS, sealed(operator), api_key="", headers=headers))[0].status == 200


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
    wire = sealed(operator).rstrip(b"=")  # padding may be missing
    response, content = await post(operator, KEYS, wire, headers=headers, skip_auto_headers=["Content-Type"])
    assert response.status == 200
    assert response.content_type == "text/plain"
    secret = pybase64.b64decode(operator.state.client_secret)
    assert b"keys" in open_response(secret, content, b"8 bytes.").body


async def test_a_content_type_with_parameters_means_base64(operator: DevOperator) -> None:
    headers = {"Content-Type": "application/octet-stream; q=1"}
    assert (await post(operator, KEYS, sealed(operator, binary=True), headers=headers))[0].status == 400
    assert (await post(operator, KEYS, sealed(operator), headers=headers))[0].content_type == "text/plain"


async def test_base64_is_read_in_spite_of_its_content_type(operator: DevOperator) -> None:
    headers = {"Content-Type": "Application/Octet-Stream"}
    response, _ = await post(operator, KEYS, sealed(operator), headers=headers)
    assert (response.status, response.content_type) == (200, "text/plain")
    response, _ = await post(operator, KEYS, sealed(operator, binary=True), headers=headers)
    assert (response.status, response.content_type) == (200, "application/octet-stream")


async def test_the_response_carries_the_operators_time(operator: DevOperator) -> None:
    operator.state.now_ms = Clock(1_700_000_000_000)
    _, content = await post(operator, KEYS, sealed(operator))
    secret = pybase64.b64decode(operator.state.client_secret)
    assert open_response(secret, content, b"8 bytes.").timestamp_ms == 1_700_000_000_000


@pytest.mark.parametrize(
    ("wire", "message"),
    [
        (b"", "Invalid body: Body is missing."),
        (b'{"email": "someone@example.com"}', PLAIN_JSON),
        (pybase64.b64encode(b"{}"), PLAIN_JSON),
        (pybase64.b64encode(b'{"email": "someone@example.com", "a": "0123456789"}'), PLAIN_JSON),
        (b" []", NOT_BASE64),
        (b"not base64!", NOT_BASE64),
        (b"AAA", f"Invalid body: Body too short. Check encryption method.{HINT}"),
        (b"A", NOT_BASE64),
        (b"AAA=\n", NOT_BASE64),
        (b"AA-_", NOT_BASE64),
        (
            pybase64.b64encode(b"\xff" + bytes(60)),
            f"Invalid body: Invalid request envelope format version: received 255, must be 1.{HINT}",
        ),
        (pybase64.b64encode(b"\x01" + bytes(60)), f"Invalid body: Check encryption key (ClientSecret).{HINT}"),
        (pybase64.b64encode(b"\x01" + bytes(43)), f"Invalid body: Body too short. Check encryption method.{HINT}"),
    ],
)
async def test_invalid_envelopes_are_refused_in_an_operators_words(
    operator: DevOperator, wire: bytes, message: str
) -> None:
    response, content = await post(operator, "/v2/token/generate", wire)
    assert response.status == 400
    assert orjson.loads(content) == {"status": "client_error", "message": message}


async def test_a_line_end_or_a_break_in_the_base64_is_refused(operator: DevOperator) -> None:
    good = sealed(operator)
    for wire in (good + b"\n", good + b"\r\n", b" " + good, good[:40] + b"\n" + good[40:]):
        response, content = await post(operator, KEYS, wire)
        assert (response.status, orjson.loads(content)["message"]) == (400, NOT_BASE64)


async def test_links_lead_to_the_own_programme() -> None:
    async with running_operator(OperatorState(scope=IdentityScope.EUID)) as euid:
        _, content = await post(euid, KEYS, b"not base64!")
        assert "See https://euid.eu/docs/" in orjson.loads(content)["message"]


@pytest.mark.parametrize(
    ("off_s", "is_accepted"), [(-119.999, True), (-120, False), (119, True), (119.001, False), (-86_400, False)]
)
async def test_a_timestamp_may_be_almost_two_minutes_off(
    operator: DevOperator, off_s: float, *, is_accepted: bool
) -> None:
    clock = operator.state.now_ms = Clock()
    response, content = await post(operator, KEYS, sealed(operator, timestamp_ms=clock() + round(off_s * 1000)))
    if is_accepted:
        assert response.status == 200
    else:
        message = "Invalid timestamp: Request too old or client time drift."
        assert (response.status, orjson.loads(content)) == (400, {"status": "client_error", "message": message})


@pytest.mark.parametrize("body", [b"nonsense", b"\xff", b"[1]", b"7", b"null", b" ", b'{"email":"a@b.c",}'])
async def test_a_body_that_is_not_a_json_object_is_refused(operator: DevOperator, body: bytes) -> None:
    response, content = await post(operator, "/v2/token/generate", sealed(operator, body))
    message = "Invalid payload in body: Data is not valid json string."
    assert (response.status, orjson.loads(content)) == (400, {"status": "client_error", "message": message})


async def test_an_unknown_path_is_answered_in_html(operator: DevOperator) -> None:
    response, content = await post(operator, "/v2/nothing", b"")
    assert (response.status, response.content_type) == (404, "text/html")
    assert content.startswith(b"<html>")


async def test_a_wrong_method_is_refused_without_a_body(operator: DevOperator) -> None:
    async with aiohttp.ClientSession() as session:
        for endpoint in ENDPOINTS:
            wrong = "PUT" if endpoint.method == "POST" else "POST"
            async with session.request(wrong, operator.url + endpoint.path) as refused:
                assert (refused.status, refused.headers["Allow"], await refused.read()) == (405, endpoint.method, b"")


async def test_a_request_may_have_a_mebibyte(operator: DevOperator) -> None:
    for path in (KEYS, REFRESH, "/v2/token/client-generate"):
        response, content = await post(operator, path, BytesIO(b"A" * (1024 * 1024 + 1)), api_key="")
        assert (response.status, content) == (413, b"Request Too Long")
        assert "json" not in response.content_type
        assert (await post(operator, path, BytesIO(b"A" * (1024 * 1024))))[0].status == 400


async def test_health(operator: DevOperator) -> None:
    async with aiohttp.ClientSession() as session, session.get(operator.url + "/ops/healthcheck") as response:
        assert (response.status, await response.read()) == (200, b"OK")


@pytest.mark.parametrize("path", [*IN_ENVELOPES, REFRESH, "/v2/token/client-generate", "/nothing"])
async def test_a_page_of_any_origin_may_call(operator: DevOperator, path: str) -> None:
    origin = {"Origin": "https://example.com"}
    response, _ = await post(operator, path, b"", headers=origin)
    assert response.headers["Access-Control-Allow-Origin"] == "https://example.com"
    assert response.headers["Vary"] == "origin"
    preflight = origin | {"Access-Control-Request-Method": "POST"}
    async with aiohttp.ClientSession() as session:
        async with session.options(operator.url + path, headers=preflight) as answer:
            assert (answer.status, await answer.read()) == (204, b"")
            assert answer.headers["Access-Control-Allow-Origin"] == "https://example.com"
            assert answer.headers["Access-Control-Allow-Methods"] == "GET,POST,OPTIONS"
            allowed = answer.headers["Access-Control-Allow-Headers"].split(",")
            assert {"X-UID2-Client-Version", "Content-Type"} <= set(allowed)
            assert ("Authorization" in allowed) is (path == "/v2/token/validate")
        async with session.options(operator.url + path, headers=origin) as no_preflight:
            assert no_preflight.status == (404 if path == "/nothing" else 405)
    assert operator.state.calls[path] == 2  # a preflight is not a call


async def test_without_an_origin_nothing_is_allowed(operator: DevOperator) -> None:
    response, _ = await post(operator, KEYS, sealed(operator))
    assert not [name for name in response.headers if name.startswith("Access-Control")]


async def test_calls_are_counted(operator: DevOperator) -> None:
    await ask(operator, KEYS)
    await ask(operator, KEYS)
    await post(operator, REFRESH, b"")
    assert operator.state.calls == {KEYS: 2, REFRESH: 1}


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


@pytest.mark.parametrize("iterations", range(6))
async def test_a_connection_that_comes_at_the_end_is_closed(iterations: int) -> None:
    """Whatever the event loop has already done for it."""
    async with running_operator() as operator:
        client = socket.create_connection(("127.0.0.1", int(operator.url.rpartition(":")[2])))
        for _ in range(iterations):
            await asyncio.sleep(0)
    with client, suppress(ConnectionResetError):
        client.setblocking(False)  # it has been closed already
        assert client.recv(1) == b""
