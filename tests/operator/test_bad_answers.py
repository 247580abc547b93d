"""Every invalid answer raises a clear error and has its label in the refresh metric."""

import contextlib
import socket
import ssl
from datetime import UTC, datetime, timedelta
from typing import Any

import aiohttp
import pytest
import trustme

from bidstream_svc.core import errors
from bidstream_svc.devoperator import Fault, OperatorState
from bidstream_svc.keystore.refresher import classify_failure
from bidstream_svc.operator import Credentials, OperatorTransport, fetch_keys
from bidstream_svc.operator.network_errors import explain_network_error
from tests.operator.support import ONCE, transport_to
from tests.support.operator import running_operator
from tests.support.raw_server import http_answer, raw_server

CREDENTIALS = Credentials("key", bytes(32))


@pytest.mark.parametrize(
    ("fault", "kind", "message", "result"),
    [
        (Fault.SERVER_ERROR, errors.OperatorHttpError, "answered 500 .Internal error", "http"),
        (Fault.UNAUTHORIZED, errors.OperatorUnauthorizedError, "401: check the API key", "unauthorized"),
        (Fault.FORBIDDEN, errors.OperatorUnauthorizedError, "403 .*: check the API key", "unauthorized"),
        (Fault.TOO_MANY_REQUESTS, errors.OperatorRateLimitedError, "429 .Too many requests", "http"),
        (Fault.REDIRECT, errors.OperatorRedirectError, "302, and redirects are not followed", "http"),
        (Fault.HTML_ERROR, errors.OperatorHttpError, "answered 502$", "http"),
        (Fault.HTML_PAGE, errors.EnvelopeError, "an HTML page", "envelope"),
        (Fault.RESET, errors.OperatorNetworkError, "closed the connection|failed: Connection reset", "network"),
        (Fault.CUT_BODY, errors.OperatorNetworkError, "ended early", "network"),
        (Fault.TRUNCATED_BODY, errors.EnvelopeError, "cannot be decrypted|not base64", "envelope"),
        (Fault.GARBAGE_BODY, errors.EnvelopeError, "not base64", "envelope"),
        (Fault.HUGE_BODY, errors.OperatorOversizeError, "larger than 16777216 bytes", "network"),
        (Fault.WRONG_NONCE, errors.EnvelopeError, "nonce does not match", "envelope"),
        (Fault.WRONG_SECRET, errors.EnvelopeError, "cannot be decrypted", "envelope"),
        (Fault.NOT_JSON, errors.KeyResponseError, "key response", "invalid"),
    ],
)
async def test_bad_answer(fault: Fault, kind: type[Exception], message: str, result: str) -> None:
    async with running_operator() as operator, transport_to(operator) as transport:
        operator.state.faults.inject(fault)
        with pytest.raises(kind, match=message) as caught:
            await fetch_keys(transport)
        assert type(caught.value) is kind
        assert classify_failure(caught.value) == result
        await fetch_keys(transport)  # and the transport is as good as before
    assert operator.state.calls["/redirected"] == 0


@pytest.mark.parametrize("fault", [Fault.HANG_BEFORE_ANSWER, Fault.HANG_IN_BODY])
@pytest.mark.parametrize("timeouts", [{"read_timeout_s": 0.1}, {"total_timeout_s": 0.1}])
async def test_slow_answer(fault: Fault, timeouts: dict[str, Any]) -> None:
    async with running_operator() as operator, transport_to(operator, **timeouts) as transport:
        operator.state.faults.inject(fault)
        with pytest.raises(errors.OperatorTimeoutError, match="did not answer in time") as caught:
            await fetch_keys(transport)
        assert classify_failure(caught.value) == "network"


async def test_cap_on_announced_length() -> None:
    answer = http_answer(b"", "", content_type="text/plain").replace(b"Content-Length: 0", b"Content-Length: 99999999")
    async with raw_server(answer) as server, OperatorTransport(server.url, CREDENTIALS, retry=ONCE) as transport:
        with pytest.raises(errors.OperatorOversizeError):
            await fetch_keys(transport)


async def test_not_http() -> None:
    async with (
        raw_server(b"220 mail.example.com ESMTP\r\n") as server,
        OperatorTransport(server.url, CREDENTIALS, retry=ONCE) as transport,
    ):
        with pytest.raises(errors.OperatorNetworkError, match="not HTTP"):
            await fetch_keys(transport)


