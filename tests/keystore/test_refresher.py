"""Key refresh: failures keep the current keys, and retries succeed as soon as possible."""

import asyncio
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import asynccontextmanager
from functools import partial
from pathlib import Path
from typing import Any

import orjson
import pytest
from structlog.testing import capture_logs

from bidstream_svc.core.decrypt import decrypt
from bidstream_svc.core.errors import OperatorRateLimitedError
from bidstream_svc.core.kernel import IS_NATIVE
from bidstream_svc.core.key_response import parse_key_response
from bidstream_svc.devoperator import DevOperator, OperatorState
from bidstream_svc.devoperator.faults import Fault
from bidstream_svc.devoperator.key_endpoints import bidstream_keys
from bidstream_svc.keystore import refresher as refresher_module
from bidstream_svc.keystore.key_cache import KeyCache
from bidstream_svc.keystore.refresh_thread import RefreshThread
from bidstream_svc.keystore.refresher import KeyRefresher
from bidstream_svc.keystore.store import KeyStore, KeyStores
from bidstream_svc.metrics import MetricCells, RefreshResult
from bidstream_svc.metrics.cells import KEY_CELLS, CacheWriteResult, ScopeLabel
from bidstream_svc.operator.credentials import Credentials
from bidstream_svc.operator.key_fetch import FetchedKeys, fetch_keys
from bidstream_svc.operator.transport import OperatorTransport, RetryPolicy
from bidstream_svc.server.handlers import TokenDecryptor, answer_decrypt
from tests.support.operator import Clock, operator_in_thread, running_operator
from tests.support.sidecar import operator_settings, service_in_thread, wait_until

KEY_PATH = "/v2/key/bidstream"
Fetch = Callable[[], Awaitable[FetchedKeys]]


@pytest.fixture
async def operator() -> AsyncIterator[DevOperator]:
    async with running_operator() as running:
        yield running


PATIENCE_S = 60.0


def make_transport(operator: DevOperator, read_timeout_s: float = PATIENCE_S) -> OperatorTransport:
    state = operator.state
    return OperatorTransport(
        operator.url,
        lambda: Credentials.from_base64(state.api_key, state.client_secret),
        read_timeout_s=read_timeout_s,
        retry=RetryPolicy(attempts=1),
    )


@pytest.fixture
def store() -> KeyStore:
    return KeyStore()


@pytest.fixture
async def fetch(operator: DevOperator, store: KeyStore) -> AsyncIterator[Fetch]:
    async with make_transport(operator) as transport:
        yield lambda: fetch_keys(transport, previous=store.snapshot)


@pytest.fixture
def metrics() -> MetricCells:
    return MetricCells()


@pytest.fixture
def refresher(fetch: Fetch, store: KeyStore, metrics: MetricCells) -> KeyRefresher:
    return KeyRefresher(fetch, store, metrics, interval_s=3600)


def count(metrics: MetricCells, result: RefreshResult) -> int:
    return sum(metrics.row[cells.refreshes[result]] for cells in KEY_CELLS.values())


async def test_the_first_success_fills_the_store(
    refresher: KeyRefresher, store: KeyStore, metrics: MetricCells, operator: DevOperator
) -> None:
    started_ms = operator.state.now_ms()
    assert await refresher.refresh()
    assert store.snapshot is not None
    assert len(store.snapshot.keys) == 4
    assert not store.is_from_cache
    assert store.last_error is None
    assert store.last_success_ms is not None
    assert store.last_success_ms >= started_ms
    assert count(metrics, RefreshResult.SUCCESS) == 1


