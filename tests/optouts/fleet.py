"""Hosts of a fleet in one event loop: stores with a follower, and with a publisher if they are receivers."""

import asyncio
import time
from collections.abc import Awaitable, Callable
from pathlib import Path

from bidstream_svc.core.errors import OptOutStreamError
from bidstream_svc.core.identity import IdentityScope
from bidstream_svc.optouts.follower import Follower
from bidstream_svc.optouts.optout_position import Position
from bidstream_svc.optouts.optout_records import OptOut
from bidstream_svc.optouts.optout_store import OptOutStore
from bidstream_svc.optouts.snapshot import write_snapshot
from bidstream_svc.optouts.stream_client import StreamSettings
from bidstream_svc.optouts.stream_publisher import Publisher
from tests.optouts.merging import merge_snapshot

DEADLINE_S = 60.0


def raw_id(number: int) -> bytes:
    return number.to_bytes(32, "big")


def optout(number: int) -> OptOut:
    return OptOut(IdentityScope.UID2, raw_id(number), 1_700_000_000, 1_699_999_990)


async def until(condition: Callable[[], object], what: str) -> None:
    """Wait for a condition; on a busy machine that takes its time."""
    deadline_s = time.monotonic() + DEADLINE_S
    while not condition():
        assert time.monotonic() < deadline_s, what
        await asyncio.sleep(0.02)


class Host:
    """A host of a fleet, which can be stopped and started again."""

    def __init__(
        self,
        directory: Path,
        settings: StreamSettings,
        *,
        is_receiver: bool = False,
        fetch_snapshot: Callable[[OptOutStore], Callable[[], Awaitable[Position]]] | None = None,
    ) -> None:
        self.directory = directory
        self.settings = settings
        self.is_receiver = is_receiver
        self.acknowledged: set[int] = set()
        self.level_ms = 0
        self._fetch_snapshot = fetch_snapshot
        self._tasks: list[asyncio.Task[None]] = []

    def get_snapshots_from(self, receiver: "Host") -> None:
        """From the next start on."""
        self._fetch_snapshot = receiver.snapshots()

    @property
    def is_running(self) -> bool:
        return bool(self._tasks)

    def snapshots(self) -> Callable[[OptOutStore], Callable[[], Awaitable[Position]]]:
        """What other hosts get snapshots of this one with."""

        def bind(store: OptOutStore) -> Callable[[], Awaitable[Position]]:
            async def fetch() -> Position:
                if not self.is_running or self.follower.state.gap:
                    raise OptOutStreamError("the receiver has no complete snapshot now")
                position = merge_snapshot(store, write_snapshot(self.store.directory)).position
                if position is None:
                    raise OptOutStreamError("the receiver has no position")
                return position

            return fetch

        return bind

    def start(self) -> "Host":
        self.store = OptOutStore(self.directory)
        self.level_ms = 0
        self.follower = Follower(
            self.store,
            self.settings,
            fetch_snapshot=self._fetch_snapshot(self.store) if self._fetch_snapshot else None,
            on_level=self._note_level,
        )
        self._tasks = [asyncio.create_task(self.follower.run())]
        if self.is_receiver:
            self.publisher = Publisher(self.store, self.settings, newest_known_id=lambda: self.follower.newest_known_id)
            self._tasks.append(asyncio.create_task(self.publisher.run()))
        return self

    async def stop(self) -> None:
        """End as a process does that is killed: nothing more is written."""
        for task in self._tasks:
            task.cancel()
        for outcome in await asyncio.gather(*self._tasks, return_exceptions=True):
            assert isinstance(outcome, asyncio.CancelledError), outcome
        self._tasks = []
        self.store.close()

    def receive(self, *numbers: int) -> None:
        """What a webhook does."""
        self.store.add([optout(number) for number in numbers], is_owed=True)
        self.acknowledged.update(numbers)
        self.publisher.wake()

    def has(self, numbers: set[int]) -> bool:
        return all(self.store.contains(IdentityScope.UID2, raw_id(number)) for number in numbers)

    async def until_it_has(self, numbers: set[int]) -> None:
        await until(lambda: self.has(numbers), f"{self.directory.name} lacks ids; {self.follower.state}")

    async def until_level(self) -> None:
        """Wait until the store is known to have everything that the stream has now."""
        now_ms = int(time.time() * 1000)
        await until(lambda: self.level_ms >= now_ms, f"{self.directory.name} is not level; {self.follower.state}")

    def _note_level(self, at_ms: int) -> None:
        self.level_ms = at_ms


MakeHost = Callable[..., Host]
