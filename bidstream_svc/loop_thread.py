"""Threads with their own event loops, beside the loop that serves requests.

All threads share the GIL, so code in one of them delays the serving loop. `GilShareSelector` limits by how much.
"""

import asyncio
import selectors
import sys
import threading
import time
from collections.abc import Callable, Coroutine
from contextlib import suppress
from typing import Any, ClassVar

from bidstream_svc.logs import get_logger

_log = get_logger(__name__)

# How long the serving loop waits for the GIL while another thread computes. Python's default is ten times as long.
_SWITCH_INTERVAL_S = 0.0005
# After one long iteration, such as the first, which imports modules.
_MAX_PAUSE_S = 0.1
# How long `stop` waits. The thread may be in a system call that does not return, such as a read of a hung mount.
STOP_TIMEOUT_S = 0.25


class LoopThread:
    """Runs a coroutine in a daemon thread with its own event loop.

    Args:
        name: the name of the thread.
        main: the coroutine function; its coroutine runs until it is cancelled.
        selector: waits for the loop's events; None for the default.

    Attributes:
        left_behind: the names of the threads of this process that did not end when they were stopped.
    """

    left_behind: ClassVar[list[str]] = []

    def __init__(
        self,
        name: str,
        main: Callable[[], Coroutine[Any, Any, None]],
        selector: selectors.BaseSelector | None = None,
    ) -> None:
        self._main = main
        # Not uvloop, where a cancelled connection attempt could close a descriptor of another loop.
        self._loop = asyncio.SelectorEventLoop(selector)
        self._stopping = asyncio.Event()
        self._thread = threading.Thread(target=self._run, name=name, daemon=True)

    def start(self) -> None:
        """Start the thread."""
        sys.setswitchinterval(_SWITCH_INTERVAL_S)
        self._thread.start()

    def call_soon(self, callback: Callable[..., object], *args: object) -> None:
        """Call a function in the loop. Thread-safe; no effect after the thread has ended."""
        with suppress(RuntimeError):  # the loop is closed
            self._loop.call_soon_threadsafe(callback, *args)

    def stop(self) -> bool:
        """Cancel the coroutine and join the thread. Call after `start`.

        Returns:
            False if the thread has not ended within STOP_TIMEOUT_S. It is left behind: a daemon thread does not keep
            the process from ending.
        """
        self.call_soon(self._stopping.set)
        self._thread.join(STOP_TIMEOUT_S)
        if self._thread.is_alive():
            _log.warning("thread left behind", thread=self._thread.name)
            self.left_behind.append(self._thread.name)
            return False
        return True

    def _run(self) -> None:
        with asyncio.Runner(loop_factory=lambda: self._loop) as runner:
            runner.run(self._run_until_stopped())

    async def _run_until_stopped(self) -> None:
        running = asyncio.ensure_future(self._main())
        stopping = asyncio.ensure_future(self._stopping.wait())
        await asyncio.wait([running, stopping], return_when=asyncio.FIRST_COMPLETED)
        running.cancel()
        stopping.cancel()
        await asyncio.wait([running])
        await asyncio.sleep(0)  # transports that have just been closed release their sockets in the next iteration
        error = None if running.cancelled() else running.exception()
        if error is not None:
            _log.error("thread failed", thread=self._thread.name, exc_info=error)


class GilShareSelector(selectors.DefaultSelector):
    """A selector that limits its event loop to a share of one core, whatever its clients send.

    After each iteration of the loop it sleeps, without the GIL, in proportion to the processor time that the iteration
    took. It returns one event at a time, so that an iteration is short; events are served in turn.

    Args:
        share: the share, above 0 and up to 1.
    """

    def __init__(self, share: float) -> None:
        super().__init__()
        self._pause_per_s = 1 / share - 1
        self._used_s: float | None = None
        self._waiting: list[tuple[selectors.SelectorKey, int]] = []

    def lift(self) -> None:
        """Do not limit the loop any more, so that it ends soon. Any thread may call this."""
        self._pause_per_s = 0.0

    def select(self, timeout: float | None = None) -> list[tuple[selectors.SelectorKey, int]]:
        """Sleep, then return at most one event; see BaseSelector."""
        if self._used_s is not None:
            time.sleep(min(_MAX_PAUSE_S, (time.thread_time() - self._used_s) * self._pause_per_s))
        event = self._next_waiting()
        if event is None:
            self._waiting = super().select(timeout)[::-1]
            event = self._next_waiting()
        self._used_s = time.thread_time()
        return [] if event is None else [event]

    def _next_waiting(self) -> tuple[selectors.SelectorKey, int] | None:
        """Remove and return the next event that has been found and not returned yet, or None."""
        while self._waiting:
            key, events = self._waiting.pop()
            if self.get_map().get(key.fd) is key:  # else it was unregistered or modified meanwhile
                return key, events
        return None