RESULTS = {
    Fault.SERVER_ERROR: RefreshResult.HTTP,
    Fault.UNAUTHORIZED: RefreshResult.UNAUTHORIZED,
    Fault.FORBIDDEN: RefreshResult.UNAUTHORIZED,
    Fault.TOO_MANY_REQUESTS: RefreshResult.HTTP,
    Fault.REDIRECT: RefreshResult.HTTP,
    Fault.HTML_ERROR: RefreshResult.HTTP,
    Fault.HTML_PAGE: RefreshResult.ENVELOPE,
    Fault.HANG_BEFORE_ANSWER: RefreshResult.NETWORK,
    Fault.HANG_IN_BODY: RefreshResult.NETWORK,
    Fault.RESET: RefreshResult.NETWORK,
    Fault.CUT_BODY: RefreshResult.NETWORK,
    Fault.TRUNCATED_BODY: RefreshResult.ENVELOPE,
    Fault.GARBAGE_BODY: RefreshResult.ENVELOPE,
    Fault.HUGE_BODY: RefreshResult.NETWORK,
    Fault.WRONG_NONCE: RefreshResult.ENVELOPE,
    Fault.WRONG_SECRET: RefreshResult.ENVELOPE,
    Fault.NOT_JSON: RefreshResult.INVALID,
    Fault.EXPIRED_KEYS: RefreshResult.INVALID,
    Fault.EMPTY_KEYS: RefreshResult.INVALID,
    Fault.OTHER_SCOPE: RefreshResult.INVALID,
}


HANGS = (Fault.HANG_BEFORE_ANSWER, Fault.HANG_IN_BODY)


@pytest.mark.parametrize("fault", Fault, ids=lambda fault: fault.name)
async def test_any_failure_keeps_the_keys_and_is_counted(
    refresher: KeyRefresher, store: KeyStore, metrics: MetricCells, operator: DevOperator, fault: Fault
) -> None:
    assert await refresher.refresh()
    held, last_success_ms = store.snapshot, store.last_success_ms
    operator.state.faults.inject(fault)

    # Only a hang is to meet the time-out: a good answer may take long where the machine is busy.
    with capture_logs() as log:
        async with make_transport(operator, 0.2 if fault in HANGS else PATIENCE_S) as transport:
            assert not await KeyRefresher(lambda: fetch_keys(transport), store, metrics, interval_s=3600).refresh()

    assert store.snapshot is held
    assert store.last_success_ms == last_success_ms
    assert store.last_error
    assert count(metrics, RESULTS[fault]) == 1
    (line,) = log
    assert (line["event"], line["result"], line["error"]) == ("key refresh failed", RESULTS[fault], store.last_error)
    assert line["has_keys"] is True

    assert await refresher.refresh()
    assert store.snapshot is not held
    assert store.last_error is None


@pytest.mark.parametrize("fault", [Fault.EMPTY_KEYS, Fault.EXPIRED_KEYS], ids=lambda fault: fault.name)
async def test_unusable_keys_are_rejected_even_before_the_first_keys(
    refresher: KeyRefresher, store: KeyStore, operator: DevOperator, fault: Fault
) -> None:
    operator.state.faults.inject(fault)
    assert not await refresher.refresh()
    assert store.snapshot is None
    assert "rejected" in (store.last_error or "")


async def test_what_is_malformed_is_skipped_counted_and_logged_once_a_refresh(
    store: KeyStore, metrics: MetricCells, operator: DevOperator
) -> None:
    good = bidstream_keys(operator.state, {})
    secret = good["body"]["keys"][1]["secret"]
    bad = orjson.loads(orjson.dumps(good))
    bad["body"]["keys"][1]["expires"] = "soon"
    bad["body"]["site_data"][0]["id"] = None
    responses = [bad, bad, good]

    async def fetch() -> FetchedKeys:
        return FetchedKeys(parse_key_response(orjson.dumps(responses.pop(0))), b"", b"")

    refresher = KeyRefresher(fetch, store, metrics, interval_s=3600)
    for _ in range(2):
        with capture_logs() as log:
            assert await refresher.refresh()
        assert store.snapshot is not None
        assert (len(store.snapshot.keys), metrics.row[KEY_CELLS[ScopeLabel.UID2].skipped]) == (3, 1)
        (line,) = [line for line in log if line["log_level"] == "warning"]
        assert (line["event"], line["keys"], line["sites"]) == ("malformed keys or sites skipped", 1, 1)
        assert [reason.partition(": ")[0] for reason in line["reasons"]] == ["keys[1]", "site_data[0]"]
        assert secret not in str(line)
        assert "soon" not in str(line)
    with capture_logs() as log:
        assert await refresher.refresh()
    assert [line for line in log if line["log_level"] == "warning"] == []
    assert metrics.row[KEY_CELLS[ScopeLabel.UID2].skipped] == 0


