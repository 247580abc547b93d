"""Shares the event loop between the connections whose clients have sent more requests than one iteration answers."""

import asyncio
from collections import deque
from typing import Protocol


class WaitingConnection(Protocol):
    """The part of a connection that `Backlog` uses."""

    def read_on(self) -> None:
        """Read some of the requests that have been received; if there are more, wait again."""


class Backlog:
    """Lets one connection read on in each loop iteration, each in its turn.

    So clients that send one request at a time wait no longer when many other clients pipeline theirs.
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
        connection.read_on()
