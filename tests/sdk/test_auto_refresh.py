"""The thread that refreshes keys, with a client at the embedded operator and with one that fails."""

import time
from collections.abc import Callable, Iterator
from datetime import UTC, datetime, timedelta

import pytest

from bidstream_svc.devoperator import DevOperator, Fault
from bidstream_svc.sdk import (
    BidstreamClient,
    EncryptionKeysAutoRefresher,
    RefreshResponse,
    SharingClient,
    Uid2ClientError,
)
from tests.support.operator import operator_in_thread

HOUR, MOMENT = timedelta(hours=1), timedelta(milliseconds=10)
DEADLINE_S = 30


def wait_until(condition: Callable[[], object]) -> None:
    deadline = time.monotonic() + DEADLINE_S
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.005)


@pytest.fixture
def operator() -> Iterator[DevOperator]:
    with operator_in_thread() as running:
        yield running


@pytest.mark.parametrize("kind", [BidstreamClient, SharingClient])
def test_keys_are_fetched_at_once_and_again(operator: DevOperator, kind: type[BidstreamClient | SharingClient]) -> None:
    state = operator.state
    client = kind(operator.url, state.api_key, state.client_secret)
    refresher = EncryptionKeysAutoRefresher(client, MOMENT, HOUR)
    first = refresher.current_result()
    assert (first.ready, first.keys, first.last_success_time) == (False, None, None)
    assert first.last_error is not None
    with refresher:
        wait_until(lambda: state.calls.total() >= 3)
        result = refresher.current_result()
        assert result.ready
        assert result.last_error is None
        assert result.last_success_time is not None
        assert abs(result.last_success_time - datetime.now(UTC)) < timedelta(seconds=DEADLINE_S)
        assert result.keys is not None
    assert not refresher.is_alive()
    client.close()


def test_a_failure_is_told_the_keys_stay_and_the_next_attempt_comes_sooner(operator: DevOperator) -> None:
    state = operator.state
    client = BidstreamClient(operator.url, state.api_key, state.client_secret)
    with EncryptionKeysAutoRefresher(client, MOMENT, MOMENT) as refresher:
        wait_until(lambda: refresher.current_result().ready)
        state.faults.inject(Fault.UNAUTHORIZED, times=None)
        wait_until(lambda: refresher.current_result().last_error is not None)
        result = refresher.current_result()
        assert result.last_error is not None
        kind, error, _ = result.last_error
        assert issubclass(kind, Uid2ClientError)
        assert "401" in str(error)
        assert result.keys is not None
        assert result.last_success_time is not None
        assert client.decrypt_token_into_raw_uid(state.mint_token(), None).success
        state.faults.clear()
        wait_until(lambda: refresher.current_result().last_error is None)
    client.close()


class FailingClient:
    def refresh(self) -> RefreshResponse:
        raise RuntimeError("not expected of a client")


def test_an_exception_does_not_end_the_thread() -> None:
    with EncryptionKeysAutoRefresher(FailingClient(), HOUR, MOMENT) as refresher:
        first = refresher.current_result()
        wait_until(lambda: refresher.current_result() is not first)
        second = refresher.current_result()
        wait_until(lambda: refresher.current_result() is not second)
        assert second.last_error is not None
        assert second.last_error[0] is RuntimeError
        assert refresher.is_alive()


def test_cancel_ends_a_long_wait(operator: DevOperator) -> None:
    client = BidstreamClient(operator.url, operator.state.api_key, operator.state.client_secret)
    refresher = EncryptionKeysAutoRefresher(client, HOUR, HOUR)
    refresher.start()
    wait_until(lambda: refresher.current_result().ready)
    refresher.cancel()
    refresher.join(DEADLINE_S)
    assert not refresher.is_alive()
    client.close()
