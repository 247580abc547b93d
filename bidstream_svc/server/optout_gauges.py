"""What the process of the opt-out store knows, in the cells from which every process tells it."""

from collections.abc import Iterable
from contextlib import suppress

from bidstream_svc.clock import wall_clock_ms
from bidstream_svc.core.errors import OptOutStoreError
from bidstream_svc.core.units import MS_PER_S
from bidstream_svc.metrics import MetricCells
from bidstream_svc.metrics.cells import (
    OPTOUT_APPLIED_MS,
    OPTOUT_EPOCH,
    OPTOUT_GAP,
    OPTOUT_IS_LEVEL,
    OPTOUT_OWED,
    OPTOUT_SEQUENCE,
    OPTOUT_STREAM_CONNECTED,
    OPTOUT_STREAM_LAST_CONTACT_MS,
    OPTOUTS,
)
from bidstream_svc.optouts.optout_records import OptOut
from bidstream_svc.optouts.optout_store import OptOutStore
from bidstream_svc.optouts.stream_link import StreamLink

_NOTE = "applied"
_WORD_BYTES = 8


class OptOutGauges:
    """Writes the cells of this process.

    Args:
        metrics: the cells; this process has taken its row.
        store: the store.
        link: its part in the stream; None without.

    Raises:
        OptOutStoreError: the store cannot be read.
    """

    def __init__(self, metrics: MetricCells, store: OptOutStore, link: StreamLink | None) -> None:
        self._metrics = metrics
        self._store = store
        self._link = link
        note = store.read_note(_NOTE)
        self._received_s = self._saved_s = 0 if note is None else int.from_bytes(note, "big")
        if link is not None:
            # So that the alert for a stale store fires for one that never is in contact, too.
            metrics.set(OPTOUT_STREAM_LAST_CONTACT_MS, wall_clock_ms())

    def note_received(self, optouts: Iterable[OptOut]) -> None:
        """Note opt-outs of the webhook; called in the thread of the writer."""
        newest_s = max((optout.opted_out_s for optout in optouts), default=0)
        self._received_s = max(self._received_s, newest_s)
        self._record_store()

    def record(self) -> None:
        """Write all cells."""
        self._record_store()
        if self._link is None:
            return
        state = self._link.follower
        # A server may answer readers and refuse writers: it is out of memory, a replica, or its access rules say so.
        is_connected = state.is_connected and self._link.publisher.is_connected
        self._metrics.set(OPTOUT_STREAM_CONNECTED, int(is_connected))
        self._metrics.set(OPTOUT_OWED, self._link.publisher.owed)
        self._metrics.set(OPTOUT_GAP, int(bool(state.gap)))
        if state.level_ms:
            self._metrics.set(OPTOUT_STREAM_LAST_CONTACT_MS, state.level_ms)
            self._metrics.set(OPTOUT_IS_LEVEL, 1)
        if state.position is not None:
            for place, cell in OPTOUT_EPOCH.items():
                half = state.position.epoch[place * _WORD_BYTES :][:_WORD_BYTES]
                self._metrics.set(cell, int.from_bytes(half, "big", signed=True))
            self._metrics.set(OPTOUT_SEQUENCE, state.position.sequence)

    def save(self) -> None:
        """Keep in the store what a restart would lose; blocks."""
        applied_s = self._applied_s
        if applied_s != self._saved_s:
            with suppress(OptOutStoreError):
                self._store.write_notes({_NOTE: applied_s.to_bytes(_WORD_BYTES, "big")})
                self._saved_s = applied_s

    @property
    def _applied_s(self) -> int:
        from_stream_s = 0 if self._link is None else self._link.follower.applied_entry_s
        return max(self._received_s, from_stream_s)

    def _record_store(self) -> None:
        self._metrics.set(OPTOUT_APPLIED_MS, self._applied_s * MS_PER_S)
        with suppress(OptOutStoreError):
            self._metrics.set(OPTOUTS, self._store.count())