async def test_connection_refused() -> None:
    async with raw_server(b"") as server:
        url = server.url
    async with OperatorTransport(url, CREDENTIALS, retry=ONCE) as transport:
        with pytest.raises(
            errors.OperatorNetworkError, match="cannot connect to the operator: Connection refused"
        ) as caught:
            await fetch_keys(transport)
        assert not caught.value.may_have_arrived


async def test_connection_that_is_never_accepted() -> None:
    with socket.create_server(("127.0.0.1", 0), backlog=0) as server, contextlib.ExitStack() as stack:
        for _ in range(3):  # a full backlog: the kernel drops further SYNs
            filling = stack.enter_context(socket.socket())
            filling.setblocking(False)
            filling.connect_ex(server.getsockname())
        url = "http://{}:{}".format(*server.getsockname())
        async with OperatorTransport(url, CREDENTIALS, retry=ONCE, connect_timeout_s=0.2) as transport:
            with pytest.raises(errors.OperatorTimeoutError, match="did not accept the connection") as caught:
                await fetch_keys(transport)
            assert not caught.value.may_have_arrived


def tls_context(authority: trustme.CA) -> ssl.SSLContext:
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    authority.issue_cert("127.0.0.1").configure_cert(context)
    return context


async def test_tls_with_a_trusted_certificate_and_with_another() -> None:
    authority = trustme.CA()
    trusting = ssl.create_default_context()
    authority.configure_trust(trusting)
    async with running_operator(OperatorState(seed=1), ssl_context=tls_context(authority)) as operator:
        async with transport_to(operator, ssl=trusting) as transport:
            await fetch_keys(transport)
        async with transport_to(operator) as transport:
            with pytest.raises(errors.OperatorNetworkError) as caught:
                await fetch_keys(transport)
            assert str(caught.value) == "the operator's TLS certificate is not trusted"
            assert not caught.value.may_have_arrived


@pytest.mark.parametrize(
    ("host", "begins_days", "ends_days", "problem"),
    [
        ("127.0.0.1", -2, -1, "has expired"),
        ("127.0.0.1", 1, 2, "is not valid yet"),
        ("127.0.0.2", -1, 1, "is for another address"),
    ],
)
async def test_what_is_wrong_with_a_certificate_is_told(
    host: str, begins_days: int, ends_days: int, problem: str
) -> None:
    authority, now = trustme.CA(), datetime.now(UTC).replace(microsecond=0)
    leaf = authority.issue_cert(
        host, not_before=now + timedelta(days=begins_days), not_after=now + timedelta(days=ends_days)
    )
    served = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    leaf.configure_cert(served)
    trusting = ssl.create_default_context()
    authority.configure_trust(trusting)
    async with (
        running_operator(OperatorState(seed=1), ssl_context=served) as operator,
        transport_to(operator, ssl=trusting) as transport,
    ):
        with pytest.raises(errors.OperatorNetworkError) as caught:
            await fetch_keys(transport)
    assert str(caught.value) == f"the operator's TLS certificate {problem}"


async def test_tls_to_a_server_without() -> None:
    async with running_operator() as operator:
        url = operator.url.replace("http:", "https:")
        async with OperatorTransport(url, CREDENTIALS, retry=ONCE) as transport:
            with pytest.raises(errors.OperatorNetworkError) as caught:
                await fetch_keys(transport)
    assert str(caught.value) == "TLS handshake with the operator failed: it may serve plain http"


@pytest.mark.parametrize(
    ("error", "message"),
    [
        # A look-up that fails would leave the machine; these are what aiohttp raises then.
        (aiohttp.ClientConnectorDNSError, "the operator's host name cannot be resolved"),
        (aiohttp.ClientConnectorError, "cannot connect to the operator"),
    ],
)
def test_other_network_errors(error: Any, message: str) -> None:
    key = aiohttp.client_reqrep.ConnectionKey("operator.invalid", 443, True, True, None, None, None)
    failure = socket.gaierror(socket.EAI_FAMILY, "quotes the name")
    assert str(explain_network_error(error(key, failure))) == message
    assert str(explain_network_error(aiohttp.ClientError("Bearer hidden"))) == "call to the operator failed"


async def test_transport_must_be_entered() -> None:
    with pytest.raises(RuntimeError, match="async with"):
        await fetch_keys(OperatorTransport("https://prod.euid.eu", CREDENTIALS))
