import asyncio
import os
import socket
import ssl
from collections.abc import AsyncIterator, Callable

import aiohttp
import pybase64
import pytest
import trustme
import uvloop

from bidstream_svc.core.crypto import Envelope, open_gcm, open_response, seal_request
from bidstream_svc.core.errors import EnvelopeError
from bidstream_svc.devoperator import DevOperator, Fault, Faults
from tests.support.operator import ask, operator_in_thread, post, running_operator

KEYS, SHARING, GENERATE, REFRESH = "/v2/key/bidstream", "/v2/key/sharing", "/v2/token/generate", "/v2/token/refresh"


@pytest.fixture
async def operator() -> AsyncIterator[DevOperator]:
    async with running_operator() as running:
        yield running


async def ask_keys(operator: DevOperator, **options: object) -> tuple[aiohttp.ClientResponse, bytes, bytes]:
    nonce, secret = os.urandom(8), pybase64.b64decode(operator.state.client_secret)
    wire = seal_request(secret, os.urandom(12), Envelope(operator.state.now_ms(), nonce, b""))
    response, content = await post(operator, KEYS, wire, **options)  # type: ignore[arg-type]
    return response, content, nonce


def test_injected_faults_occur_in_order_and_by_path() -> None:
    faults = Faults()
    faults.inject(Fault.RESET, path="/a", times=2)
    faults.inject(Fault.HTML_PAGE)
    assert faults.take("/b") is Fault.HTML_PAGE
    assert faults.take("/b") is None
    assert [faults.take("/a") for _ in range(3)] == [Fault.RESET, Fault.RESET, None]
    faults.inject(Fault.NOT_JSON, times=None)
    assert [faults.take(path) for path in "abc"] == [Fault.NOT_JSON] * 3
    faults.clear()
    assert faults.take("/a") is None


def test_faults_of_keys_wait_for_a_key_endpoint() -> None:
    faults = Faults()
    faults.inject(Fault.EMPTY_KEYS)
    assert faults.take(GENERATE) is None
    assert faults.take(SHARING) is Fault.EMPTY_KEYS


@pytest.mark.parametrize(
    ("fault", "http_status", "api_status"),
    [
        (Fault.SERVER_ERROR, 500, "error"),
        (Fault.UNAUTHORIZED, 401, "unauthorized"),
        (Fault.FORBIDDEN, 403, "unauthorized"),
        (Fault.TOO_MANY_REQUESTS, 429, "too_many_requests"),
    ],
)
async def test_an_error_is_json_and_occurs_once(
    operator: DevOperator, fault: Fault, http_status: int, api_status: str
) -> None:
    operator.state.faults.inject(fault, path=KEYS)
    answer = await ask(operator, KEYS)
    assert (answer.http_status, answer.json["status"]) == (http_status, api_status)
    assert (await ask(operator, KEYS)).http_status == 200


async def test_redirect(operator: DevOperator) -> None:
    operator.state.faults.inject(Fault.REDIRECT)
    response, _, _ = await ask_keys(operator)
    assert (response.status, response.headers["Location"]) == (302, "/redirected")


@pytest.mark.parametrize(("fault", "http_status"), [(Fault.HTML_ERROR, 502), (Fault.HTML_PAGE, 200)])
async def test_pages_of_a_proxy(operator: DevOperator, fault: Fault, http_status: int) -> None:
    operator.state.faults.inject(fault)
    response, content, _ = await ask_keys(operator)
    assert (response.status, response.content_type) == (http_status, "text/html")
    assert content.startswith(b"<!DOCTYPE html>")


@pytest.mark.parametrize(
    ("fault", "words"),
    [
        (Fault.GARBAGE_BODY, "not base64"),
        (Fault.TRUNCATED_BODY, "not base64|cannot be decrypted"),
        (Fault.WRONG_SECRET, "cannot be decrypted"),
        (Fault.WRONG_NONCE, "nonce does not match"),
    ],
)
async def test_answers_that_do_not_open(operator: DevOperator, fault: Fault, words: str) -> None:
    operator.state.faults.inject(fault)
    response, content, nonce = await ask_keys(operator)
    assert response.status == 200
    with pytest.raises(EnvelopeError, match=words):
        open_response(pybase64.b64decode(operator.state.client_secret), content, nonce)


async def test_an_envelope_around_something_else(operator: DevOperator) -> None:
    operator.state.faults.inject(Fault.NOT_JSON)
    _, content, nonce = await ask_keys(operator)
    body = open_response(pybase64.b64decode(operator.state.client_secret), content, nonce).body
    assert body.startswith(b"<!DOCTYPE html>")


