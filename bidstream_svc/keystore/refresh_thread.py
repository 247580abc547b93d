"""The thread that refreshes keys, so that refreshes do not block the event loop that serves requests."""

import asyncio
import sys
import threading
import time
from collections.abc import Callable
from contextlib import AbstractAsyncContextManager

from bidstream_svc.keystore.refresher import KeyRefresher

MIN_EARLY_REFRESH_INTERVAL_S = 60.0
# How long the serving loop waits for the GIL while the refresh thread computes. Python's default is ten times as long.
_SWITCH_INTERVAL_S = 0.0005


class RefreshThread:
    """Runs a refresher in a thread with its own event loop.

    DNS look-ups, TLS handshakes and parsing then do not delay requests, and a timed-out connection attempt is cancelled
    in a loop that has no client sockets.

    Args:
        open_refresher: an asynchronous context manager for the refresher, entered and exited in the thread's loop.
    """

    def __init__(self, open_refresher: Callable[[], AbstractAsyncContextManager[KeyRefresher]]) -> None:
        self._open_refresher = open_refresher
        # Not uvloop, where a cancelled connection attempt could close a descriptor of another loop.
        self._loop = asyncio.SelectorEventLoop()
        self._refresher: KeyRefresher | None = None
        self._stopping = asyncio.Event()
        self._next_early_refresh_s = 0.0
        self._thread = threading.Thread(target=self._run, name="key-refresh", daemon=True)

    def start(self) -> None:
        """Start the thread, which begins with a refresh."""
        sys.setswitchinterval(_SWITCH_INTERVAL_S)
        self._thread.start()

    def refresh_soon(self) -> None:
        """Request a refresh now. Thread-safe; no effect before the thread runs or after `stop`."""
        if self._refresher is not None:
            self._loop.call_soon_threadsafe(self._refresher.wake)

    def refresh_for_unknown_key(self) -> None:
        """Request a refresh because a token named an unknown key; at most one per MIN_EARLY_REFRESH_INTERVAL_S."""
        now_s = time.monotonic()
        if now_s >= self._next_early_refresh_s:
            self._next_early_refresh_s = now_s + MIN_EARLY_REFRESH_INTERVAL_S
            self.refresh_soon()

    def stop(self) -> None:
        """Cancel a running refresh and join the thread. Call once, after `start`."""
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
