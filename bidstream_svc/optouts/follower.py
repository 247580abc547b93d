"""Reads the stream and applies it to the store.

The position is kept in the store: written with the opt-outs, or at the next check of the stream. So it may be too low,
and is never too high.

Thousands of hosts share the one core of the server. So a host reads at most four times a second: entries gather
meanwhile, and one read brings them all. A host that is far behind reads without a pause.
`stream_entries` decides what follows a position, and what to do where entries are missing.

In a gap (opt-outs may be missing that the stream does not hold any more) the reader goes on, gets a snapshot from a
receiver, merges it, and reads on from the position of that. A gap is kept in the store until then, over restarts.
Without an address to get snapshots from, everything that the stream holds is read, an error is logged once, and the
store does not count as level until it has such an address.
"""

import asyncio
import random
import time
from collections.abc import Awaitable, Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass

from bidstream_svc.clock import wall_clock_ms
from bidstream_svc.core.errors import BidstreamError
from bidstream_svc.logs import get_logger
from bidstream_svc.optouts.back_off import BackOff
from bidstream_svc.optouts.blocking import run_blocking
from bidstream_svc.optouts.optout_position import Position
from bidstream_svc.optouts.optout_records import OptOut
from bidstream_svc.optouts.optout_store import OptOutStore
from bidstream_svc.optouts.stream_client import StreamClient, StreamSettings
from bidstream_svc.optouts.stream_contact import StreamContact
from bidstream_svc.optouts.stream_entries import (
    Bearings,
    StreamEntry,
    Tip,
    advance,
    decode_bearings,
    encode_bearings,
    is_broken,
    is_level,
    recover,
)

_log = get_logger(__name__)

NOTE = "follower"
SNAPSHOT_BACK_OFF_S = 1.0, 60.0
CHECK_S = 5.0
READ_GAP_S = 0.25
# A connection that hangs is noticed, and a snapshot that has arrived is used, whenever a read ends.
_LONGEST_READ_S = 1.0
_SAVE_S = 1.0
_FIRST_ENTRIES, _MAX_ENTRIES = 100, 1_000  # of one call
_OPTOUTS_AT_ONCE = 20_000
_random = random.SystemRandom()
_AWAY_PART = 6 / 7  # of the retention; what is lost is certainly appended again by receivers for so long


@dataclass(slots=True)
class FollowerState(StreamContact):
    """What there is to know of a follower.

    Attributes:
        level_ms: when the store had everything that the stream had, Unix ms; 0 for never.
        position: the place in the stream up to which all has been applied; in a gap, as far as it has been read.
        gap: why opt-outs may be missing; empty if none are.
        applied_entry_s: the newest time of an opt-out that has been applied, Unix seconds; 0 for none.
    """

    level_ms: int = 0
    position: Position | None = None
    gap: str = ""
    applied_entry_s: int = 0


