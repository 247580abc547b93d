"""Appends to the stream what this host has received: outbox -> stream.

The outbox keeps what has been appended for as long as the stream does. If the server loses this publisher's last entry,
by a fail-over to a replica that lagged, a restart from an older file or a restart empty, all of that is appended again.
To append twice is harmless. So what is persisted may lag behind what has been done, and is written about once a second.
"""

import asyncio
import os
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import NamedTuple

import msgspec

from bidstream_svc.clock import wall_clock_ms
from bidstream_svc.core.errors import BidstreamError
from bidstream_svc.logs import get_logger
from bidstream_svc.optouts.back_off import BackOff
from bidstream_svc.optouts.blocking import run_blocking
from bidstream_svc.optouts.optout_records import OptOut, pack
from bidstream_svc.optouts.optout_store import OptOutStore, OutboxEntry
from bidstream_svc.optouts.stream_client import EPOCH_BYTES, StreamClient, StreamSettings
from bidstream_svc.optouts.stream_contact import StreamContact

_log = get_logger(__name__)

_NOTE = "publisher"
_ENTRY_OPTOUTS = 1_000
_TICK_S = 1.0
_IDLE_TICK_S = 5.0  # of the many hosts that have never appended anything, and so have nothing in the stream to lose
APPEND_GAP_S = 0.1  # opt-outs gather, because each entry costs the server something for every host that reads it
_READ_ENTRIES = 1_000
_SAVE_MS = 1_000
_MARKS = 168  # within the retention


@dataclass(slots=True)
class PublisherState(StreamContact):
    """What there is to know of a publisher.

    Attributes:
        owed: opt-outs of the outbox that have not been appended, as far as they have been counted.
    """

    owed: int = 0


class _Progress(msgspec.Struct, frozen=True, kw_only=True):
    """How far the outbox has been appended, as the store keeps it.

    Attributes:
        sent: number of the last entry of the outbox that has been appended.
        own: the id in the stream of the last entry that this publisher appended; empty for none.
        lost: the id of an entry that the server has lost, until readers have been told.
        marks: (Unix ms, `sent` at that time) in order, to tell what was appended longer than the retention ago.
    """

    sent: int = 0
    own: str = ""
    lost: str = ""
    marks: tuple[tuple[int, int], ...] = ()


