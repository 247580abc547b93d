"""Keeps keys fresh: fetch, build a snapshot, swap one reference; wait; again.

A failed refresh keeps the keys that are there. Waits are monotonic, so a wall clock that jumps neither storms the
operator nor stops refreshing.
"""

import asyncio
import random
import sys
import threading
import time
from collections.abc import Awaitable, Callable
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass

from bidstream_svc.errors import BidstreamError, KeyResponseError
from bidstream_svc.key_cache import KeyCache
from bidstream_svc.keys import KeySnapshot
from bidstream_svc.logs import get_logger
from bidstream_svc.metrics import MetricCells, RefreshResult
from bidstream_svc.metrics.cells import (
    KEY_REFRESH_DURATION_NS,
    KEY_REFRESHES,
    KEYS,
    KEYS_EXPIRY_MS,
    KEYS_FROM_CACHE,
    LAST_REFRESH_SUCCESS_MS,
    SITES,
)
from bidstream_svc.operator.keys import FetchedKeys, classify_key_refresh_failure
from bidstream_svc.tracing import Tracer

__all__ = ["KeyRefresher", "KeyStore", "RefreshThread", "wall_clock_ms"]

_log = get_logger(__name__)

INTERVAL_SPREAD = 0.1
MAX_BACK_OFF_S = 60.0
MIN_EARLY_REFRESH_INTERVAL_S = 60.0
# How long the serving loop waits for the interpreter while the refresh thread computes; Python's default is ten times
# that, and would be the longest stall of a refresh.
_SWITCH_INTERVAL_S = 0.0005
# Between steps of parsing of 0.1 ms, so that the serving loop keeps nearly all of its turns.
_PARSING_PAUSE_S = 0.005


def wall_clock_ms() -> int:
    """Unix milliseconds."""
    return time.time_ns() // 1_000_000


@dataclass(slots=True)
class KeyStore:
    """The keys in use, and how they came; one writer, many readers.

    Attributes:
        snapshot: None until keys were loaded; replaced whole, never changed.
        is_from_cache: whether the keys in use came from the key cache and not from the operator.
        last_success_ms: when keys were last fetched, Unix ms.
        next_refresh_ms: when the next refresh is due, Unix ms.
        last_error: what went wrong with the last refresh; None if nothing did.
    """

    snapshot: KeySnapshot | None = None
    is_from_cache: bool = False
    last_success_ms: int | None = None
    next_refresh_ms: int | None = None
    last_error: str | None = None

    @property
    def parsing_pause_s(self) -> float:
        """How long to pause between steps of parsing new keys; not at all while there are none to serve from."""
        return 0.0 if self.snapshot is None else _PARSING_PAUSE_S


