"""The keys that a relay holds of one programme, and how fresh they are for a request.

A request says how old the keys may be. If they are older, they are refreshed first, at most once a minute, and the
requests that come meanwhile wait for the same refresh. None waits for longer than HOLD_S: the keys that are held are
better than none.
"""

import asyncio
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from functools import partial
from math import inf
from typing import NamedTuple

from bidstream_svc.clock import wall_clock_ms
from bidstream_svc.core.errors import OperatorUnauthorizedError
from bidstream_svc.core.keys import KeyPurpose
from bidstream_svc.keystore.refresh_schedule import MIN_EARLY_REFRESH_INTERVAL_S
from bidstream_svc.keystore.refresh_thread import RefreshThread
from bidstream_svc.keystore.refresher import KeyRefresher
from bidstream_svc.keystore.refresher_setup import open_refresher
from bidstream_svc.keystore.store import KeyStore
from bidstream_svc.metrics import MetricCells
from bidstream_svc.operator.key_fetch import FetchedKeys
from bidstream_svc.operator.refusals import unauthorized
from bidstream_svc.operator_settings import OperatorSettings

# Sidecars give up when nothing has come for 10 s.
HOLD_S = 5.0
_UNWANTED_INTERVALS = 3  # clients ask once in each
_MAX_AGE_S = 2**31  # RFC 9111, section 1.2.2


class HeldKeys(NamedTuple):
    """A key response.

    Attributes:
        json: the response, decrypted.
        asked_s: when the operator was asked for it, perhaps by another relay, on the monotonic clock; -infinity for a
            response of the key cache.
        last_expiry_ms: when the last of its keys expires, in Unix ms.
        relays: the names of the relays that it came through.
    """

    json: bytes
    asked_s: float
    last_expiry_ms: int
    relays: tuple[str, ...] = ()

    @property
    def age_s(self) -> int:
        """Whole seconds since the operator was asked, as in an `Age` header."""
        return int(min(time.monotonic() - self.asked_s, _MAX_AGE_S))

    def __repr__(self) -> str:
        """Show the size only."""
        return f"HeldKeys({len(self.json)} bytes of JSON)"


class RelayKeys:
    """Keys of one programme for one purpose. Except where it says so, use it in the event loop that made it.

    Args:
        operator: from where they are fetched.
        purpose: what they are for. Keys for sharing are on demand: not every relay may have them, and few clients ask.
            They are fetched from the first request on, and no longer once nobody has asked for some intervals. If the
            operator refuses them, requests are refused, too, and it is asked again by the first one after a minute.
        name: of the relay.
        metrics: counts the refreshes.
        interval_s: between two refreshes.
        hold_s: how long a request waits for keys at most.

    Attributes:
        store: the state of the refreshes.
        failed: set when the thread has failed.
    """

    def __init__(
        self,
        operator: OperatorSettings,
        purpose: KeyPurpose,
        name: str,
        metrics: MetricCells,
        *,
        interval_s: float,
        failed: asyncio.Event,
        hold_s: float = HOLD_S,
    ) -> None:
        # No pauses: nothing here is as urgent as new keys, for which sidecars wait.
        self.store = KeyStore(scope=operator.scope, parsing_pause_s=0.0)
        self._open_refresher = partial(
            open_refresher,
            operator,
            self.store,
            metrics,
            interval_s=interval_s,
            purpose=purpose,
            has_kernel=False,
            relay=name,
        )
        self._make_thread = partial(RefreshThread, self._open, partial(self._call, failed.set))
        self._thread: RefreshThread | None = None
        self._is_on_demand = purpose is KeyPurpose.SHARING
        self._unwanted_s = hold_s + _UNWANTED_INTERVALS * interval_s
        self._wanted_s = self._refused_s = -inf
        self._hold_s = hold_s
        self._held: HeldKeys | None = None
        self._has_changed = asyncio.Event()
        self._loop = asyncio.get_running_loop()

    def start(self) -> None:
        """Begin to fetch keys; no effect if they are fetched already."""
        if self._thread is None:
            self._thread = self._make_thread()
            self._thread.start()

    def stop(self) -> None:
        """End the thread."""
        if self._thread is not None:
            self._thread.stop()

    def refresh_soon(self) -> None:
        """Refresh now."""
        self._refused_s = -inf
        if self._thread is not None:
            self._thread.refresh_soon()

    async def get(self, max_age_s: float | None) -> HeldKeys | None:
        """Return the keys to answer a request with, after a refresh if need be; None if all have expired or none came.

        Args:
            max_age_s: how old they may be; None for the newest.

        Raises:
            RequestRefusedError: 401, the operator refuses keys that are on demand.
        """
        arrived_s = self._wanted_s = time.monotonic()
        if not self._is_refused():
            self.start()
        if self._held is None:
            await self._wait(-inf, arrived_s + self._hold_s)
        elif self._held.asked_s < arrived_s - (max_age_s or 0.0) and self._thread is not None:
            requested_s = self._thread.refresh_for_clients()
            await self._wait(requested_s, requested_s + self._hold_s)
        if self._is_refused():
            raise unauthorized()
        held = self._held
        return None if held is None or held.last_expiry_ms <= wall_clock_ms() else held

    async def _wait(self, asked_s: float, until_s: float) -> None:
        """Wait for keys that the operator was asked for at a time or later, but no longer than until another."""
        with suppress(TimeoutError):
            async with asyncio.timeout(until_s - time.monotonic()):
                while not self._is_refused() and (self._held is None or self._held.asked_s < asked_s):
                    await self._has_changed.wait()

    @asynccontextmanager
    async def _open(self) -> AsyncIterator[KeyRefresher]:
        async with self._open_refresher() as refresher:
            refresher.on_keys = partial(self._note, refresher)
            refresher.on_failure = self._note_failure
            yield refresher

    def _note(self, refresher: KeyRefresher, fetched: FetchedKeys) -> None:
        """Hold new keys; called in the thread."""
        held = HeldKeys(fetched.json, refresher.as_of_s, fetched.snapshot.last_expiry_ms, fetched.relays)
        self._call(self._hold, held)

    def _note_failure(self, error: Exception) -> None:
        """Look at whether to go on; called in the thread."""
        self._call(self._go_on_or_end, isinstance(error, OperatorUnauthorizedError))

    def _hold(self, held: HeldKeys) -> None:
        self._held = held
        self._wake()
        self._go_on_or_end(False)

    def _go_on_or_end(self, is_refused: bool) -> None:  # noqa: FBT001 - by `call_soon`
        """End the thread if the keys are on demand, and refused or not wanted any more. A later request starts it."""
        if not self._is_on_demand or self._thread is None:
            return
        now_s = time.monotonic()
        if is_refused and self._held is None:
            self._refused_s = now_s
            self._wake()
        elif now_s < self._wanted_s + self._unwanted_s:
            return
        self._loop.run_in_executor(None, self._thread.stop)  # it waits for the thread
        self._thread = self._held = None

    def _is_refused(self) -> bool:
        return time.monotonic() < self._refused_s + MIN_EARLY_REFRESH_INTERVAL_S

    def _wake(self) -> None:
        """Let those that wait look again."""
        self._has_changed.set()
        self._has_changed.clear()  # those that wait are woken all the same

    def _call(self, function: object, *args: object) -> None:
        """Call a function in the loop; any thread may call this."""
        with suppress(RuntimeError):  # the loop is closed
            self._loop.call_soon_threadsafe(function, *args)  # type: ignore[arg-type]
