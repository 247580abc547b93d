"""Keeps keys fresh: fetch, build a snapshot, swap one reference; wait; again.

A failed refresh keeps the keys that are there. Waits are monotonic, so a wall clock that jumps neither storms the
operator nor stops refreshing.
"""

import asyncio
import random
import time
from collections.abc import Awaitable, Callable

from bidstream_svc.clock import wall_clock_ms
from bidstream_svc.core.errors import (
    BidstreamError,
    EnvelopeError,
    KeyResponseError,
    OperatorHttpError,
    OperatorNetworkError,
    OperatorUnauthorizedError,
)
from bidstream_svc.core.keys import KeySnapshot
from bidstream_svc.core.units import MS_PER_S
from bidstream_svc.keystore.key_cache import KeyCache
from bidstream_svc.keystore.store import KeyStore
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
from bidstream_svc.operator.key_fetch import FetchedKeys
from bidstream_svc.tracing import Tracer

_log = get_logger(__name__)

INTERVAL_SPREAD = 0.1
MAX_BACK_OFF_S = 60.0


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
            self._store.next_refresh_ms = self._now_ms() + int(wait_s * MS_PER_S)
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
        now_s = self._now_ms() / MS_PER_S
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
        result = classify_failure(error)
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


def classify_failure(error: Exception) -> RefreshResult:
    """The result to count for what a refresh raised."""
    match error:
        case OperatorNetworkError():
            return RefreshResult.NETWORK
        case OperatorUnauthorizedError():
            return RefreshResult.UNAUTHORIZED
        case OperatorHttpError():
            return RefreshResult.HTTP
        case EnvelopeError():
            return RefreshResult.ENVELOPE
    return RefreshResult.INVALID
