"""Puts many opt-outs into a store, millions in seconds, beside a service that uses it.

What is read is sorted in memory in runs, because LMDB writes each page that changes in a transaction. While one run is
written, in a thread, the next one is read: native code decodes and sorts without the interpreter's lock. Ids that are
all behind those of the store are appended, which fills the pages. Where another process uses the store, transactions
are short, because a webhook waits for its turn to write.
"""

from concurrent.futures import Future, ThreadPoolExecutor
from typing import TYPE_CHECKING, Protocol

from bidstream_svc.core.errors import OptOutRecordError
from bidstream_svc.core.identity import IdentityScope
from bidstream_svc.core.kernel import IS_NATIVE
from bidstream_svc.optouts.optout_records import (
    RAW_ID_LENGTHS,
    TIMES_BYTES,
    OptOut,
    clamp_time_s,
    decode_raw_id,
    encode_record,
    scope_of_raw_id,
)
from bidstream_svc.optouts.optout_store import OptOutStore
from bidstream_svc.optouts.optout_tables import join_pairs, pair_bytes

if IS_NATIVE or TYPE_CHECKING:
    from bidstream_svc.core.kernel import OptOutRun

# Two runs of them take about 400 MB for a moment.
RUN_IDS = 2_000_000
# Much of a transaction's time is that of the disk, and the same for any number of ids.
_MIN_CHUNK_IDS, _MAX_CHUNK_IDS, _MAX_CHUNK_ALONE_IDS = 5_000, 50_000, 1_000_000
_MAX_WRITE_S, _MAX_WRITE_ALONE_S = 0.012, 1.0
# The programmes of the parts of a run, where nobody says which: ids of 32 bytes do not tell it.
_TOLD_SCOPES = (IdentityScope.UID2, *IdentityScope)
_ID_LENGTHS = (32, 33, 33)
MAX_MALFORMED = 1_000  # line numbers that are kept


class _Run(Protocol):
    def __len__(self) -> int: ...
    def add_lines(self, lines: bytes, arrived_s: int) -> tuple[list[int], int]: ...
    def add_record(self, record: bytes) -> None: ...
    def take(self, *, splits: bool) -> list[bytes]: ...


_MAX_TIME_DIGITS = 20


