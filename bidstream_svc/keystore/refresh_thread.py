"""The thread that refreshes keys, so that refreshes do not block the event loop that serves requests."""

import time
from collections.abc import Callable
from contextlib import AbstractAsyncContextManager
from math import inf

from bidstream_svc.keystore.refresher import KeyRefresher
from bidstream_svc.loop_thread import LoopThread

# How many tokens with unknown keys are looked at in each span of time: a look takes some microseconds.
_LOOKS = 100
_LOOKS_SPAN_S = 0.1


class RefreshThread:
    """Runs a refresher in a thread with its own event loop.

    DNS look-ups, TLS handshakes and parsing then do not delay requests, and a timed-out connection attempt is cancelled
    in a loop that has no client sockets.

    Args:
        open_refresher: an asynchronous context manager for the refresher, entered and exited in the thread's loop.
        on_failure: see LoopThread.
    """

    def __init__(
        self,
        open_refresher: Callable[[], AbstractAsyncContextManager[KeyRefresher]],
        on_failure: Callable[[], None] = lambda: None,
    ) -> None:
        self._open_refresher = open_refresher
        self._refresher: KeyRefresher | None = None
        self._thread = LoopThread("key-refresh", self._refresh, on_failure=on_failure)
        self._looks_until_s, self._looks = 0.0, 0
        self._requested_s = -inf

    def start(self) -> None:
        """Start the thread, which begins with a refresh."""
        self._thread.start()

    def refresh_soon(self) -> None:
        """Request a refresh now. Thread-safe; no effect before the thread runs or after `stop`."""
        refresher = self._refresher
        if refresher is not None:
            self._thread.call_soon(refresher.wake)

    def refresh_for_unknown_key(self, token: object) -> None:
        """Request a refresh because a token names an unknown key; see EarlyRefreshes. Call it from one thread."""
        refresher, now_s = self._refresher, time.monotonic()
        if now_s >= self._looks_until_s:
            self._looks_until_s, self._looks = now_s + _LOOKS_SPAN_S, _LOOKS
        if refresher is None or not self._looks:
            return
        self._looks -= 1
        if refresher.meet_unknown_key(token):
            self._thread.call_soon(refresher.replan)

    def refresh_for_clients(self) -> float:
        """Request a refresh for clients that wait for it; see `KeyRefresher.request`. Call it from one thread.

        Returns:
            When the last such refresh was requested, on the monotonic clock.
        """
        refresher = self._refresher
        if refresher is not None:
            self._requested_s, has_changed = refresher.request()
            if has_changed:
                self._thread.call_soon(refresher.replan)
        return self._requested_s

    def stop(self) -> None:
        """Cancel a running refresh and end the thread; see LoopThread. Call after `start`."""
        self._thread.stop()

    async def _refresh(self) -> None:
        async with self._open_refresher() as refresher:
            self._refresher = refresher
            try:
                await refresher.run()
            finally:
                self._refresher = None
