"""A thread for key refreshes, away from the loop that serves bidders."""

import asyncio
import sys
import threading
import time
from collections.abc import Callable
from contextlib import AbstractAsyncContextManager

from bidstream_svc.keystore.refresher import KeyRefresher

MIN_EARLY_REFRESH_INTERVAL_S = 60.0
# How long the serving loop waits for the interpreter while the refresh thread computes; Python's default is ten times
# that, and would be the longest stall of a refresh.
_SWITCH_INTERVAL_S = 0.0005


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