async def test_writes_of_the_cache_are_counted(
    fetch: Fetch, store: KeyStore, metrics: MetricCells, operator: DevOperator, tmp_path: Path
) -> None:
    directory = tmp_path / "later"
    cache = KeyCache(directory / "keys", lambda: bytes(32))
    refresher = KeyRefresher(fetch, store, metrics, cache=cache, interval_s=3600)

    def writes() -> tuple[int, int]:
        success, failure = (metrics.row[KEY_CELLS[ScopeLabel.UID2].cache_writes[result]] for result in CacheWriteResult)
        return success, failure

    assert await refresher.refresh(), "the keys are used all the same"
    assert writes() == (0, 1)
    directory.mkdir()
    assert await refresher.refresh()
    assert writes() == (1, 1)
    operator.state.faults.inject(Fault.SERVER_ERROR)
    assert not await refresher.refresh()
    assert writes() == (1, 1)


@pytest.mark.parametrize("has_kernel", {False, IS_NATIVE})
async def test_keys_without_a_master_key_that_is_in_use_are_refused(
    fetch: Fetch, store: KeyStore, operator: DevOperator, *, has_kernel: bool
) -> None:
    refresher = KeyRefresher(fetch, store, MetricCells(), interval_s=3600, has_kernel=has_kernel)
    keys = TokenDecryptor(KeyStores([store]), MetricCells(), on_unknown_key=lambda *_: None)
    state = operator.state

    def is_decrypted() -> bool:
        body = orjson.dumps({"token": state.mint_token()})
        return b"SUCCESS" in answer_decrypt(keys.bind(), body, state.now_ms())[1]

    assert await refresher.refresh()
    state.expire_keys()
    state.rotate_keys()
    assert await refresher.refresh()  # none of the old ones has opened a token
    held = store.keys
    assert is_decrypted()
    state.expire_keys()
    state.rotate_keys()
    assert not await refresher.refresh()
    assert store.keys is held
    assert (held.kernel is not None) == has_kernel
    assert "none of the master keys" in (store.last_error or "")


async def test_unused_master_keys_may_be_missing(
    refresher: KeyRefresher, store: KeyStore, operator: DevOperator
) -> None:
    state = operator.state
    assert await refresher.refresh()
    assert decrypt(state.mint_token(), None, store.snapshot, state.now_ms())[0] == "SUCCESS"
    assert await refresher.refresh()  # the same keys, whose ciphers are kept
    state.expire_keys()
    state.rotate_keys()
    assert await refresher.refresh()
    assert decrypt(state.mint_token(), None, store.snapshot, state.now_ms())[0] == "SUCCESS"


async def test_an_unexpected_exception_keeps_the_keys_and_its_message_is_not_shown(
    fetch: Fetch, store: KeyStore, metrics: MetricCells
) -> None:
    async def fail() -> FetchedKeys:
        raise ZeroDivisionError("kept-secret")

    assert await KeyRefresher(fetch, store, metrics, interval_s=1).refresh()
    held = store.snapshot
    with capture_logs() as log:
        assert not await KeyRefresher(fail, store, metrics, interval_s=1).refresh()
    assert store.snapshot is held
    assert store.last_error == "ZeroDivisionError"
    assert log[0]["error"] == "ZeroDivisionError"


@asynccontextmanager
async def running(refresher: KeyRefresher) -> AsyncIterator[None]:
    task = asyncio.create_task(refresher.run())
    try:
        yield
    finally:
        task.cancel()
        await asyncio.wait([task])


async def until(condition: Callable[[], object]) -> None:
    async with asyncio.timeout(30):
        while not condition():  # noqa: ASYNC110 - counts of another object
            await asyncio.sleep(0.005)


def has_called(operator: DevOperator, times: int) -> bool:
    return operator.state.calls[KEY_PATH] >= times


