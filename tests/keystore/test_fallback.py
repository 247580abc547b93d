"""The fallback of an operator: asked when the first URL does not answer, and only then."""

import socket
from collections.abc import Iterator
from typing import Any

import pytest
from structlog.testing import capture_logs

from bidstream_svc.config import load_settings
from bidstream_svc.core.errors import BidstreamError, OperatorRateLimitedError, OperatorUnauthorizedError
from bidstream_svc.devoperator import DevOperator, Fault, OperatorState
from bidstream_svc.keystore.key_client import KeyClient
from bidstream_svc.keystore.key_source import fetch_once
from bidstream_svc.keystore.refresher_setup import open_refresher
from bidstream_svc.keystore.store import KeyStore
from bidstream_svc.metrics import MetricCells
from bidstream_svc.metrics.cells import KEY_CELLS, ScopeLabel
from bidstream_svc.operator.from_settings import credentials_reader
from bidstream_svc.operator.transport import OperatorTransport, RetryPolicy
from bidstream_svc.operator_settings import OperatorSettings
from tests.support.operator import operator_in_thread
from tests.support.sidecar import DEADLINE_S, operator_settings

KEYS = "/v2/key/bidstream"
ONCE = RetryPolicy(attempts=1)


@pytest.fixture
def operators() -> Iterator[tuple[DevOperator, DevOperator]]:
    """Two addresses of the same operator: equal seeds have equal keys and credentials."""
    with operator_in_thread(OperatorState(seed=1)) as first, operator_in_thread(OperatorState(seed=1)) as second:
        yield first, second


def settings_of(first: str, second: DevOperator, prefix: str = "", **more: Any) -> OperatorSettings:
    """The settings with which `first` is asked, and then `second`."""
    of_second = operator_settings(second) | {"operator_url": first, "operator_fallback_url": second.url} | more
    return load_settings(**{prefix + name: value for name, value in of_second.items()}).only_operator


def closed_port() -> str:
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]
    return f"http://127.0.0.1:{port}"


@pytest.mark.parametrize("fault", [Fault.SERVER_ERROR, Fault.HTML_ERROR, Fault.RESET, Fault.CUT_BODY], ids=str)
async def test_fallback_answers_what_the_first_does_not(
    operators: tuple[DevOperator, DevOperator], fault: Fault
) -> None:
    first, second = operators
    used: list[bool] = []
    async with KeyClient(settings_of(first.url, second), ONCE, on_fallback=lambda: used.append(True)) as client:
        first.state.faults.inject(fault)
        assert (await client.fetch()).snapshot.keys
        assert (first.state.calls[KEYS], second.state.calls[KEYS], len(used)) == (1, 1, 1)
        assert (await client.fetch()).snapshot.keys  # the first is tried again each time
        assert (first.state.calls[KEYS], second.state.calls[KEYS], len(used)) == (2, 1, 1)


async def test_fallback_answers_if_the_first_does_not_in_time(
    operators: tuple[DevOperator, DevOperator], monkeypatch: pytest.MonkeyPatch
) -> None:
    first, second = operators

    def make_impatient(
        operator: OperatorSettings, retry: RetryPolicy | None, *, total_timeout_s: float
    ) -> OperatorTransport:
        assert operator.operator_url is not None
        return OperatorTransport(
            operator.operator_url,
            credentials_reader(operator),
            read_timeout_s=0.2 if operator.operator_url == first.url else DEADLINE_S,
            retry=retry,
            total_timeout_s=total_timeout_s,
        )

    monkeypatch.setattr("bidstream_svc.keystore.key_client.make_transport", make_impatient)
    first.state.faults.inject(Fault.HANG_BEFORE_ANSWER)
    async with KeyClient(settings_of(first.url, second), ONCE) as client:
        assert (await client.fetch()).snapshot.keys
    assert (first.state.calls[KEYS], second.state.calls[KEYS]) == (1, 1)


@pytest.mark.parametrize("prefix", ["", "uid2_"])
def test_fallback_answers_if_there_is_no_connection(operators: tuple[DevOperator, DevOperator], prefix: str) -> None:
    _, second = operators
    assert fetch_once(settings_of(closed_port(), second, prefix)).keys


@pytest.mark.parametrize(
    ("fault", "error"),
    [
        (Fault.UNAUTHORIZED, OperatorUnauthorizedError),
        (Fault.FORBIDDEN, OperatorUnauthorizedError),
        (Fault.TOO_MANY_REQUESTS, OperatorRateLimitedError),
        (Fault.HUGE_BODY, BidstreamError),
        (Fault.WRONG_SECRET, BidstreamError),
        (Fault.NOT_JSON, BidstreamError),
    ],
    ids=str,
)
async def test_an_answer_is_not_replaced(
    operators: tuple[DevOperator, DevOperator], fault: Fault, error: type[Exception]
) -> None:
    first, second = operators
    first.state.faults.inject(fault)
    async with KeyClient(settings_of(first.url, second), ONCE) as client:
        with pytest.raises(error):
            await client.fetch()
    assert second.state.calls[KEYS] == 0


async def test_refresh_counts_and_logs_the_fallback_in_one_line(
    operators: tuple[DevOperator, DevOperator],
) -> None:
    _, second = operators
    store, metrics = KeyStore(), MetricCells()
    with capture_logs() as lines:
        async with open_refresher(settings_of(closed_port(), second), store, metrics, interval_s=3600) as refresher:
            assert await refresher.refresh()
            second.state.faults.inject(Fault.SERVER_ERROR)
            assert not await refresher.refresh()
    assert store.snapshot is not None
    assert sum(metrics.row[KEY_CELLS[label].fallbacks] for label in ScopeLabel) == 1
    events = [line["event"] for line in lines]
    assert events.count("the operator's fallback answers") == 1
    assert events.count("neither the operator nor its fallback answers") == 1


def test_the_url_is_checked_as_that_of_the_operator(operators: tuple[DevOperator, DevOperator]) -> None:
    _, second = operators
    for name in ("operator_fallback_url", "euid_operator_fallback_url"):
        with pytest.raises(BidstreamError, match=f"BIDSTREAM_{name.upper()}"):
            load_settings(**{name: "http://keys.example"})
    with pytest.raises(BidstreamError, match="BIDSTREAM_UID2_OPERATOR_FALLBACK_URL"):
        load_settings(**operator_settings(second), uid2_operator_fallback_url=second.url)