class Follower:
    """Applies the stream to a store until cancelled.

    Args:
        store: the store.
        settings: where the stream is.
        fetch_snapshot: gets a snapshot, merges it into the store and returns its position, or raises a BidstreamError;
            it returns None if that closes the gap although it has no position (`SnapshotClient`). None if there is no
            address to get one from.
        on_level: called with Unix ms whenever the store is known to have had everything that the stream had then.
        now_ms: the wall clock, Unix ms.
        check_s: how often the stream is compared with what has been read.

    Attributes:
        state: for people to look at, and for `GET /snapshot`, which must answer 503 while `gap` is not empty.
    """

    def __init__(
        self,
        store: OptOutStore,
        settings: StreamSettings,
        *,
        fetch_snapshot: Callable[[], Awaitable[Position | None]] | None = None,
        on_level: Callable[[int], None] = lambda _: None,
        now_ms: Callable[[], int] = wall_clock_ms,
        check_s: float = CHECK_S,
    ) -> None:
        self.state = FollowerState()
        self._check_s = check_s
        self._store = store
        self._settings = settings
        self._fetch_snapshot = fetch_snapshot
        self._on_level = on_level
        self._now_ms = now_ms
        self._back_off = BackOff()
        self._bearings: Bearings | None = None
        self._saved: Bearings | None = None
        self._saved_at_s = 0.0
        self._count = _FIRST_ENTRIES
        self._goal: tuple[Tip, int] | None = None
        self._snapshot: asyncio.Task[Position | None] | None = None
        self._snapshot_back_off = BackOff(*SNAPSHOT_BACK_OFF_S)

    @property
    def newest_known_id(self) -> str:
        """The id of the last entry read; empty for none."""
        position = self.state.position
        return "" if position is None else position.entry_id

    async def run(self) -> None:
        """Read the stream until cancelled. Never fails."""
        client = StreamClient(self._settings)
        try:
            while True:
                try:
                    bearings = await self._load()
                    await self._follow(client, bearings)
                except BidstreamError as error:
                    self._note_failure(error)
                    await self._back_off.wait()
        finally:
            await self._stop_snapshot()
            await client.close()

    async def _follow(self, client: StreamClient, bearings: Bearings) -> None:
        bearings = await self._check(client, bearings)
        # When the server comes back, all hosts connect at the same moment. They must not check together ever after.
        check_at_s = time.monotonic() + _random.uniform(0, self._check_s)
        while True:
            if (now_s := time.monotonic()) >= check_at_s or self._has_snapshot:
                bearings = await self._check(client, bearings)
                check_at_s = now_s + self._check_s
            block_s = min(_LONGEST_READ_S, check_at_s - time.monotonic())
            count = self._count
            entries, read_up_to = await client.read(bearings.cursor, count, max(1, int(block_s * 1000)))
            read_at_s = time.monotonic()
            if has_moved := read_up_to != bearings.cursor:
                bearings = await self._apply(client, bearings, entries, read_up_to)
                self._prove_level(bearings)
            self._note_success()
            if has_moved and len(entries) < count:
                await asyncio.sleep(read_at_s + READ_GAP_S - time.monotonic())

    async def _check(self, client: StreamClient, bearings: Bearings) -> Bearings:
        """Compare the stream with what has been read, and look after the gap."""
        asked_ms = self._now_ms()
        tip = await client.inspect(bearings.known_ids)
        is_cut_off = await client.is_cut_off()
        if is_broken(bearings, tip):
            bearings = await self._recover(bearings, tip)
        bearings = await self._tend_gap(client, bearings)
        await self._save(bearings)
        # A replica without its primary does not know what came after.
        self._goal = None if is_cut_off else (tip, asked_ms)
        self._prove_level(bearings)
        return bearings

    async def _apply(
        self, client: StreamClient, bearings: Bearings, entries: Sequence[StreamEntry], read_up_to: str
    ) -> Bearings:
        moved = advance(bearings, entries, read_up_to)
        if moved.optouts:
            suitable = max(10, min(_MAX_ENTRIES, _OPTOUTS_AT_ONCE * len(entries) // len(moved.optouts)))
            self._count = min(2 * self._count, suitable)
        await self._save(moved.bearings, moved.optouts)
        if moved.is_broken:
            tip = await client.inspect(moved.bearings.known_ids)
            return await self._recover(moved.bearings, tip)
        return moved.bearings

    async def _recover(self, bearings: Bearings, tip: Tip) -> Bearings:
        self._goal = None
        max_away_ms = int(self._settings.retention_ms * _AWAY_PART)
        recovered = recover(bearings, tip, now_ms=self._now_ms(), max_away_ms=max_away_ms)
        if recovered != bearings:
            _log.warning("opt-out stream does not continue where it was read; read again from an earlier entry")
        await self._save(recovered)
        return recovered

    async def _tend_gap(self, client: StreamClient, bearings: Bearings) -> Bearings:
        """Begin to get a snapshot in a gap; once it is merged, read on from its position."""
        if not bearings.gap or self._fetch_snapshot is None:
            return bearings
        if self._snapshot is None:
            self._snapshot = asyncio.create_task(self._get_snapshot(self._fetch_snapshot))
        if not self._snapshot.done():
            return bearings
        position = self._snapshot.result() or bearings.position
        if position is None:
            return bearings  # until there is an entry
        tip = await client.inspect([position.entry_id])
        if not tip.found:
            _log.warning("the snapshot of opt-outs is not from this stream; another one is fetched")
            self._snapshot = asyncio.create_task(self._get_snapshot(self._fetch_snapshot, is_another=True))
            return bearings
        self._snapshot = None
        self._snapshot_back_off.reset()
        _log.info("opt-outs are complete again", sequence=position.sequence)
        return Bearings.at(position)

    @property
    def _has_snapshot(self) -> bool:
        return self._snapshot is not None and self._snapshot.done()

    async def _get_snapshot(
        self, fetch: Callable[[], Awaitable[Position | None]], *, is_another: bool = False
    ) -> Position | None:
        if is_another:
            await self._snapshot_back_off.wait()
        logged = ""
        while True:
            try:
                return await fetch()
            except BidstreamError as error:
                if str(error) != logged:
                    logged = str(error)
                    _log.error("no snapshot of opt-outs; it is tried again", error=logged)
            await self._snapshot_back_off.wait()

    async def _stop_snapshot(self) -> None:
        if self._snapshot is not None:
            self._snapshot.cancel()
            with suppress(asyncio.CancelledError, BidstreamError):
                await self._snapshot

    async def _load(self) -> Bearings:
        if self._bearings is None:
            note = await run_blocking(lambda: self._store.read_note(NOTE))
            self._saved = self._bearings = decode_bearings(note)
            self._show(self._bearings)
        return self._bearings

    async def _save(self, bearings: Bearings, optouts: Sequence[OptOut] = ()) -> None:
        """Add opt-outs to the store; with them, or at a check, the bearings, about once a second at most."""
        assert self._saved is not None
        is_urgent = len(optouts) >= _MAX_ENTRIES or bearings.gap != self._saved.gap
        is_due = bearings != self._saved and (is_urgent or time.monotonic() - self._saved_at_s >= _SAVE_S)
        notes: Mapping[str, bytes] = {NOTE: encode_bearings(bearings)} if is_due else {}
        position = bearings.position if is_due and not bearings.gap else None
        if optouts or is_due:
            await run_blocking(lambda: self._store.add(optouts, position=position, notes=notes))
        if is_due:
            self._saved, self._saved_at_s = bearings, time.monotonic()
        self._bearings = bearings
        self._show(bearings)
        newest_s = max((optout.opted_out_s for optout in optouts), default=0)
        self.state.applied_entry_s = max(self.state.applied_entry_s, newest_s)

    def _show(self, bearings: Bearings) -> None:
        if bearings.gap and not self.state.gap:
            _log.error(
                "opt-outs may be missing from the store until a snapshot has been merged",
                reason=bearings.gap,
                snapshot="is fetched" if self._fetch_snapshot else "BIDSTREAM_OPTOUT_SNAPSHOT_URL is not set",
            )
        self.state.position, self.state.gap = bearings.position, bearings.gap

    def _prove_level(self, bearings: Bearings) -> None:
        if self._goal is not None and is_level(bearings, self._goal[0]):
            self.state.level_ms = self._goal[1]
            self._goal = None
            self._note_success()
            self._on_level(self.state.level_ms)

    def _note_success(self) -> None:
        self._back_off.reset()
        if self.state.note_success():
            _log.info("opt-out stream is read again")

    def _note_failure(self, error: BidstreamError) -> None:
        # Over a slow connection, the answer of a smaller call arrives in time.
        self._count = max(1, self._count // 4)
        if self.state.note_failure(error):
            _log.error("opt-out stream cannot be read", error=str(error))
