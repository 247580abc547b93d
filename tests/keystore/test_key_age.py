"""How old the keys may be that a refresher asks for; only a relay, which keeps keys, reads that."""

import asyncio
import time
from collections.abc import Awaitable, Callable

import orjson
import pytest

from bidstream_svc.core.key_response import parse_key_response
from bidstream_svc.devoperator import OperatorState
from bidstream_svc.devoperator.key_endpoints import bidstream_keys
from bidstream_svc.keystore.refresher import KeyRefresher
from bidstream_svc.keystore.store import KeysInUse, KeyStore
from bidstream_svc.metrics import MetricCells
from bidstream_svc.operator.key_fetch import FetchedKeys, ask_for_age, read_age, read_relayed_age
from bidstream_svc.operator.relay_path import draw_relay_name, read_relays, via_of

_INTERVAL_S = 3600.0
_PATIENCE_S = 60.0


def _good_keys() -> FetchedKeys:
    return _keys_of(OperatorState(seed=1))


def _keys_of(state: OperatorState) -> FetchedKeys:
    json = orjson.dumps(bidstream_keys(state, {}))
    return FetchedKeys(parse_key_response(json), b"", json)


def _unknown_token() -> str:
    state = OperatorState(seed=1)
    return state.mint_token(master_key=state.make_unlisted_key())


def _refresher(fetch: Callable[[], Awaitable[FetchedKeys]], store: KeyStore) -> KeyRefresher:
    return KeyRefresher(fetch, store, MetricCells(), interval_s=_INTERVAL_S)


async def test_ages_of_scheduled_and_requested_refreshes() -> None:
    asked: list[float | None] = []
    has_asked = asyncio.Event()
    fails = [False, False, True, False]

    async def fetch() -> FetchedKeys:
        asked.append(refresher.max_age_s)
        has_asked.set()
        if fails[len(asked) - 1]:
            raise OSError
        return _good_keys()

    refresher = _refresher(fetch, KeyStore())
    running = asyncio.create_task(refresher.run())
    try:
        async with asyncio.timeout(_PATIENCE_S):
            await has_asked.wait()
            has_asked.clear()
            refresher.wake()  # the next refresh is for the newest, and so is its repetition after a failure
            while len(asked) < len(fails):
                await has_asked.wait()
                has_asked.clear()
                if len(asked) == 2:
                    refresher.wake()
    finally:
        running.cancel()
    assert asked == [_INTERVAL_S, None, None, None]


async def test_an_unknown_key_during_failures_asks_for_the_newest() -> None:
    fails, has_failed = True, asyncio.Event()

    async def fetch() -> FetchedKeys:
        if fails:
            has_failed.set()
            raise OSError
        return _good_keys()

    refresher = _refresher(fetch, KeyStore(KeysInUse(_good_keys().snapshot)))
    running = asyncio.create_task(refresher.run())
    try:
        async with asyncio.timeout(_PATIENCE_S):
            await has_failed.wait()
        assert refresher.max_age_s is not None
        assert refresher.meet_unknown_key(_unknown_token())
        assert refresher.max_age_s is None
    finally:
        running.cancel()
    fails = False
    assert await refresher.refresh()
    assert refresher.max_age_s is not None


async def test_no_older_keys_than_the_last_ones() -> None:
    async def fetch() -> FetchedKeys:
        return _good_keys()

    refresher = _refresher(fetch, KeyStore())
    assert await refresher.refresh()
    age_s = refresher.max_age_s
    assert age_s is not None
    assert 0 <= age_s < _PATIENCE_S


async def test_keys_of_a_cache_may_be_newer_than_those_of_a_relay() -> None:
    async def fetch() -> FetchedKeys:
        return _good_keys()

    store = KeyStore(KeysInUse(_good_keys().snapshot))
    store.is_from_cache = True
    refresher = _refresher(fetch, store)
    assert refresher.max_age_s is None
    assert await refresher.refresh()
    assert refresher.max_age_s is not None