class KeyRefresher:
    """Fetches keys into a store, now and again.

    Args:
        fetch: one call to the operator; raises a BidstreamError.
        store: receives snapshots.
        metrics: counts refreshes.
        cache: keeps the last good answer on disk, for the next start.
        tracer: makes a span of each refresh.
        interval_s: mean time between two refreshes; each wait is drawn from ±10 % of it.
        now_ms: the wall clock, Unix ms.
    """

    def __init__(
        self,
        fetch: Callable[[], Awaitable[FetchedKeys]],
        store: KeyStore,
        metrics: MetricCells,
        *,
        cache: KeyCache | None = None,
        tracer: Tracer | None = None,
        interval_s: float,
        now_ms: Callable[[], int] = wall_clock_ms,
    ) -> None:
        self._fetch = fetch
        self._store = store
        self._metrics = metrics
        self._cache = cache
        self._tracer = tracer
        self._interval_s = interval_s
        self._now_ms = now_ms
        self._wake = asyncio.Event()

    async def run(self) -> None:
        """Refresh until cancelled; begins with what the cache holds, if anything."""
        self._load_cache()
        failures = 0
        while True:
            failures = 0 if await self.refresh() else failures + 1
            wait_s = self._back_off_s(failures) if failures else self._spread_interval_s()
            self._store.next_refresh_ms = self._now_ms() + int(wait_s * 1000)
            await self._sleep(wait_s)

    def wake(self) -> None:
        """End the wait that is under way: refresh now. To be called in the loop of `run`."""
        self._wake.set()

    async def refresh(self) -> bool:
        """Fetch once; whether keys were swapped in."""
        started_ns = time.monotonic_ns()
        try:
            fetched = await self._fetch()
            self._refuse_worse(fetched.snapshot)
        except Exception as error:  # noqa: BLE001 - whatever goes wrong, the keys stay and the next try comes
            result = self._note_failure(error)
        else:
            result = RefreshResult.SUCCESS
            self._swap_in(fetched.snapshot)
            self._store.last_success_ms = self._now_ms()
            self._store.last_error = None
            self._metrics.set(LAST_REFRESH_SUCCESS_MS, self._store.last_success_ms)
            if self._cache is not None:
                self._cache.save(fetched.wire)
        self._metrics.add(KEY_REFRESHES[result])
        duration_ns = time.monotonic_ns() - started_ns
        self._metrics.observe(KEY_REFRESH_DURATION_NS, duration_ns)
        if self._tracer is not None:
            self._tracer.record_refresh(duration_ns, result)
        return result is RefreshResult.SUCCESS

    def _refuse_worse(self, snapshot: KeySnapshot) -> None:
        """Raise KeyResponseError for a response that would take more than it brings."""
        held = self._store.snapshot
        if not snapshot.keys:
            raise KeyResponseError("key response: refused, it holds no keys")
        if snapshot.last_expiry_ms <= self._now_ms():
            raise KeyResponseError("key response: refused, all its keys have expired")
        if held is None:
            return
        if snapshot.scope is not held.scope:
            raise KeyResponseError("key response: refused, it is of another identity scope than the keys held")
        now_s = self._now_ms() / 1000
        masters = [key_id for key_id in tuple(held.master_gcm_ciphers) if held.keys[key_id].expires_s > now_s]
        if masters and snapshot.keys.keys().isdisjoint(masters):
            raise KeyResponseError("key response: refused, it has none of the master keys that tokens are using")

    def _load_cache(self) -> None:
        snapshot = None if self._cache is None else self._cache.load()
        if snapshot is None:
            return
        if snapshot.last_expiry_ms <= self._now_ms():
            _log.warning("key cache ignored", error="all its keys have expired")
            return
        self._swap_in(snapshot, is_from_cache=True)

    def _swap_in(self, snapshot: KeySnapshot, *, is_from_cache: bool = False) -> None:
        is_news = self._store.snapshot is None or self._store.is_from_cache
        self._store.snapshot = snapshot
        self._store.is_from_cache = is_from_cache
        self._metrics.set(KEYS, len(snapshot.keys))
        self._metrics.set(SITES, len(snapshot.sites))
        self._metrics.set(KEYS_EXPIRY_MS, snapshot.last_expiry_ms)
        self._metrics.set(KEYS_FROM_CACHE, int(is_from_cache))
        log = _log.info if is_news else _log.debug
        log("keys loaded", keys=len(snapshot.keys), sites=len(snapshot.sites), from_cache=is_from_cache)

    def _note_failure(self, error: Exception) -> RefreshResult:
        result = RefreshResult(classify_key_refresh_failure(error))
        is_ours = isinstance(error, BidstreamError)
        # The message of an exception that is not ours may hold anything.
        reason = str(error) if is_ours else type(error).__qualname__
        self._store.last_error = reason
        has_keys = self._store.snapshot is not None
        _log.warning("key refresh failed", result=result, error=reason, has_keys=has_keys, exc_info=not is_ours)
        return result

    def _spread_interval_s(self) -> float:
        return self._interval_s * random.uniform(1 - INTERVAL_SPREAD, 1 + INTERVAL_SPREAD)  # noqa: S311 - no secret

    @staticmethod
    def _back_off_s(failures: int) -> float:
        """Full jitter: anywhere up to 1 s after the first failure, doubling to 60 s."""
        return random.uniform(0, min(MAX_BACK_OFF_S, 2.0 ** min(failures - 1, 10)))  # noqa: S311 - no secret

    async def _sleep(self, wait_s: float) -> None:
        try:
            async with asyncio.timeout(wait_s):
                await self._wake.wait()
        except TimeoutError:
            pass
        self._wake.clear()


class RefreshThread:
    """Runs a refresher in a thread with an event loop of its own.

    So a slow name look-up, a handshake or parsing takes no turn of the serving loop, and a connect that is cancelled
    on a time-out is cancelled far from the sockets of bidders.

    Args:
        open_refresher: makes the refresher, inside the thread's loop, and closes what it holds at the end.
    """

    def __init__(self, open_refresher: Callable[[], AbstractAsyncContextManager[KeyRefresher]]) -> None:
        self._open_refresher = open_refresher
        # Not the serving loop's kind on purpose: a plain loop closes only descriptors of its own.
        self._loop = asyncio.SelectorEventLoop()
        self._refresher: KeyRefresher | None = None
        self._stopping = asyncio.Event()
        self._next_early_refresh_s = 0.0
        self._thread = threading.Thread(target=self._run, name="key-refresh", daemon=True)

    def start(self) -> None:
        """Start the thread; the first refresh begins at once."""
        sys.setswitchinterval(_SWITCH_INTERVAL_S)
        self._thread.start()

    def refresh_soon(self) -> None:
        """Ask for a refresh now; from any thread, no effect before the thread runs or after `stop`."""
        if self._refresher is not None:
            self._loop.call_soon_threadsafe(self._refresher.wake)

    def refresh_for_unknown_key(self) -> None:
        """Ask for a refresh because a token's key is unknown: at most once a minute, however many tokens ask."""
        now_s = time.monotonic()
        if now_s >= self._next_early_refresh_s:
            self._next_early_refresh_s = now_s + MIN_EARLY_REFRESH_INTERVAL_S
            self.refresh_soon()

    def stop(self) -> None:
        """Cancel whatever it is doing and wait for the thread's end; call once, after `start`."""
        self._loop.call_soon_threadsafe(self._stopping.set)
        self._thread.join()

    def _run(self) -> None:
        with asyncio.Runner(loop_factory=lambda: self._loop) as runner:
            runner.run(self._refresh_until_stopped())

    async def _refresh_until_stopped(self) -> None:
        async with self._open_refresher() as refresher:
            self._refresher = refresher
            running = asyncio.ensure_future(refresher.run())
            await self._stopping.wait()
            self._refresher = None
            running.cancel()
            await asyncio.wait([running])
