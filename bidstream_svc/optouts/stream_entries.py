"""Entries of the stream, and what a reader makes of them: pure.

`Bearings` is a reader's state, kept in the store. `advance` applies entries that follow what it has read; `recover`
says what to do about entries that do not. `stream_scripts` describes the fields of an entry.
"""

from collections.abc import Mapping, Sequence
from typing import NamedTuple, Self

import msgspec

from bidstream_svc.core.errors import OptOutRecordError
from bidstream_svc.optouts.optout_position import Position
from bidstream_svc.optouts.optout_records import OptOut, unpack

_BEFORE_FIRST = "0-0"
_TRAIL_STEP_MS = 1_000

Id = tuple[int, int]


class StreamEntry(NamedTuple):
    """An entry of the stream.

    Attributes:
        position: where it is.
        previous: the id of the entry before it; empty for the first of a stream.
        optouts: what it carries; None if that cannot be read.
        lost: the id of an older entry that the server has lost; empty for none.
    """

    position: Position
    previous: str
    optouts: list[OptOut] | None
    lost: str = ""


class Appended(NamedTuple):
    """The last entry of the stream after a call of `StreamClient.append`, and whether the call appended it."""

    position: Position
    is_new: bool


class Tip(NamedTuple):
    """Where the stream begins and ends.

    Attributes:
        last: its last entry; None if it is empty.
        first_id, first_sequence, first_previous: of its first entry.
        found: the first of the ids asked for that it holds; empty for none.
    """

    last: Position | None
    first_id: str = ""
    first_sequence: int = 0
    first_previous: str = ""
    found: str = ""


class Bearings(msgspec.Struct, frozen=True, kw_only=True):
    """What a reader has read.

    Attributes:
        position: the last entry applied; None before the first.
        cursor: the id after which to read on: that of the position, or of an entry of others behind it.
        link: `previous` of the entry that has to come next; None if any may come.
        trail: earlier positions, the newest first, to go back to when the server has lost the latest entries.
        began_id: the id of the stream's very first entry, if all that the store has from others came from this stream.
        gap: why opt-outs may be missing until a snapshot has been merged; empty if none are.
    """

    position: Position | None = None
    cursor: str = _BEFORE_FIRST
    link: str | None = ""
    trail: tuple[Position, ...] = ()
    began_id: str = ""
    gap: str = ""

    @classmethod
    def at(cls, position: Position) -> Self:
        """Return the bearings of a store that has everything up to a position."""
        return cls(position=position, cursor=position.entry_id, link=position.entry_id, trail=(position,))

    @property
    def known_ids(self) -> list[str]:
        """The ids of the position and the trail, the newest first."""
        return [each.entry_id for each in (*((self.position,) if self.position else ()), *self.trail)]


class Advance(NamedTuple):
    """What `advance` returns.

    Attributes:
        bearings: after the entries that follow.
        optouts: what those entries carry.
        is_broken: whether an entry did not follow, and `recover` is needed.
    """

    bearings: Bearings
    optouts: list[OptOut]
    is_broken: bool


def parse_id(entry_id: str) -> Id:
    """Parse `MILLISECONDS-NUMBER`; ids are ordered as these pairs are. The empty id is before all others.

    Raises:
        OptOutRecordError: it is something else.
    """
    if not entry_id:
        return 0, 0
    milliseconds, _, number = entry_id.partition("-")
    try:
        return int(milliseconds), int(number)
    except ValueError:
        raise OptOutRecordError("not an id of a stream's entry") from None


def parse_entry(entry_id: bytes, fields: Mapping[bytes, bytes]) -> StreamEntry | None:
    """Parse an entry; None for one without our fields, which others must have added. `previous` does not name those."""
    try:
        position = _parse_position(fields[b"epoch"].decode(), fields[b"sequence"].decode(), entry_id.decode())
        previous, lost = fields[b"previous"].decode(), fields.get(b"lost", b"").decode()
        packed = fields[b"optouts"]
        parse_id(lost)
    except (KeyError, ValueError):
        return None
    try:
        return StreamEntry(position, previous, unpack(packed), lost)
    except OptOutRecordError:
        return StreamEntry(position, previous, None, lost)


def parse_appended(answer: Sequence[bytes]) -> Appended | None:
    """Parse the answer of the script `APPEND`."""
    outcome, entry_id, epoch, sequence = (field.decode() for field in answer)
    if outcome == "lost":
        return None
    return Appended(_parse_position(epoch, sequence, entry_id), outcome == "appended")


def parse_tip(answer: Sequence[bytes], asked: Sequence[str]) -> Tip:
    """Parse the answer of the script `INSPECT`, which was called with the ids `asked`."""
    last_id, epoch, sequence, first_id, first_sequence, first_previous, place = (field.decode() for field in answer)
    found = asked[int(place) - 1] if int(place) else ""
    if not last_id:
        return Tip(None, found=found)
    last = _parse_position(epoch, sequence, last_id)
    return Tip(last, first_id, int(first_sequence or "0"), first_previous, found)


def advance(bearings: Bearings, entries: Sequence[StreamEntry], read_up_to: str) -> Advance:
    """Apply entries in order, up to one that does not follow the entry before it. `read_up_to` is the last id read.

    In a gap every entry is applied: what it carries is right, whatever is missing before it.
    """
    optouts: list[OptOut] = []
    for entry in entries:
        if not bearings.gap and not _follows(bearings, entry):
            return Advance(_leave_mark(bearings), optouts, is_broken=True)
        optouts += entry.optouts or ()
        bearings = _step(bearings, entry)
    return Advance(msgspec.structs.replace(_leave_mark(bearings), cursor=read_up_to), optouts, is_broken=False)


