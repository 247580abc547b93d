"""The thread that refreshes keys, so that refreshes do not block the event loop that serves requests."""

import time
from collections.abc import Callable
from contextlib import AbstractAsyncContextManager
from math import inf

from bidstream_svc.keystore.refresher import KeyRefresher
from bidstream_svc.loop_thread import LoopThread

MIN_EARLY_REFRESH_INTERVAL_S = 60.0


class RefreshThread:
    """Runs a refresher in a thread with its own event loop.

    DNS look-ups, TLS handshakes and parsing then do not delay requests, and a timed-out connection attempt is cancelled
    in a loop that has no client sockets.

    Args:
        open_refresher: an asynchronous context manager for the refresher, entered and exited in the thread's loop.
        on_failure: see LoopThread.

    Attributes:
        requested_s: when the last refresh for an unknown key was requested, on the monotonic clock.
    """

    def __init__(
        self,
        open_refresher: Callable[[], AbstractAsyncContextManager[KeyRefresher]],
        on_failure: Callable[[], None] = lambda: None,
    ) -> None:
        self._open_refresher = open_refresher
        self._refresher: KeyRefresher | None = None
        self._thread = LoopThread("key-refresh", self._refresh, on_failure=on_failure)
        self.requested_s = -inf

    def start(self) -> None:
        """Start the thread, which begins with a refresh."""
        self._thread.start()

    def refresh_soon(self) -> None:
        """Request a refresh now. Thread-safe; no effect before the thread runs or after `stop`."""
        refresher = self._refresher
        if refresher is not None:
            self._thread.call_soon(refresher.wake)

    def refresh_for_unknown_key(self) -> None:
        """Request a refresh because a token named an unknown key; at most one per MIN_EARLY_REFRESH_INTERVAL_S."""
        now_s = time.monotonic()
        if now_s >= self.requested_s + MIN_EARLY_REFRESH_INTERVAL_S:
            self.requested_s = now_s
            self.refresh_soon()

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