async def test_run_says_when_it_will_refresh_next(
    refresher: KeyRefresher, store: KeyStore, operator: DevOperator
) -> None:
    operator.state.faults.inject(Fault.SERVER_ERROR)
    async with running(refresher):
        await until(lambda: store.next_refresh_ms)
        assert store.next_refresh_ms is not None
        assert store.next_refresh_ms - operator.state.now_ms() <= 1_000
        await until(lambda: store.snapshot)
        await until(lambda: (store.next_refresh_ms or 0) - operator.state.now_ms() > 3_200_000)
        assert store.next_refresh_ms - operator.state.now_ms() <= 3_960_000


async def test_failures_in_a_row_are_counted(
    refresher: KeyRefresher, store: KeyStore, operator: DevOperator, monkeypatch: pytest.MonkeyPatch
) -> None:
    counts: list[int] = []

    def count_and_go_on(failures: int, *_: object, **__: object) -> float:
        counts.append(failures)
        return 0.0

    monkeypatch.setattr(refresher_module, "draw_back_off_s", count_and_go_on)
    operator.state.faults.inject(Fault.SERVER_ERROR, times=3)
    async with running(refresher):
        await until(lambda: store.snapshot)
        operator.state.faults.inject(Fault.SERVER_ERROR)
        refresher.wake()
        await until(lambda: len(counts) > 3)
    assert counts == [1, 2, 3, 1]


async def test_the_operator_says_when_to_ask_again(
    fetch: Fetch, store: KeyStore, metrics: MetricCells, operator: DevOperator
) -> None:
    errors = [OperatorRateLimitedError("too many requests", retry_after_s=30.0)]
    calls: list[None] = []

    async def fetch_after_errors() -> FetchedKeys:
        calls.append(None)
        if errors:
            raise errors.pop()
        return await fetch()

    refresher = KeyRefresher(fetch_after_errors, store, metrics, interval_s=3600, now_ms=lambda: 0)
    async with running(refresher):
        await until(lambda: store.next_refresh_ms)
        assert 30_000 <= (store.next_refresh_ms or 0) <= 31_000
        refresher.request()  # clients and tokens do not shorten that
        refresher.replan()
        await asyncio.sleep(0.05)
        assert len(calls) == 1
        refresher.wake()
        await until(lambda: store.snapshot)
        await until(lambda: (store.next_refresh_ms or 0) > 31_000)
        assert len(calls) == 2
        assert refresher.meet_unknown_key(operator.state.mint_token(master_key=operator.state.make_unlisted_key()))
        refresher._early.at_s = time.monotonic()  # without the spread
        refresher.replan()
        await until(lambda: len(calls) == 3)


async def test_wake_refreshes_now(refresher: KeyRefresher, store: KeyStore, operator: DevOperator) -> None:
    async with running(refresher):
        for calls in (1, 2, 3):
            await until(partial(has_called, operator, calls))
            await until(lambda: store.next_refresh_ms)
            store.next_refresh_ms = None
            refresher.wake()


async def test_it_refreshes_again_and_again(fetch: Fetch, store: KeyStore, operator: DevOperator) -> None:
    async with running(KeyRefresher(fetch, store, MetricCells(), interval_s=0.01)):
        await until(lambda: operator.state.calls[KEY_PATH] >= 5)


async def test_wall_clock_jumps_do_not_change_the_interval(
    fetch: Fetch, store: KeyStore, operator: DevOperator
) -> None:
    clock, calls = Clock(), operator.state.calls
    for jump_s in (-3600, 7200):
        async with running(KeyRefresher(fetch, store, MetricCells(), interval_s=0.02, now_ms=clock)):
            await until(lambda: store.next_refresh_ms)
            clock.advance(seconds=jump_s)
            before = calls[KEY_PATH]
            await until(partial(has_called, operator, before + 2))
        patient = KeyRefresher(fetch, store, MetricCells(), interval_s=3600, now_ms=clock)
        async with running(patient):
            before, store.next_refresh_ms = calls[KEY_PATH], None
            await until(lambda: store.next_refresh_ms)
            clock.advance(seconds=jump_s)
            store.next_refresh_ms = None
            patient.wake()
            await until(lambda: store.next_refresh_ms)
            assert calls[KEY_PATH] == before + 2