class OptOutImport:
    """An import. Lines are a raw uid in base64, and perhaps a comma and the time of the opt-out in Unix seconds.

    Args:
        store: to import into.
        scope: the programme of the ids; None for the one that each id tells, and UID2 for those that tell none.
        arrived_s: the time of arrival.

    Attributes:
        lines: how many have been read.
        added: how many ids were new.
        found: how many ids have been written or were there before, which is less than the lines because of repetitions.
        malformed: how many lines are no opt-outs.
        malformed_lines: the numbers of the first ones, from 1.
    """

    def __init__(self, store: OptOutStore, scope: IdentityScope | None, arrived_s: int) -> None:
        self.lines = self.added = self.found = self.malformed = 0
        self.malformed_lines: list[int] = []
        self._store = store
        self._scope = scope
        self._arrived_s = arrived_s
        self._is_owed = store.is_in_stream
        self._run = _new_run()
        self._writer = ThreadPoolExecutor(1, "optout-import")
        self._writing: Future[None] | None = None
        self._chunk_ids = _MIN_CHUNK_IDS

    def add_lines(self, lines: bytes) -> None:
        """Add whole lines, of about 1 MB.

        Raises:
            OptOutStoreError: the store cannot be written to. What has been written stays.
        """
        others, count = self._run.add_lines(lines, self._arrived_s)
        if others:
            self._decide(lines, others)
        self.lines += count
        if len(self._run) >= RUN_IDS:
            self._begin_to_write()

    def finish(self) -> None:
        """Write what has been read.

        Raises:
            OptOutStoreError: as for `add_lines`.
        """
        self._begin_to_write()
        self._wait()

    def _begin_to_write(self) -> None:
        """Write the run, after the one before it."""
        self._wait()
        run, self._run = self._run, _new_run()
        self._writing = self._writer.submit(self._write, run)

    def _wait(self) -> None:
        writing, self._writing = self._writing, None
        if writing is not None:
            writing.result()

    def _decide(self, lines: bytes, others: list[int]) -> None:
        """Add those lines that are unusual, and count those that are malformed."""
        split = lines.split(b"\n")
        for number in others:
            optout = _parse_line(split[number], self._arrived_s)
            if optout is not None:
                self._run.add_record(encode_record(optout))
                continue
            self.malformed += 1
            if len(self.malformed_lines) < MAX_MALFORMED:
                self.malformed_lines.append(self.lines + number + 1)

    # In the thread.

    def _write(self, run: _Run) -> None:
        parts = run.take(splits=self._scope is None)
        for told_scope, id_length, pairs in zip(_TOLD_SCOPES, _ID_LENGTHS, parts, strict=True):
            self._write_pairs(told_scope if self._scope is None else self._scope, id_length, pairs)

    def _write_pairs(self, scope: IdentityScope, id_length: int, pairs: bytes) -> None:
        size = pair_bytes(id_length)
        start = 0
        while start < len(pairs):
            chunk = pairs[start : start + self._chunk_ids * size]
            added = self._store.add_records({(scope, id_length): chunk}, is_owed=self._is_owed)
            self.added += added
            self.found += len(chunk) // size
            start += len(chunk)
            if added:
                self._adapt(len(chunk) // size)

    def _adapt(self, ids: int) -> None:
        """Choose the size of the next transaction by the time that the last one took."""
        is_alone = self._store.is_alone
        max_write_s = _MAX_WRITE_ALONE_S if is_alone else _MAX_WRITE_S
        wanted = int(ids * min(2.0, max_write_s / max(self._store.last_write_s, 1e-6)))
        self._chunk_ids = min(max(wanted, _MIN_CHUNK_IDS), _MAX_CHUNK_ALONE_IDS if is_alone else _MAX_CHUNK_IDS)


def _new_run() -> _Run:
    return OptOutRun() if IS_NATIVE else _PythonRun()


class _PythonRun:
    """As the native one, for an installation without it."""

    def __init__(self) -> None:
        self._records: dict[int, dict[bytes, bytes]] = {length: {} for length in sorted(RAW_ID_LENGTHS)}

    def __len__(self) -> int:
        return sum(map(len, self._records.values()))

    def add_lines(self, lines: bytes, arrived_s: int) -> tuple[list[int], int]:
        split = lines.split(b"\n")
        if not split[-1]:
            split.pop()
        others = []
        for number, line in enumerate(split):
            if line.strip():
                optout = _parse_line(line, arrived_s)
                if optout is None:
                    others.append(number)
                else:
                    self._records[len(optout.raw_id)].setdefault(optout.raw_id, encode_record(optout))
        return others, len(split)

    def add_record(self, record: bytes) -> None:
        length = len(record) - TIMES_BYTES
        self._records[length].setdefault(record[:length], record)

    def take(self, *, splits: bool) -> list[bytes]:
        short, long = (sorted(records.values()) for records in self._records.values())
        for records in self._records.values():
            records.clear()
        parts: dict[IdentityScope, list[bytes]] = {scope: [] for scope in IdentityScope}
        for record in long:
            told_scope = scope_of_raw_id(record[:-TIMES_BYTES]) if splits else None
            parts[told_scope or IdentityScope.UID2].append(record)
        return [join_pairs(short), *map(join_pairs, parts.values())]


def _parse_line(line: bytes, arrived_s: int) -> OptOut | None:
    text, _, time_text = line.decode("utf-8", "replace").strip().partition(",")
    try:
        raw_id = decode_raw_id(text.strip())
    except OptOutRecordError:
        return None
    # The time is for information: without a good one, the id counts all the same.
    time_text = time_text.strip()[:_MAX_TIME_DIGITS]
    entry_s = clamp_time_s(int(time_text)) if time_text.isascii() and time_text.isdecimal() else None
    return OptOut(scope_of_raw_id(raw_id) or IdentityScope.UID2, raw_id, arrived_s, entry_s)
