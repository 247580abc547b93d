"""Shares the event loop between the connections whose clients have sent more than one loop iteration answers."""

import asyncio
from collections import deque
from typing import Protocol


class WaitingConnection(Protocol):
    """The part of a connection that `Backlog` uses."""

    def take_turn(self) -> None:
        """Do a part of the work that is left; if there is more, wait again."""


class Backlog:
    """Lets one connection work on in each loop iteration, each in its turn.

    So clients that send one request at a time wait no longer when many others send large batches, or pipeline.
    """

    def __init__(self) -> None:
        self._waiting: deque[WaitingConnection] = deque()
        self._loop = asyncio.get_running_loop()

    def add(self, connection: WaitingConnection) -> None:
        """Add a connection, which must not be waiting yet."""
        if not self._waiting:
            self._loop.call_soon(self._continue)
        self._waiting.append(connection)

    def _continue(self) -> None:
        connection = self._waiting.popleft()
        if self._waiting:
            self._loop.call_soon(self._continue)
        connection.take_turn()
