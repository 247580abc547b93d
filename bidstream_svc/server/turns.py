"""Shares an event loop between clients that ask for more than it does for one of them in one iteration."""

import asyncio
from collections import deque
from collections.abc import Callable


class Turns:
    """Calls functions in order, one in each iteration of the loop.

    So clients that send one request at a time wait no longer when many others send large batches, or pipeline.
    """

    def __init__(self) -> None:
        self._waiting: deque[Callable[[], None]] = deque()
        self._loop = asyncio.get_running_loop()

    def add(self, function: Callable[[], None]) -> None:
        """Call a function in a later iteration."""
        if not self._waiting:
            self._loop.call_soon(self._call_next)
        self._waiting.append(function)

    async def wait(self) -> None:
        """Return in a later iteration."""
        turn = self._loop.create_future()
        self.add(lambda: None if turn.done() else turn.set_result(None))
        await turn

    def _call_next(self) -> None:
        function = self._waiting.popleft()
        if self._waiting:
            self._loop.call_soon(self._call_next)
        function()
