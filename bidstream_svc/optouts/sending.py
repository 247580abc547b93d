"""Sends opt-outs to a receiver as a programme's service does: in order, with retries, and again from the start."""

import asyncio
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from time import monotonic

from bidstream_svc.optouts.sender import Endpoint, NextStep, OptOutEntry, RequestBuilder, SenderHabits, next_step
from bidstream_svc.optouts.sender_connection import SenderConnection
from bidstream_svc.optouts.sender_report import Reply, SenderReport


@dataclass(frozen=True, slots=True)
class Load:
    """What is not the programme's habit: limits and load.

    Attributes:
        rate: entries per second at most, or None.
        concurrency: entries at a time; with more than 1 the order is not kept.
    """

    rate: float | None = None
    concurrency: int = 1


class Sending:
    """Sends entries, and notes what comes back.

    Args:
        endpoint: where to.
        habits: how.
        load: how fast.
        entries: called for each pass; returns all entries from the first.
        report: gets each reply.
        tell: called with a line for people when a pass fails.
    """

    def __init__(
        self,
        endpoint: Endpoint,
        habits: SenderHabits,
        load: Load,
        entries: Callable[[], Iterable[OptOutEntry]],
        *,
        report: SenderReport,
        tell: Callable[[str], None],
    ) -> None:
        self._endpoint = endpoint
        self._habits = habits
        self._load = load
        self._entries = entries
        self._report = report
        self._tell = tell
        self._build = RequestBuilder(endpoint, habits).build
        self._is_stopped = False
        self._next_start = 0.0

    async def run(self) -> bool:
        """Send all entries, and again as often as the habits say. Returns whether the last pass was complete."""
        is_complete = await self._send_pass()
        for _ in range(self._habits.replays):
            if not is_complete:
                self._tell(f"all entries are sent again in {self._habits.replay_after_s:g} s")
                await asyncio.sleep(self._habits.replay_after_s)
            is_complete = await self._send_pass()
        return is_complete

    async def _send_pass(self) -> bool:
        self._is_stopped = False
        entries = iter(self._entries())
        async with asyncio.TaskGroup() as tasks:
            for _ in range(self._load.concurrency):
                tasks.create_task(self._send_in_order(entries))
        return not self._is_stopped

    async def _send_in_order(self, entries: Iterator[OptOutEntry]) -> None:
        connection = SenderConnection(self._endpoint, self._habits.timeout_s, may_repeat=self._habits.method == "GET")
        try:
            for entry in entries:
                await self._wait_for_rate()
                if self._is_stopped:
                    break
                if not await self._send(connection, entry):
                    self._is_stopped = True
        finally:
            connection.close()

    async def _send(self, connection: SenderConnection, entry: OptOutEntry) -> bool:
        """Send an entry, with retries. Returns whether it was accepted."""
        request = self._build(entry)
        reply = await self._exchange(connection, request, entry)
        for _ in range(self._habits.retries):
            if next_step(reply.status) is not NextStep.RETRY:
                break
            await asyncio.sleep(self._habits.retry_pause_s)
            if self._is_stopped:  # by an entry on another connection
                return False
            reply = await self._exchange(connection, request, entry)
        if next_step(reply.status) is NextStep.NEXT_ENTRY:
            return True
        self._report.note_failed(entry, reply)
        reason = reply.trouble or f"status {reply.status}"
        self._tell(f"stopped at entry {entry.number}: {reason}")
        return False

    async def _exchange(self, connection: SenderConnection, request: bytes, entry: OptOutEntry) -> Reply:
        reply = await connection.exchange(request)
        self._report.note(entry, reply)
        return reply

    async def _wait_for_rate(self) -> None:
        if self._load.rate is None:
            return
        now = monotonic()
        start = max(self._next_start, now)
        self._next_start = start + 1 / self._load.rate
        await asyncio.sleep(start - now)
