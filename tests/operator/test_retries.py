"""Which calls are retried, and what a retried request contains."""

import logging

import pytest
from tenacity import AsyncRetrying, RetryCallState

from bidstream_svc.core.errors import (
    BidstreamError,
    OperatorHttpError,
    OperatorNetworkError,
    OperatorRateLimitedError,
    OperatorTimeoutError,
)
from bidstream_svc.core.identity import Identity
from bidstream_svc.devoperator import Fault
from bidstream_svc.operator import Credentials, OperatorTransport, PublisherClient, RetryPolicy, fetch_keys
from tests.operator.support import FAST_RETRY, credentials_of, transport_to
from tests.support.operator import running_operator
from tests.support.raw_server import http_answer, raw_server

KEYS = "/v2/key/bidstream"
REFRESH = "/v2/token/refresh"


@pytest.mark.parametrize(
    "fault",
    [Fault.TOO_MANY_REQUESTS, Fault.SERVER_ERROR, Fault.HTML_ERROR, Fault.RESET, Fault.CUT_BODY],
)
async def test_repeatable_call_succeeds_after_faults(fault: Fault) -> None:
    async with running_operator() as operator, transport_to(operator, retry=FAST_RETRY) as transport:
        operator.state.faults.inject(fault, times=2)
        await fetch_keys(transport)
        assert operator.state.calls[KEYS] == 3


async def test_slow_answer_is_retried() -> None:
    async with (
        running_operator() as operator,
        transport_to(operator, retry=FAST_RETRY, read_timeout_s=1.0) as transport,
    ):
        operator.state.faults.inject(Fault.HANG_BEFORE_ANSWER)
        await fetch_keys(transport)
        assert operator.state.calls[KEYS] == 2


async def test_last_error_is_raised_after_the_last_attempt() -> None:
    async with running_operator() as operator, transport_to(operator, retry=FAST_RETRY) as transport:
        operator.state.faults.inject(Fault.TOO_MANY_REQUESTS, times=None)
        with pytest.raises(OperatorRateLimitedError):
            await fetch_keys(transport)
        assert operator.state.calls[KEYS] == 3


@pytest.mark.parametrize(
    "fault",
    [
        Fault.UNAUTHORIZED,
        Fault.FORBIDDEN,
        Fault.REDIRECT,
        Fault.HTML_PAGE,
        Fault.HUGE_BODY,
        Fault.WRONG_NONCE,
        Fault.WRONG_SECRET,
        Fault.NOT_JSON,
    ],
)
async def test_permanent_errors_are_not_retried(fault: Fault) -> None:
    async with running_operator() as operator, transport_to(operator, retry=FAST_RETRY) as transport:
        operator.state.faults.inject(fault)
        with pytest.raises(BidstreamError):
            await fetch_keys(transport)
        assert operator.state.calls[KEYS] == 1


@pytest.mark.parametrize(
    ("fault", "kind"),
    [
        (Fault.SERVER_ERROR, OperatorHttpError),
        (Fault.RESET, OperatorNetworkError),
        (Fault.CUT_BODY, OperatorNetworkError),
        (Fault.HANG_BEFORE_ANSWER, OperatorTimeoutError),
    ],
)
async def test_refresh_that_may_have_been_processed_is_not_repeated(fault: Fault, kind: type[Exception]) -> None:
    async with (
        running_operator() as operator,
        transport_to(operator, retry=FAST_RETRY, read_timeout_s=1.0) as transport,
    ):
        publisher = PublisherClient(transport)
        tokens = await publisher.generate_token(Identity.from_email("someone@example.com"))
        assert tokens is not None
        operator.state.faults.inject(fault, path=REFRESH)
        with pytest.raises(kind):
            await publisher.refresh_token(tokens)
        assert operator.state.calls[REFRESH] == 1


