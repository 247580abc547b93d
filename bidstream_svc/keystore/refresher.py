"""The refresh loop: fetch keys, check them, replace the snapshot in use, wait.

A failed refresh keeps the keys in use. Waits use the monotonic clock, so that changes of the wall clock do not affect
them.
"""

import asyncio
import random
import threading
import time
from collections.abc import Awaitable, Callable
from contextlib import suppress
from math import inf
from typing import TYPE_CHECKING

from bidstream_svc.clock import wall_clock_ms
from bidstream_svc.core.errors import (
    BidstreamError,
    EnvelopeError,
    KeyResponseError,
    OperatorHttpError,
    OperatorNetworkError,
    OperatorRateLimitedError,
    OperatorUnauthorizedError,
)
from bidstream_svc.core.identity import IdentityScope
from bidstream_svc.core.kernel import IS_NATIVE, build_in_steps
from bidstream_svc.core.keys import KeySnapshot, free_in_steps
from bidstream_svc.core.token_details import read_unknown_key_id
from bidstream_svc.core.units import MS_PER_S
from bidstream_svc.keystore.early_refreshes import EarlyRefreshes
from bidstream_svc.keystore.key_cache import KeyCache
from bidstream_svc.keystore.refresh_schedule import draw_back_off_s, draw_interval_s
from bidstream_svc.keystore.shared_keys import SharedKeys
from bidstream_svc.keystore.store import KeysInUse, KeyStore
from bidstream_svc.logs import get_logger
from bidstream_svc.metrics import MetricCells, RefreshResult
from bidstream_svc.metrics.cells import KEY_CELLS, LABEL_OF_SCOPE, CacheWriteResult, KeyCells
from bidstream_svc.operator.key_fetch import FetchedKeys, run_steps
from bidstream_svc.tracing import Tracer

if TYPE_CHECKING:  # it is not there where it was not built
    from bidstream_svc.core.kernel import Kernel

_log = get_logger(__name__)

_AGE_UNIT_S = 1.0  # of the header `Age`: the same keys may seem to be so much newer, and not older

_random = random.SystemRandom()  # the module's own generator belongs to the program, which may have seeded it