def is_broken(bearings: Bearings, tip: Tip) -> bool:
    """Whether the stream cannot be read on from a reader's position: it is empty, or ends before the position."""
    if bearings.position is None or bearings.cursor == _BEFORE_FIRST:
        return False
    return tip.last is None or parse_id(tip.last.entry_id) < parse_id(bearings.position.entry_id)


def is_level(bearings: Bearings, tip: Tip) -> bool:
    """Whether a reader has applied everything up to the end of the stream, and misses nothing."""
    position, last = bearings.position, tip.last
    if position is None or last is None or bearings.gap or bearings.link != position.entry_id:
        return False
    return parse_id(position.entry_id) >= parse_id(last.entry_id)


def recover(bearings: Bearings, tip: Tip, *, now_ms: int, max_away_ms: int) -> Bearings:
    """Return how to read on where entries do not follow a reader's position.

    Args:
        bearings: the reader's.
        tip: the answer to the question for `bearings.known_ids`.
        now_ms: Unix ms.
        max_away_ms: the time for which receivers certainly append again what the server has lost; less than the
            retention, and less than the time for which they keep it.

    What the server has lost comes again: every receiver whose last entry is gone appends all that it has received
    within the retention. So a reader that was level within that time only has to read the stream that there is: from
    the last of its positions which that still holds, or from its first entry. Otherwise, or where the stream's
    beginning or entries in between were removed, there is a gap: read all that there is, and get a snapshot.
    """
    position = bearings.position
    is_complete = tip.first_sequence == 1 and not tip.first_previous
    if bearings.gap:
        return msgspec.structs.replace(bearings, cursor=_BEFORE_FIRST, link=None)
    if tip.last is None:
        return bearings  # what comes will not follow
    if position is None:
        return bearings if is_complete else _open_gap(bearings, "the stream does not go back to its beginning")
    if now_ms - parse_id(position.entry_id)[0] > max_away_ms:
        return _open_gap(bearings, "away for longer than the stream is kept")
    if tip.found == position.entry_id:
        return _open_gap(bearings, "entries were removed from the stream")
    if tip.found:
        trail = bearings.trail
        place = next(place for place, each in enumerate(trail) if each.entry_id == tip.found)
        back = trail[place]
        return msgspec.structs.replace(
            bearings, position=back, cursor=back.entry_id, link=back.entry_id, trail=trail[place + 1 :]
        )
    if is_complete:
        return msgspec.structs.replace(bearings, cursor=_BEFORE_FIRST, link="", trail=())
    return _open_gap(bearings, "entries were trimmed before they were read")


def encode_bearings(bearings: Bearings) -> bytes:
    """Encode bearings for the store."""
    return msgspec.json.encode(bearings)


def decode_bearings(encoded: bytes | None) -> Bearings:
    """Decode what `encode_bearings` encodes; None, and what it does not encode, is a reader that knows nothing."""
    if encoded is None:
        return Bearings()
    try:
        return msgspec.json.decode(encoded, type=Bearings)
    except msgspec.MsgspecError:
        return _open_gap(Bearings(), "the state of the reader cannot be read")


def _follows(bearings: Bearings, entry: StreamEntry) -> bool:
    if entry.previous != bearings.link:
        return False
    position = bearings.position
    if position is None or position.epoch != entry.position.epoch or not bearings.link:
        return entry.position.sequence == 1
    return entry.position.sequence == position.sequence + 1


def _step(bearings: Bearings, entry: StreamEntry) -> Bearings:
    entry_id = entry.position.entry_id
    is_beginning = bearings.position is None and not bearings.gap
    began_id = entry_id if is_beginning else bearings.began_id
    gap = bearings.gap
    if entry.optouts is None:
        gap = gap or "an entry of the stream cannot be read"
    elif began_id and entry.lost and parse_id(entry.lost) < parse_id(began_id):
        # Not what the stream begins with, but what a server began with that had lost everything.
        gap = gap or "there are opt-outs from before the beginning of the stream"
    return Bearings(
        position=entry.position,
        cursor=entry_id,
        link=None if gap else entry_id,
        trail=bearings.trail,
        began_id=began_id,
        gap=gap,
    )


def _open_gap(bearings: Bearings, reason: str) -> Bearings:
    return msgspec.structs.replace(bearings, cursor=_BEFORE_FIRST, link=None, gap=reason)


def _leave_mark(bearings: Bearings) -> Bearings:
    """Add the position to the trail, and keep earlier ones whose ages about double from one to the next."""
    position, trail = bearings.position, bearings.trail
    if position is None or bearings.gap:
        return bearings
    now_ms = parse_id(position.entry_id)[0]
    if trail and now_ms - parse_id(trail[0].entry_id)[0] < _TRAIL_STEP_MS:
        return bearings
    oldest_of_age: dict[int, Position] = {}
    for each in (position, *trail):
        age_ms = now_ms - parse_id(each.entry_id)[0]
        oldest_of_age[(age_ms // _TRAIL_STEP_MS).bit_length()] = each
    return msgspec.structs.replace(bearings, trail=tuple(oldest_of_age.values()))


def _parse_position(epoch: str, sequence: str, entry_id: str) -> Position:
    try:
        return Position(bytes.fromhex(epoch), int(sequence), entry_id)
    except ValueError:
        raise OptOutRecordError("not an entry of the stream of opt-outs") from None
