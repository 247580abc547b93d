"""A store's part in the stream of a fleet, in a thread of its own: it publishes, follows, and gets snapshots."""

import asyncio
from collections.abc import Callable

from bidstream_svc.config import Settings, env_name
from bidstream_svc.core.errors import OptOutStoreError
from bidstream_svc.core.units import MS_PER_S
from bidstream_svc.logs import get_logger
from bidstream_svc.loop_thread import LoopThread
from bidstream_svc.optouts.back_off import BackOff
from bidstream_svc.optouts.blocking import run_blocking
from bidstream_svc.optouts.follower import CHECK_S, Follower, FollowerState
from bidstream_svc.optouts.optout_store import OptOutStore
from bidstream_svc.optouts.snapshot_client import SnapshotClient
from bidstream_svc.optouts.stream_client import StreamSettings
from bidstream_svc.optouts.stream_publisher import Publisher, PublisherState

_log = get_logger(__name__)

_CHECKS_OF_AGE = 4  # before a store is stale


class StreamLink:
    """Publishes what the store owes to the stream, and applies what others have published.

    Args:
        settings: the settings, with a stream.
        store: the store.
        on_fresh: called in the thread with the Unix ms until which the store counts as synced.
        on_failure: see LoopThread.
    """

    def __init__(
        self,
        settings: Settings,
        store: OptOutStore,
        *,
        on_fresh: Callable[[int], None],
        on_failure: Callable[[], None],
    ) -> None:
        self._store = store
        self._max_age_ms = int(settings.optout_max_age * MS_PER_S)
        self._on_fresh = on_fresh
        stream = _stream_settings(settings)
        client = None
        if settings.optout_snapshot_url is not None:
            client = SnapshotClient(
                store,
                settings.optout_snapshot_url,
                settings.optout_auth_token_file,
                is_receiver=bool(settings.optout_listen),
            )
        self._follower = Follower(
            store,
            stream,
            fetch_snapshot=None if client is None else client.fetch,
            on_level=self._note_level,
            # A store must not become stale between two checks.
            check_s=min(CHECK_S, settings.optout_max_age / _CHECKS_OF_AGE),
        )
        self._publisher = Publisher(store, stream, newest_known_id=lambda: self._follower.newest_known_id)
        self._thread = LoopThread("optout-stream", self._run, on_failure=on_failure)

    @property
    def follower(self) -> FollowerState:
        """How far the stream has been read."""
        return self._follower.state

    @property
    def publisher(self) -> PublisherState:
        """How much the stream is owed."""
        return self._publisher.state

    def start(self) -> None:
        """Start the thread."""
        self._thread.start()

    def stop(self) -> bool:
        """End the thread; False if it has not ended within some time, because it waits for the disk."""
        return self._thread.stop()

    def wake(self) -> None:
        """Tell that the store owes something to the stream. Thread-safe."""
        self._thread.call_soon(self._publisher.wake)

    async def _run(self) -> None:
        await self._join()
        async with asyncio.TaskGroup() as group:
            group.create_task(self._follower.run())
            group.create_task(self._publisher.run())

    async def _join(self) -> None:
        back_off, logged = BackOff(), ""
        while True:
            try:
                return await run_blocking(self._store.join_stream)
            except OptOutStoreError as error:
                if str(error) != logged:
                    logged = str(error)
                    _log.error("opt-out store cannot join the stream; it is tried again", error=logged)
            await back_off.wait()

    def _note_level(self, level_ms: int) -> None:
        self._on_fresh(level_ms + self._max_age_ms)


def _stream_settings(settings: Settings) -> StreamSettings:
    assert settings.optout_stream is not None
    return StreamSettings(
        settings.optout_stream,
        settings.optout_stream_name,
        settings.optout_stream_password_file,
        env_name("optout_stream_password_file"),
    )