async def test_older_keys_of_a_relay_do_not_replace_newer_ones() -> None:
    state = OperatorState(seed=1)
    old = _keys_of(state)
    state.rotate_keys()
    new = _keys_of(state)
    now_s = time.monotonic()
    answers = [
        (old, now_s - 100),
        (new, now_s - 50),
        (old, now_s - 60),
        (new, now_s - 50.9),  # the same: `Age` has whole seconds
        (old, now_s - 60),
        (old, now_s - 2**31),
        (new, None),  # of an operator
        (old, now_s - 1.5),
        (new, None),
    ]
    asked = iter(answers)

    async def fetch() -> FetchedKeys:
        fetched, relayed_s = next(asked)
        return fetched._replace(relayed_s=relayed_s)

    used: list[FetchedKeys] = []
    store = KeyStore()
    refresher = _refresher(fetch, store)
    refresher.on_keys = used.append
    for place, (fetched, _) in enumerate(answers):
        assert await refresher.refresh()
        assert store.snapshot is not None
        expected = old if place == 0 else new
        assert store.snapshot.keys.keys() == expected.snapshot.keys.keys(), place
        assert (used[-1].json == fetched.json) == (fetched is expected), place
    assert len(used) == 5


@pytest.mark.parametrize("age_s", [None, 0.0, 3600.0])
def test_header_is_read_back(age_s: float | None) -> None:
    assert read_age(ask_for_age(age_s).get("Cache-Control", "")) == age_s


@pytest.mark.parametrize("header", ["", "no-cache", "max-age=", "max-age=-1", "max-age=1, no-cache", "max-age=\u0661"])
def test_anything_else_asks_for_the_newest(header: str) -> None:
    assert read_age(header) is None


@pytest.mark.parametrize(
    ("via", "suffixes"),
    [
        ("1.1 bidstream-svc-relay", [""]),
        ("1.1 bidstream-svc-relay-0a1b", ["-0a1b"]),
        ("1.0 cache.example (squid), HTTP/1.1 Bidstream-Svc-Relay-0A (x)", ["-0a"]),
        ("1.1 bidstream-svc-relay-1,1.1 proxy , 1.1 bidstream-svc-relay-2", ["-1", "-2"]),
        ("", []),
        ("1.1 proxy", []),
        ("1.1 not-bidstream-svc-relay", []),
        ("1.1 bidstream-svc-relay2", []),
        ("1.1 bidstream-svc-relay-xyz", []),
        ("1.1 proxy (bidstream-svc-relay)", []),
    ],
)
def test_relays_are_told_from_other_proxies(via: str, suffixes: list[str]) -> None:
    assert read_relays(via) == tuple(f"bidstream-svc-relay{suffix}" for suffix in suffixes)


def test_names_of_relays_are_read_back_and_differ() -> None:
    names = (draw_relay_name(), draw_relay_name())
    assert read_relays(via_of(names)) == names
    assert len(set(names)) == len(names)


@pytest.mark.parametrize(("age", "age_s"), [("7", 7.0), (None, 0.0), ("-1", 0.0), ("2147483648", 2.0**31)])
def test_age_of_a_relay(age: str | None, age_s: float) -> None:
    assert read_relayed_age(age) == age_s


async def test_what_is_asked_for_while_a_refresh_runs_or_as_its_wait_ends_is_done() -> None:
    """Each `wake` and each unknown key leads to a refresh that is asked for afterwards, and asks for the newest."""
    asked: list[float | None] = []
    may_answer, has_asked = asyncio.Event(), asyncio.Event()

    async def fetch() -> FetchedKeys:
        asked.append(refresher.max_age_s)
        has_asked.set()
        await may_answer.wait()
        return _good_keys()

    refresher = _refresher(fetch, KeyStore(KeysInUse(_good_keys().snapshot)))
    running = asyncio.create_task(refresher.run())
    try:
        async with asyncio.timeout(_PATIENCE_S):
            for asks_now in (refresher.wake, _meet_at_once(refresher)):
                await has_asked.wait()
                has_asked.clear()
                asks_now()  # while the refresh runs
                may_answer.set()
                await has_asked.wait()
                assert asked[-1] is None
    finally:
        running.cancel()


def _meet_at_once(refresher: KeyRefresher) -> Callable[[], None]:
    def meet() -> None:
        assert refresher.meet_unknown_key(_unknown_token())
        refresher._early.at_s = 0.0  # without the spread
        refresher.replan()

    return meet