class Publisher:
    """Appends the outbox of a store to the stream until cancelled.

    Args:
        store: whose outbox.
        settings: where the stream is.
        newest_known_id: returns the newest id of the stream that this host has seen, empty for none: the follower's.
        now_ms: the wall clock, Unix ms.

    Attributes:
        state: for people to look at.
    """

    def __init__(
        self,
        store: OptOutStore,
        settings: StreamSettings,
        *,
        newest_known_id: Callable[[], str] = str,
        now_ms: Callable[[], int] = wall_clock_ms,
    ) -> None:
        self.state = PublisherState()
        self._store = store
        self._settings = settings
        self._newest_known_id = newest_known_id
        self._now_ms = now_ms
        self._wake = asyncio.Event()
        self._saved = self._progress = _Progress()
        self._saved_ms = 0
        self._is_loaded = False

    def wake(self) -> None:
        """Tell that there is something in the outbox. Call it in the event loop of `run`."""
        self._wake.set()

    async def run(self) -> None:
        """Append what is owed, and look after the stream, until cancelled. Never fails."""
        client, back_off = StreamClient(self._settings), BackOff()
        try:
            while True:
                self._wake.clear()
                try:
                    await self._load()
                    await self._append_owed(client)
                    await self._save()
                    self._note_success()
                except BidstreamError as error:
                    self._note_failure(error)
                    await back_off.wait()
                else:
                    back_off.reset()
                    await self._sleep()
        finally:
            await client.close()

    async def _append_owed(self, client: StreamClient) -> None:
        """Append the outbox up to its end, and an empty entry if it is time for one."""
        while True:
            after = self._progress.sent
            entries = await run_blocking(lambda: self._store.read_outbox(after, _READ_ENTRIES))  # noqa: B023
            if not entries:
                self.state.owed = 0
                if await self._append(client, _Batch(after, b"", 0)):
                    return
                continue
            batches = _batches(entries)
            self.state.owed = sum(batch.optout_count for batch in batches)
            for batch in batches:
                if not await self._append(client, batch):
                    break
            await self._save()
            self._note_success()
            if sum(batch.optout_count for batch in batches) < _ENTRY_OPTOUTS:
                await asyncio.sleep(APPEND_GAP_S)

    async def _append(self, client: StreamClient, batch: "_Batch") -> bool:
        """Append an entry. False if the server has lost this publisher's last entry: begin again at `sent`."""
        progress = self._progress
        appended = await client.append(
            progress.own, self._newest_known_id(), batch.packed, epoch=os.urandom(EPOCH_BYTES), lost=progress.lost
        )
        if appended is None:
            _log.warning("opt-out stream has lost entries; all of the retention is appended again", lost=progress.own)
            self._progress = msgspec.structs.replace(progress, sent=0, own="", lost=progress.own)
            return False
        self._progress = msgspec.structs.replace(
            progress,
            sent=max(progress.sent, batch.last_number),
            own=appended.position.entry_id if appended.is_new else progress.own,
            lost="" if appended.is_new else progress.lost,
        )
        self.state.owed -= batch.optout_count
        return True

    async def _load(self) -> None:
        if not self._is_loaded:
            note = await run_blocking(lambda: self._store.read_note(_NOTE))
            self._saved = self._progress = _decode_progress(note)
            self._is_loaded = True

    async def _save(self) -> None:
        """Write the progress into the store, at most once a second, and remove what the stream does not hold either."""
        now_ms = self._now_ms()
        if self._progress == self._saved or now_ms - self._saved_ms < _SAVE_MS:
            return
        progress, expired = _expire(self._progress, now_ms, self._settings.retention_ms)
        await run_blocking(
            lambda: self._store.write_notes({_NOTE: msgspec.json.encode(progress)}, trim_outbox_up_to=expired)
        )
        self._saved, self._saved_ms, self._progress = progress, now_ms, progress

    async def _sleep(self) -> None:
        try:
            async with asyncio.timeout(_TICK_S if self._progress.own else _IDLE_TICK_S):
                await self._wake.wait()
        except TimeoutError:
            pass

    def _note_success(self) -> None:
        if self.state.note_success():
            _log.info("opt-out stream is reached again by the publisher")

    def _note_failure(self, error: Exception) -> None:
        if self.state.note_failure(error):
            _log.error("opt-outs cannot be appended to the stream; they are kept", error=str(error))


class _Batch(NamedTuple):
    """An entry of the stream to be appended.

    Attributes:
        last_number: the last entry of the outbox of which all is in this batch or an earlier one.
        packed: the opt-outs.
        optout_count: how many.
    """

    last_number: int
    packed: bytes
    optout_count: int


def _batches(entries: Iterable[OutboxEntry]) -> list[_Batch]:
    """Put entries of the outbox together, or split them, so that each batch has at most _ENTRY_OPTOUTS opt-outs."""
    batches: list[_Batch] = []
    collected: list[OptOut] = []
    last_number = 0
    for entry in entries:
        if collected and len(collected) + len(entry.optouts) > _ENTRY_OPTOUTS:
            batches.append(_Batch(last_number, pack(collected), len(collected)))
            collected = []
        collected += entry.optouts
        while len(collected) > _ENTRY_OPTOUTS:
            part, collected = collected[:_ENTRY_OPTOUTS], collected[_ENTRY_OPTOUTS:]
            batches.append(_Batch(last_number, pack(part), len(part)))
        last_number = entry.number
    batches.append(_Batch(last_number, pack(collected), len(collected)))
    return batches


def _expire(progress: _Progress, now_ms: int, retention_ms: int) -> tuple[_Progress, int]:
    """Note how far the outbox has been appended by now. Returns that, and how far it was a retention ago."""
    marks = progress.marks
    if not marks or now_ms - marks[-1][0] >= retention_ms // _MARKS:
        marks = (*marks, (now_ms, progress.sent))
    expired = [mark for mark in marks if now_ms - mark[0] > retention_ms]
    # After a loss, what was appended once is owed again.
    up_to = min(expired[-1][1], progress.sent) if expired else 0
    return msgspec.structs.replace(progress, marks=marks[len(expired) :]), up_to


def _decode_progress(note: bytes | None) -> _Progress:
    if note is None:
        return _Progress()
    try:
        return msgspec.json.decode(note, type=_Progress)
    except msgspec.MsgspecError:
        return _Progress()  # all of the outbox is appended again
