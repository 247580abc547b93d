"""The signals that stop the service: the first one begins draining, the second one ends the process at once.

A process that does not manage to end by itself is ended by `EndTimer`. A third signal does not even wait for that.
"""

import asyncio
import faulthandler
import os
import signal
from collections.abc import Collection, Iterator
from contextlib import contextmanager
from types import FrameType

# How long closing may take after the drain time-out, and after a second signal.
CLOSING_TIMEOUT_S = 0.9
SECOND_SIGNAL_TIMEOUT_S = 0.5


class EndTimer:
    """Ends the process, with exit status 1, whatever it is waiting for.

    It is a timer of faulthandler, written in C, which needs neither the GIL nor a turn of the event loop.
    """

    def __init__(self) -> None:
        # It writes the stacks first. They are not wanted, and writing them to a full pipe would not end.
        self._dump = os.open(os.devnull, os.O_WRONLY | os.O_CLOEXEC)
        self._is_running = False

    def start(self, timeout_s: float) -> None:
        """End the process after this time; it replaces that of an earlier call."""
        self._is_running = True
        faulthandler.dump_traceback_later(timeout_s, exit=True, file=self._dump)

    def close(self) -> None:
        """Release the descriptor, unless the timer is running: it cannot be stopped."""
        if not self._is_running:
            os.close(self._dump)


class StopSignals:
    """Receives the signals; `handling` installs the handlers.

    Args:
        numbers: the signals.
        drain_timeout_s: how long draining may take.

    Attributes:
        first: set by the first signal.
        second: set by the second signal.
    """

    def __init__(self, numbers: Collection[int], drain_timeout_s: float) -> None:
        self.first, self.second = asyncio.Event(), asyncio.Event()
        self._numbers = numbers
        self._drain_timeout_s = drain_timeout_s
        self._received = 0
        self._loop = asyncio.get_running_loop()
        self._timer = EndTimer()

    @contextmanager
    def handling(self) -> Iterator[None]:
        """Handle the signals; on exit, restore the default actions. Only the main thread may call this.

        Once a signal has been received, the process must end: the timer keeps running.
        """
        for number in self._numbers:
            # Not a handler of the event loop, which would wait for a turn of the loop.
            signal.signal(number, self._handle)
        signal.pthread_sigmask(signal.SIG_UNBLOCK, self._numbers)  # those that came during the start are handled now
        try:
            yield
        finally:
            for number in self._numbers:
                signal.signal(number, signal.SIG_DFL)
            self._timer.close()

    def _handle(self, _number: int, _frame: FrameType | None) -> None:
        self._received += 1
        if self._received == 1:
            self._timer.start(self._drain_timeout_s + CLOSING_TIMEOUT_S)
            self._loop.call_soon_threadsafe(self.first.set)
        elif self._received == 2:  # noqa: PLR2004
            self._timer.start(SECOND_SIGNAL_TIMEOUT_S)
            self._loop.call_soon_threadsafe(self.second.set)
        else:
            os._exit(1)
