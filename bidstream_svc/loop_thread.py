"""Threads with their own event loops, beside the loop that serves requests.

All threads share the GIL, so code in one of them delays the serving loop. `GilShareSelector` limits by how much.
"""

import asyncio
import selectors
import sys
import threading
import time
from collections.abc import Callable, Collection, Coroutine
from contextlib import suppress
from heapq import nsmallest
from math import inf
from typing import Any, ClassVar

from bidstream_svc.logs import get_logger

_log = get_logger(__name__)

# How long the serving loop waits for the GIL while another thread computes. Python's default is ten times as long.
_SWITCH_INTERVAL_S = 0.0005
# The processor time that a limited loop may use without a pause.
_MAX_BUDGET_S = 0.0005
# How many events of new files, and of others, are served before the selector looks for further ones.
_EVENTS_PER_LOOK = 4
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
        on_failure: called in the thread when the coroutine has ended with an exception, which is logged.

    Attributes:
        left_behind: the names of the threads of this process that did not end when they were stopped.
    """

    left_behind: ClassVar[list[str]] = []

    def __init__(
        self,
        name: str,
        main: Callable[[], Coroutine[Any, Any, None]],
        selector: selectors.BaseSelector | None = None,
        *,
        on_failure: Callable[[], None] = lambda: None,
    ) -> None:
        self._main = main
        self._on_failure = on_failure
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
            self._on_failure()


class GilShareSelector(selectors.DefaultSelector):
    """A selector that limits its event loop to a share of one core, whatever its clients send.

    The loop has a budget of processor time, which grows by the share of the elapsed time. When an iteration of the loop
    has used it up, the selector sleeps, without the GIL, until there is some again. It returns one event at a time, so
    that an iteration is short.

    A file that has been served longest ago comes first, and a new one before all others. So a client that asks now and
    then need not wait for those that ask all the time.

    Args:
        share: the share, above 0 and up to 1.
        urgent: returns the descriptors that come first whenever they are ready.
    """

    def __init__(self, share: float, urgent: Callable[[], Collection[int]] = tuple) -> None:
        super().__init__()
        self._share = share
        self._urgent = urgent
        self._budget_s = 0.0
        self._now_s, self._used_s = time.monotonic(), 0.0
        self._served_s: dict[int, float] = {}
        self._waiting: list[tuple[selectors.SelectorKey, int]] = []

    def register(self, fileobj: Any, events: int, data: Any = None) -> selectors.SelectorKey:
        """See BaseSelector."""
        key = super().register(fileobj, events, data)
        self._served_s[key.fd] = 0.0
        return key

    def unregister(self, fileobj: Any) -> selectors.SelectorKey:
        """See BaseSelector."""
        key = super().unregister(fileobj)
        del self._served_s[key.fd]
        return key

    def lift(self) -> None:
        """Do not limit the loop any more, so that it ends soon. Any thread may call this."""
        self._share = inf

    def select(self, timeout: float | None = None) -> list[tuple[selectors.SelectorKey, int]]:
        """Sleep if the budget is used up, then return at most one event; see BaseSelector."""
        self._keep_to_budget()
        event = self._next_waiting()
        if event is None:
            self._waiting = self._first_of(super().select(timeout))
            event = self._next_waiting()
        if event is None:
            return []
        self._served_s[event[0].fd] = self._now_s
        return [event]

    def _keep_to_budget(self) -> None:
        now_s, used_s = time.monotonic(), time.thread_time()
        budget_s = min(_MAX_BUDGET_S, self._budget_s + (now_s - self._now_s) * self._share) - (used_s - self._used_s)
        self._budget_s = max(budget_s, -_MAX_PAUSE_S * self._share)
        self._now_s, self._used_s = now_s, used_s
        if self._budget_s < 0:
            time.sleep(-self._budget_s / self._share)

    def _first_of(self, ready: list[tuple[selectors.SelectorKey, int]]) -> list[tuple[selectors.SelectorKey, int]]:
        """Return the events to be served before the next look for events, the last one first."""
        urgent, served_s = self._urgent(), self._served_s
        first = [event for event in ready if event[0].fd in urgent]
        new = [event for event in ready if not served_s[event[0].fd]]
        # Not only new ones: clients that reconnect all the time must not keep out those that do not.
        known = nsmallest(_EVENTS_PER_LOOK, ready, key=lambda event: served_s[event[0].fd] or inf)
        return list(dict.fromkeys([*first, *new[:_EVENTS_PER_LOOK], *known]))[::-1]

    def _next_waiting(self) -> tuple[selectors.SelectorKey, int] | None:
        """Remove and return the next event that has been found and not returned yet, or None."""
        while self._waiting:
            key, events = self._waiting.pop()
            if self.get_map().get(key.fd) is key:  # else it was unregistered or modified meanwhile
                return key, events
        return None