# The thread.


@pytest.fixture
def distant() -> Iterator[DevOperator]:
    """An operator in another thread, for a refresher that has its own thread."""
    with operator_in_thread() as running:
        yield running


def make_thread(operator: DevOperator, store: KeyStore) -> RefreshThread:
    @asynccontextmanager
    async def open_refresher() -> AsyncIterator[KeyRefresher]:
        async with make_transport(operator) as transport:
            yield KeyRefresher(lambda: fetch_keys(transport), store, MetricCells(), interval_s=3600)

    return RefreshThread(open_refresher)


def test_the_thread_refreshes_at_its_start_and_when_told_to(distant: DevOperator, store: KeyStore) -> None:
    thread = make_thread(distant, store)
    thread.refresh_soon()  # without effect before the start
    thread.start()
    wait_until(lambda: store.next_refresh_ms, "the first refresh")
    assert distant.state.calls[KEY_PATH] == 1
    thread.refresh_soon()
    wait_until(lambda: distant.state.calls[KEY_PATH] == 2, "the second refresh")
    thread.stop()
    thread.refresh_soon()  # without effect after the end
    assert distant.state.calls[KEY_PATH] == 2


def test_clients_ask_for_one_refresh_a_minute(distant: DevOperator, store: KeyStore) -> None:
    thread = make_thread(distant, store)
    thread.start()
    wait_until(lambda: store.next_refresh_ms, "the first refresh")
    assert thread._refresher is not None
    early = thread._refresher._early
    for calls, waited_s in [(2, 0.0), (2, 50.0), (3, 10.0), (3, 50.0), (4, 10.0)]:
        early.next_s -= waited_s
        for _ in range(1000):
            thread.refresh_for_clients()
        wait_until(partial(has_called, distant, calls), "another refresh")
    thread.stop()
    assert distant.state.calls[KEY_PATH] == 4


@pytest.mark.parametrize("fault", HANGS, ids=lambda fault: fault.name)
def test_the_thread_stops_while_the_operator_hangs(distant: DevOperator, store: KeyStore, fault: Fault) -> None:
    distant.state.faults.inject(fault, times=None)
    thread = make_thread(distant, store)
    thread.start()
    wait_until(lambda: distant.state.calls[KEY_PATH], "the call")
    thread.stop()
    assert store.snapshot is None


# The service.


def test_rotated_credential_files_are_picked_up(tmp_path: Path) -> None:
    files = {name: tmp_path / name for name in ("api_key", "client_secret")}
    state = OperatorState(seed=8)

    def write() -> None:
        for name, path in files.items():
            path.write_text(getattr(state, name) + "\n")

    write()
    with operator_in_thread(state) as operator:
        settings: dict[str, Any] = {f"{name}_file": str(path) for name, path in files.items()}
        settings["operator_url"] = operator.url
        with service_in_thread(**settings) as service:
            state.rotate_credentials()
            service.reload()
            wait_until(lambda: "401" in str(service.get("/info").json["last_refresh_error"]), "a refusal")
            assert service.get("/readyz").status == 200
            write()
            service.reload()
            wait_until(lambda: service.get("/info").json["last_refresh_error"] is None, "the new credentials to do")
            files["api_key"].unlink()
            service.reload()
            wait_until(lambda: service.get("/info").json["last_refresh_error"], "the missing file to be noticed")
            assert "BIDSTREAM_API_KEY_FILE" in service.get("/info").json["last_refresh_error"]
            assert service.decrypt(state.mint_token())["status"] == "SUCCESS"


def test_keys_are_loaded_once_the_operator_is_up(tmp_path: Path) -> None:
    state = OperatorState(seed=8)
    with operator_in_thread(state) as operator:
        settings = operator_settings(operator)
    with service_in_thread(started=False, **settings) as service:
        wait_until(lambda: service.get("/info").json["last_refresh_error"], "the first failure")
        with operator_in_thread(state, port=int(settings["operator_url"].rpartition(":")[2])):
            wait_until(lambda: service.get("/readyz").status == 200, "keys")
            assert service.decrypt(state.mint_token())["status"] == "SUCCESS"
