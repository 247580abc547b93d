"""The thread that refreshes keys, so that refreshes do not block the event loop that serves requests."""

import time
from collections.abc import Callable
from contextlib import AbstractAsyncContextManager

from bidstream_svc.keystore.refresh_schedule import EarlyRefreshLimit
from bidstream_svc.keystore.refresher import KeyRefresher
from bidstream_svc.loop_thread import LoopThread


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
        self._early = EarlyRefreshLimit()

    def start(self) -> None:
        """Start the thread, which begins with a refresh."""
        self._thread.start()

    def refresh_soon(self) -> None:
        """Request a refresh now. Thread-safe; no effect before the thread runs or after `stop`."""
        refresher = self._refresher
        if refresher is not None:
            self._thread.call_soon(refresher.wake)

    def refresh_for_unknown_key(self) -> None:
        """Request a refresh because a token named an unknown key; see EarlyRefreshLimit. No effect after a failure."""
        refresher = self._refresher
        if refresher is not None and self._early.admit(time.monotonic()):
            self._thread.call_soon(refresher.wake_unless_failing)

    @property
    def requested_s(self) -> float:
        """When the last refresh for an unknown key was requested, on the monotonic clock."""
        return self._early.requested_s

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