async def test_refresh_is_repeated_after_429() -> None:
    async with running_operator() as operator, transport_to(operator, retry=FAST_RETRY) as transport:
        publisher = PublisherClient(transport)
        tokens = await publisher.generate_token(Identity.from_email("someone@example.com"))
        assert tokens is not None
        operator.state.faults.inject(Fault.TOO_MANY_REQUESTS, path=REFRESH, times=2)
        assert await publisher.refresh_token(tokens) is not None
        assert operator.state.calls[REFRESH] == 3


async def test_refused_connection_is_tried_again_even_for_a_refresh() -> None:
    async with running_operator() as operator:
        transport = transport_to(operator, retry=FAST_RETRY)
    async with transport:
        error = OperatorNetworkError("refused", may_have_arrived=False)
        refresh = PublisherClient.refresh_token.__globals__["_REFRESH"]
        assert transport._should_retry(refresh, error) is True
        assert transport._should_retry(refresh, OperatorNetworkError("reset")) is False


async def test_retry_after_is_honoured_and_capped() -> None:
    async with (
        running_operator() as operator,
        raw_server(
            http_answer(b"", "Retry-After: 86400", status="429 Too Many Requests"),
            http_answer(b"", status="401 Unauthorized"),
        ) as server,
    ):
        credentials = credentials_of(operator.state)
        async with OperatorTransport(server.url, credentials, retry=FAST_RETRY) as transport:
            with pytest.raises(OperatorHttpError, match="401"):
                await fetch_keys(transport)
        assert len(server.requests) == 2
        assert wait_after(transport, OperatorRateLimitedError("", retry_after_s=0.004)) == 0.004


def wait_after(transport: OperatorTransport, error: Exception, attempts: int = 1) -> float:
    state = RetryCallState(AsyncRetrying(), None, (), {})
    state.attempt_number = attempts
    state.set_exception((type(error), error, None))
    return transport._wait_s(state)


async def test_waits_double_up_to_a_maximum_and_vary() -> None:
    policy = RetryPolicy(wait_initial_s=0.5, wait_max_s=3, wait_jitter_s=0)
    steady = OperatorTransport("https://prod.euid.eu", Credentials("key", bytes(32)), retry=policy)
    waits_s = [wait_after(steady, OperatorNetworkError("reset"), attempts) for attempts in range(1, 6)]
    assert waits_s == [0.5, 1, 2, 3, 3]
    varied = OperatorTransport("https://prod.euid.eu", Credentials("key", bytes(32)))
    assert len({wait_after(varied, OperatorNetworkError("reset")) for _ in range(20)}) > 1


async def test_no_attempt_begins_after_the_time_limit() -> None:
    async with running_operator() as operator:
        operator.state.faults.inject(Fault.SERVER_ERROR, times=None)
        policy = RetryPolicy(attempts=9, timeout_s=5, wait_initial_s=6, wait_max_s=6, wait_jitter_s=0)
        async with transport_to(operator, retry=policy) as transport:
            with pytest.raises(OperatorHttpError):
                await fetch_keys(transport)
        assert operator.state.calls[KEYS] == 1


async def test_a_retry_is_logged_without_what_the_operator_said(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.WARNING, "bidstream_svc.operator")
    async with running_operator() as operator, transport_to(operator, retry=FAST_RETRY) as transport:
        operator.state.faults.inject(Fault.SERVER_ERROR, times=2)
        await fetch_keys(transport)
    messages = [record.getMessage() for record in caplog.records if record.name.startswith("bidstream_svc.")]
    assert messages == [
        f"call of {KEYS} failed (OperatorHttpError) and is retried in {wait_s} s" for wait_s in ("0.001", "0.002")
    ]


async def test_each_attempt_asks_for_credentials_and_seals_anew() -> None:
    async with running_operator() as operator:
        stale, fresh = Credentials("stale", bytes(32)), credentials_of(operator.state)
        given = [stale, fresh]
        async with OperatorTransport(operator.url, lambda: given.pop(0), retry=FAST_RETRY) as transport:
            operator.state.faults.inject(Fault.SERVER_ERROR)
            await fetch_keys(transport)  # the second attempt came with the rotated secret
        assert not given