async def test_a_refresh_response_under_another_key(operator: DevOperator) -> None:
    tokens = (await ask(operator, GENERATE, {"email": "someone@example.com"})).body
    operator.state.faults.inject(Fault.WRONG_SECRET, path=REFRESH)
    response, content = await post(operator, REFRESH, tokens["refresh_token"].encode())
    assert response.status == 200
    with pytest.raises(EnvelopeError):
        open_gcm(pybase64.b64decode(tokens["refresh_response_key"]), pybase64.b64decode(content))


@pytest.mark.parametrize("path", [KEYS, SHARING])
async def test_unusable_keys(operator: DevOperator, path: str) -> None:
    for fault in (Fault.EXPIRED_KEYS, Fault.EMPTY_KEYS, Fault.OTHER_SCOPE):
        operator.state.faults.inject(fault, path=path)
    expired, empty, other_scope, right = [(await ask(operator, path)).body for _ in range(4)]
    assert len(expired["keys"]) == 4
    assert all(key["expires"] < operator.state.now_s() for key in expired["keys"])
    assert empty["keys"] == []
    assert other_scope["identity_scope"] == "EUID"
    assert right["identity_scope"] == "UID2"
    assert all(key["expires"] > operator.state.now_s() for key in right["keys"])


async def test_a_huge_answer(operator: DevOperator) -> None:
    operator.state.faults.inject(Fault.HUGE_BODY)
    response, content, _ = await ask_keys(operator)
    assert response.content_length is None
    assert len(content) == 17 * 1024 * 1024


async def test_a_client_may_leave_in_the_middle_of_a_huge_answer(
    operator: DevOperator, caplog: pytest.LogCaptureFixture
) -> None:
    operator.state.faults.inject(Fault.HUGE_BODY)
    async with aiohttp.ClientSession() as session, session.post(operator.url + KEYS) as response:
        assert len(await response.content.readexactly(1000)) == 1000
        response.close()
    assert (await ask(operator, KEYS)).http_status == 200
    assert not caplog.records


@pytest.mark.parametrize("fault", [Fault.RESET, Fault.CUT_BODY])
async def test_connections_that_break(operator: DevOperator, fault: Fault) -> None:
    operator.state.faults.inject(fault, times=None)
    with pytest.raises(aiohttp.ClientError):
        await ask_keys(operator)
    operator.state.faults.clear()
    assert (await ask(operator, KEYS)).http_status == 200


@pytest.mark.parametrize("new_loop", [asyncio.new_event_loop, uvloop.new_event_loop])
def test_a_reset_is_a_reset(new_loop: Callable[[], asyncio.AbstractEventLoop]) -> None:
    with operator_in_thread(loop=new_loop()) as operator:
        operator.state.faults.inject(Fault.RESET)
        with socket.create_connection(("127.0.0.1", int(operator.url.rpartition(":")[2])), timeout=10) as connection:
            connection.sendall(b"POST /v2/key/bidstream HTTP/1.1\r\nHost: a\r\nContent-Length: 0\r\n\r\n")
            with pytest.raises(ConnectionResetError):
                connection.recv(1000)


async def test_a_reset_over_tls() -> None:
    authority = trustme.CA()
    server, client = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH), ssl.create_default_context()
    authority.issue_cert("127.0.0.1").configure_cert(server)
    authority.configure_trust(client)
    async with running_operator(ssl_context=server) as operator:
        operator.state.faults.inject(Fault.RESET, times=None)
        with pytest.raises(aiohttp.ClientError):
            await ask_keys(operator, ssl=client)


@pytest.mark.parametrize("fault", [Fault.HANG_BEFORE_ANSWER, Fault.HANG_IN_BODY])
async def test_hanging_answers_end_when_the_client_leaves_or_the_operator_ends(fault: Fault) -> None:
    async with running_operator() as operator:
        operator.state.faults.inject(fault, times=None)
        leaving, staying = (asyncio.create_task(ask_keys(operator)) for _ in range(2))
        async with asyncio.timeout(30):
            while operator.state.calls[KEYS] < 2:  # noqa: ASYNC110 - the operator counts, it has no event
                await asyncio.sleep(0.001)
        leaving.cancel()
        with pytest.raises(asyncio.CancelledError):
            await leaving
        assert not staying.done()
    with pytest.raises(aiohttp.ClientError):
        await staying


async def test_half_of_the_body_comes_before_the_hang(operator: DevOperator) -> None:
    operator.state.faults.inject(Fault.HANG_IN_BODY)
    secret = pybase64.b64decode(operator.state.client_secret)
    wire = seal_request(secret, os.urandom(12), Envelope(operator.state.now_ms(), bytes(8), b""))
    headers = {"Authorization": f"Bearer {operator.state.api_key}", "Content-Type": "text/plain"}
    async with (
        aiohttp.ClientSession() as session,
        session.post(operator.url + KEYS, data=wire, headers=headers) as response,
    ):
        assert response.content_length is not None
        half = await response.content.readexactly(response.content_length // 2)
    assert not pybase64.b64decode(half).startswith(b"{")
