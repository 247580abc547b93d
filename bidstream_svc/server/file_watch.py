"""Threads that look for changed files, so that no read delays a request."""

import asyncio
import threading
from collections.abc import Callable
from contextlib import suppress
from typing import NamedTuple

from bidstream_svc.logs import get_logger

_log = get_logger(__name__)


class Watched(NamedTuple):
    """The arguments of a FileWatch."""

    name: str
    period_s: float
    reload: Callable[[], bool]
    on_change: Callable[[], object] = lambda: None


class FileWatch:
    """Looks for a change at intervals, in a thread of its own.

    A read from a hung network mount may never return. So each watch has its own thread, and the end of the process does
    not wait for it.

    Args:
        name: name of the thread.
        period_s: seconds between two looks.
        reload: looks for a change, in the thread; returns whether there was one.
        on_change: called in the running event loop after each change.
    """

    def __init__(self, name: str, period_s: float, reload: Callable[[], bool], on_change: Callable[[], object]) -> None:
        self._period_s = period_s
        self._reload = reload
        self._on_change = on_change
        self._loop = asyncio.get_running_loop()
        self._is_stopping = False
        self._wake = threading.Event()
        threading.Thread(target=self._run, name=name, daemon=True).start()

    def look_now(self) -> None:
        """Look for a change now."""
        self._wake.set()

    def stop(self) -> None:
        """End the thread after the look that is under way, without waiting for it."""
        self._is_stopping = True
        self._wake.set()

    def _run(self) -> None:
        while True:
            self._wake.wait(self._period_s)
            self._wake.clear()
            if self._is_stopping:
                return
            try:
                has_changed = self._reload()
            except Exception:  # noqa: BLE001 - a bug must not end the thread
                _log.exception("file watch failed")
                continue
            if has_changed and not self._is_stopping:
                with suppress(RuntimeError):  # the loop has been closed meanwhile
                    self._loop.call_soon_threadsafe(self._on_change)