class KeyRefresher:
    """Refreshes the keys in a store.

    Args:
        fetch: calls the operator; raises a BidstreamError.
        store: receives the snapshots.
        metrics: receives counts, durations and gauges.
        cache: stores each good answer; None for no cache.
        shared: stores each good answer for workers that start later; None if there are no other workers.
        tracer: records a span for each refresh; None for no tracing.
        interval_s: mean interval between two refreshes; each is drawn from ±10 % of it.
        now_ms: the wall clock, Unix ms.
        has_kernel: whether snapshots get a native kernel.

    Attributes:
        on_keys: called with each response that is put to use, also with one of the cache.
        on_failure: called with the exception of each refresh that fails.
        last_asked_s: when keys were last asked for with success, on the monotonic clock; None before.
        as_of_s: when the operator was asked for the keys in use, perhaps by a relay, on the monotonic clock; -infinity
            for those of a cache.
    """

    def __init__(
        self,
        fetch: Callable[[], Awaitable[FetchedKeys]],
        store: KeyStore,
        metrics: MetricCells,
        *,
        cache: KeyCache | None = None,
        shared: SharedKeys | None = None,
        tracer: Tracer | None = None,
        interval_s: float,
        now_ms: Callable[[], int] = wall_clock_ms,
        has_kernel: bool = IS_NATIVE,
    ) -> None:
        self._fetch = fetch
        self._store = store
        self._metrics = metrics
        self._cache = cache
        self._shared = shared
        self._tracer = tracer
        self._interval_s = interval_s
        self._now_ms = now_ms
        self._has_kernel = has_kernel
        self.on_keys: Callable[[FetchedKeys], None] = lambda _fetched: None
        self.on_failure: Callable[[Exception], None] = lambda _error: None
        self.last_asked_s: float | None = None
        self.as_of_s = -inf
        self._wants_newest, self._asks_newest = False, False
        self._is_woken = False
        self._has_changed = asyncio.Event()  # ends a wait, which then looks at what it waits for
        self._early = EarlyRefreshes(interval_s, _random.uniform)
        self._early_lock = threading.Lock()  # other threads tell what tokens and clients want
        self._failures = 0  # in a row
        self._retry_after_s = 0.0

    @property
    def _cells(self) -> KeyCells:
        """The cells of the programme, as far as it is known."""
        return KEY_CELLS[LABEL_OF_SCOPE[self._store.scope]]

    @property
    def max_age_s(self) -> float | None:
        """How old the keys may be that the next refresh gets; None for the newest, such as for an unknown key.

        Of two relays, one may have older keys than the other has given. So it is no more than since the last refresh.
        """
        if self._asks_newest or self._wants_newest or self._early.at_s < inf or self._store.is_from_cache:
            return None
        return self._interval_s if self.last_asked_s is None else time.monotonic() - self.last_asked_s

    async def run(self) -> None:
        """Load what another worker left or the cache, then refresh until cancelled."""
        await self._load_cache()
        self._store.is_cache_read = True
        while True:
            self._failures = 0 if await self.refresh() else self._failures + 1
            wait_s = self._draw_wait_s()
            self._store.next_refresh_ms = self._now_ms() + int(wait_s * MS_PER_S)
            await self._sleep(time.monotonic() + wait_s)

    def wake(self) -> None:
        """End the current wait, so that a refresh begins. Call it in the event loop of `run`.

        While a refresh runs, another one follows: the running one was asked for before.
        """
        self._is_woken = self._wants_newest = True
        self._has_changed.set()

    def replan(self) -> None:
        """Look anew at when to refresh, because `meet_unknown_key` or `request` has said so. Call it as `wake`."""
        self._has_changed.set()

    def meet_unknown_key(self, token: object) -> bool:
        """Note a token with an unknown key, for an early refresh. Any thread may call this.

        After a failure, it does not shorten the wait: another attempt follows soon, or when the operator has asked for
        it, and asks for the newest keys.

        Returns:
            Whether `replan` must be called.
        """
        key_id = read_unknown_key_id(token, self._store.snapshot)
        if key_id is None:
            return False
        with self._early_lock:
            return self._early.meet(key_id, time.monotonic())

    def request(self) -> tuple[float, bool]:
        """Request a refresh for clients that wait for the newest keys, at most one a minute. Any thread may call this.

        Returns:
            When the last one was requested, on the monotonic clock, and whether `replan` must be called.
        """
        with self._early_lock:
            has_changed = self._early.request(time.monotonic())
            return self._early.requested_s, has_changed

    async def refresh(self) -> bool:
        """Fetch once. Returns whether the new keys are in use."""
        started_ns, asked_s = time.monotonic_ns(), time.monotonic()
        self._begin(asked_s)
        freeing = None
        try:
            fetched = await self._fetch()
            self._reject_worse(fetched.snapshot)
            as_of_s = asked_s if fetched.relayed_s is None else fetched.relayed_s
            is_older = as_of_s < self.as_of_s - _AGE_UNIT_S
            kernel = None if is_older else await self._build_kernel(fetched.snapshot)
        except Exception as error:  # noqa: BLE001 - any failure keeps the keys, and is retried
            result = self._record_failure(error)
            self._note_failure()
            self.on_failure(error)
        else:
            result = RefreshResult.SUCCESS
            self.last_asked_s, self._asks_newest = asked_s, False
            if is_older:
                scope = LABEL_OF_SCOPE[self._store.scope]
                _log.info("keys of a relay are older than those in use, which stay", scope=scope)
            else:
                freeing = free_in_steps(self._store.snapshot)
                self.as_of_s = as_of_s
                self._use(fetched, kernel)
            self._note_success(as_of_s, is_relayed=fetched.relayed_s is not None)
            self._store.last_success_ms = self._now_ms()
            self._store.last_error = None
            self._metrics.set(self._cells.last_success_ms, self._store.last_success_ms)
            if not is_older:
                self._save_cache(fetched.wire)  # last, because a file system may hang
        self._metrics.add(self._cells.refreshes[result])
        duration_ns = time.monotonic_ns() - started_ns
        self._metrics.observe(self._cells.refresh_duration_ns, duration_ns)
        if self._tracer is not None:
            self._tracer.record_refresh(duration_ns, result)
        if freeing is not None:
            await run_steps(freeing, self._store.parsing_pause_s)
        return result is RefreshResult.SUCCESS

    def _begin(self, asked_s: float) -> None:
        with self._early_lock:
            is_early = self._early.begin(asked_s, is_retry=bool(self._failures))
        self._asks_newest = self._wants_newest or is_early
        self._is_woken = self._wants_newest = False

    def _note_failure(self) -> None:
        with self._early_lock:
            self._early.fail(time.monotonic())
        self._wants_newest = self._wants_newest or self._asks_newest
        self._asks_newest = False

    def _note_success(self, as_of_s: float, *, is_relayed: bool) -> None:
        snapshot = self._store.snapshot
        assert snapshot is not None
        with self._early_lock:
            self._early.succeed(snapshot.keys, as_of_s, time.monotonic(), is_relayed=is_relayed)

    def _reject_worse(self, snapshot: KeySnapshot) -> None:
        """Raise KeyResponseError for a response worse than the keys in use."""
        held, kernel = self._store.keys
        require_scope(snapshot, self._store.required_scope)
        if not snapshot.keys:
            raise KeyResponseError("key response rejected: it has no keys")
        if snapshot.last_expiry_ms <= self._now_ms():
            raise KeyResponseError("key response rejected: all its keys have expired")
        if held is None:
            return
        if snapshot.scope is not held.scope:
            raise KeyResponseError("key response rejected: its identity scope differs from that of the keys in use")
        now_s = self._now_ms() / MS_PER_S
        used = (*held.master_gcm_ciphers, *(() if kernel is None else kernel.used_master_keys()))
        masters = [key_id for key_id in used if held.keys[key_id].expires_s > now_s]
        if masters and snapshot.keys.keys().isdisjoint(masters):
            raise KeyResponseError("key response rejected: it has none of the master keys that recent tokens use")

    async def _build_kernel(self, snapshot: KeySnapshot) -> "Kernel | None":
        """Build the kernel of a snapshot, as slowly as keys are parsed."""
        return await run_steps(build_in_steps(snapshot), self._store.parsing_pause_s) if self._has_kernel else None

    async def _load_cache(self) -> None:
        """Use the keys that another worker left, or else those of the key cache."""
        for cache in (self._shared, self._cache):
            cached = None if cache is None else cache.load()
            if cached is None:
                continue
            problem = self._problem_of_cached(cached.snapshot)
            if problem is None:
                self._use(cached, await self._build_kernel(cached.snapshot), is_from_cache=True)
                if self._shared is not None:
                    self._shared.save(cached.wire)
                return
            _log.warning("key cache ignored", scope=LABEL_OF_SCOPE[self._store.scope], error=problem)

    def _problem_of_cached(self, snapshot: KeySnapshot) -> str | None:
        """Return why keys of a cache are not used, or None."""
        try:
            require_scope(snapshot, self._store.required_scope)
        except KeyResponseError as error:
            return str(error)
        return "all its keys have expired" if snapshot.last_expiry_ms <= self._now_ms() else None

    def _save_cache(self, wire: bytes) -> None:
        if self._shared is not None:
            self._shared.save(wire)
        if self._cache is not None:
            result = CacheWriteResult.SUCCESS if self._cache.save(wire) else CacheWriteResult.FAILURE
            self._metrics.add(self._cells.cache_writes[result])

    def _use(self, fetched: FetchedKeys, kernel: "Kernel | None", *, is_from_cache: bool = False) -> None:
        snapshot = fetched.snapshot
        is_first = self._store.snapshot is None or self._store.is_from_cache
        self._store.keys = KeysInUse(snapshot, kernel)
        self._store.is_from_cache = is_from_cache
        self.on_keys(fetched)
        cells = self._cells
        self._metrics.set(cells.is_in_use, 1)
        self._metrics.set(cells.keys, len(snapshot.keys))
        self._metrics.set(cells.skipped, snapshot.skipped_keys.count)
        self._metrics.set(cells.sites, len(snapshot.sites))
        self._metrics.set(cells.expiry_ms, snapshot.last_expiry_ms)
        self._metrics.set(cells.from_cache, int(is_from_cache))
        log = _log.info if is_first else _log.debug
        log(
            "keys loaded",
            scope=snapshot.scope.name,
            keys=len(snapshot.keys),
            sites=len(snapshot.sites),
            from_cache=is_from_cache,
        )
        skipped_keys, skipped_sites = snapshot.skipped_keys, snapshot.skipped_sites
        if skipped_keys.count or skipped_sites.count:
            _log.warning(
                "malformed keys or sites skipped",
                scope=snapshot.scope.name,
                keys=skipped_keys.count,
                sites=skipped_sites.count,
                reasons=[*skipped_keys.reasons, *skipped_sites.reasons],
            )

    def _record_failure(self, error: Exception) -> RefreshResult:
        result = classify_failure(error)
        retry_after_s = error.retry_after_s if isinstance(error, OperatorRateLimitedError) else None
        self._retry_after_s = retry_after_s or 0.0
        is_expected = isinstance(error, BidstreamError)
        # The message of another exception may contain secrets.
        reason = str(error) if is_expected else type(error).__qualname__
        # It may name a path that is not UTF-8, and answers are.
        self._store.last_error = reason.encode(errors="backslashreplace").decode()
        has_keys = self._store.snapshot is not None
        _log.warning(
            "key refresh failed",
            scope=LABEL_OF_SCOPE[self._store.scope],
            result=result,
            error=reason,
            has_keys=has_keys,
            exc_info=not is_expected,
        )
        return result

    def _draw_wait_s(self) -> float:
        if not self._failures:
            return draw_interval_s(self._interval_s, _random.uniform)
        return draw_back_off_s(
            self._failures, _random.uniform, retry_after_s=self._retry_after_s, longest_s=self._interval_s
        )

    async def _sleep(self, until_s: float) -> None:
        """Wait until a time, or an early refresh, or `wake`."""
        while not self._is_woken:
            at_s = until_s if self._failures else min(until_s, self._early.at_s)
            wait_s = at_s - time.monotonic()
            if wait_s <= 0:
                return
            # Both may happen at once, and then either may be seen. So what counts is the state, looked at again.
            with suppress(TimeoutError):
                async with asyncio.timeout(wait_s):
                    await self._has_changed.wait()
            self._has_changed.clear()


def require_scope(snapshot: KeySnapshot, required: IdentityScope | None) -> None:
    """Raise KeyResponseError for keys of another programme than the settings name. None allows any."""
    if required is not None and snapshot.scope is not required:
        raise KeyResponseError(
            f"key response rejected: its keys are of {snapshot.scope.name}, and the settings name {required.name}"
        )


def classify_failure(error: Exception) -> RefreshResult:
    """Return the result to count for an exception that a refresh raised."""
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
