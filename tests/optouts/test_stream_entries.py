"""What a reader makes of a stream: opt-outs are applied, come again, or are known to be missing."""

import random
from collections.abc import Iterator

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from bidstream_svc.core.errors import OptOutRecordError
from bidstream_svc.core.identity import IdentityScope
from bidstream_svc.optouts.optout_position import Position
from bidstream_svc.optouts.optout_records import OptOut, pack
from bidstream_svc.optouts.stream_entries import (
    Bearings,
    StreamEntry,
    Tip,
    advance,
    decode_bearings,
    encode_bearings,
    is_broken,
    is_level,
    parse_entry,
    parse_id,
    recover,
)

RETENTION_MS = 100_000


class Server:
    """The stream of a server, and what a server does to it. Its clock may go backwards in a fail-over."""

    def __init__(self, rng: random.Random) -> None:
        self.rng = rng
        self.now_ms = 1_000_000
        self.entries: list[StreamEntry] = []
        self.replica: list[StreamEntry] = []

    def append(self, optouts: list[OptOut], known: str, lost: str = "") -> str:
        last = self.entries[-1] if self.entries else None
        milliseconds = max(self.now_ms, parse_id(last.position.entry_id)[0] + 1) if last else self.now_ms
        entry_id = f"{milliseconds}-{self.rng.randrange(2**40)}"
        epoch = last.position.epoch if last else self.rng.randbytes(16)
        sequence = last.position.sequence + 1 if last else 1
        previous = last.position.entry_id if last else ""
        self.entries.append(
            StreamEntry(Position(epoch, sequence, entry_id), previous, optouts, lost or ("" if last else known))
        )
        return entry_id

    def holds(self, entry_id: str) -> bool:
        return any(entry.position.entry_id == entry_id for entry in self.entries)

    def inspect(self, known: list[str]) -> Tip:
        found = next((each for each in known if self.holds(each)), "")
        if not self.entries:
            return Tip(None, found=found)
        first = self.entries[0]
        return Tip(self.entries[-1].position, first.position.entry_id, first.position.sequence, first.previous, found)

    def read(self, after: str, count: int) -> list[StreamEntry]:
        return [entry for entry in self.entries if parse_id(entry.position.entry_id) > parse_id(after)][:count]


class Receiver:
    """Appends what it receives, and all of it again when its last entry is gone."""

    def __init__(self) -> None:
        self.outbox: list[OptOut] = []
        self.own = ""

    def publish(self, server: Server, optouts: list[OptOut], known: str) -> None:
        self.outbox += optouts
        lost = ""
        if self.own and not server.holds(self.own):
            lost, optouts = self.own, list(self.outbox)
        if optouts:
            self.own = server.append(optouts, known, lost)


class Reader:
    """What the follower does, without its I/O."""

    def __init__(self) -> None:
        self.bearings = Bearings()
        self.held: set[OptOut] = set()

    def step(self, server: Server, count: int) -> None:
        tip = server.inspect(self.bearings.known_ids)
        if is_broken(self.bearings, tip):
            self._recover(server)
        entries = server.read(self.bearings.cursor, count)
        read_up_to = entries[-1].position.entry_id if entries else self.bearings.cursor
        moved = advance(self.bearings, entries, read_up_to)
        self.held |= set(moved.optouts)
        self.bearings = moved.bearings
        if moved.is_broken:
            self._recover(server)

    def restart(self) -> None:
        self.bearings = decode_bearings(encode_bearings(self.bearings))

    def is_level(self, server: Server) -> bool:
        return is_level(self.bearings, server.inspect(self.bearings.known_ids))

    def _recover(self, server: Server) -> None:
        tip = server.inspect(self.bearings.known_ids)
        self.bearings = recover(self.bearings, tip, now_ms=server.now_ms, max_away_ms=RETENTION_MS)


STEPS = st.lists(
    st.sampled_from(["publish 0", "publish 1", "read", "read 1", "replicate", "fail over", "empty", "restart", "trim"]),
    max_size=60,
)


def _optouts(numbers: Iterator[int]) -> list[OptOut]:
    return [OptOut(IdentityScope.UID2, next(numbers).to_bytes(32, "big"), 1)]


@settings(max_examples=600)
@given(STEPS, st.integers(0, 2**32))
def test_who_is_level_has_everything(steps: list[str], seed: int) -> None:  # noqa: PLR0912 - a step a branch
    rng = random.Random(seed)  # noqa: S311 - repeatable
    server, numbers = Server(rng), iter(range(10**6))
    receivers, readers = [Receiver(), Receiver()], [Reader(), Reader(), Reader()]
    for step in steps:
        server.now_ms += rng.randrange(0, 500)
        match step.split():
            case ["publish", which]:
                newest = readers[int(which)].bearings.position
                receivers[int(which)].publish(server, _optouts(numbers), newest.entry_id if newest else "")
            case ["read", *few]:
                rng.choice(readers).step(server, 1 if few else 1000)
            case ["replicate"]:
                server.replica = list(server.entries)
            case ["fail", "over"]:
                server.entries = list(server.replica)
                server.now_ms -= rng.randrange(0, 2000)
            case ["empty"]:
                server.entries, server.replica = [], []
            case ["restart"]:
                rng.choice(readers).restart()
            case ["trim"]:
                server.entries = server.entries[-rng.randint(1, 3) :]
    for last in (0, 1, 0):  # the last time, both have looked after their last entries
        newest = readers[last].bearings.position
        receivers[last].publish(server, _optouts(numbers), newest.entry_id if newest else "")
    published = {optout for receiver in receivers for optout in receiver.outbox}
    for reader in readers:
        for _ in range(200):
            reader.step(server, 1000)
        if reader.bearings.gap:
            assert {"trim", "empty", "fail over"} & {*steps}
            assert not reader.is_level(server)
        else:
            assert reader.is_level(server)
            assert reader.held == published


def test_without_trimming_nobody_who_has_read_needs_a_snapshot() -> None:
    rng = random.Random(3)  # noqa: S311 - repeatable
    server, numbers = Server(rng), iter(range(1000))
    receiver, reader = Receiver(), Reader()
    for round_number in range(60):
        receiver.publish(server, _optouts(numbers), "")
        server.now_ms += 700
        reader.step(server, 1000)
        if round_number % 20 == 10:
            server.replica = list(server.entries)
        if round_number % 20 == 19:
            server.entries = list(server.replica)
    receiver.publish(server, [], "")
    reader.step(server, 1000)
    reader.step(server, 1000)
    assert not reader.bearings.gap
    assert reader.held == set(receiver.outbox)
    # It went back to a position near the loss, not to the beginning.
    assert len(reader.bearings.trail) < 12


@given(
    st.dictionaries(st.sampled_from([b"epoch", b"sequence", b"previous", b"optouts", b"lost"]), st.binary(max_size=40))
)
def test_any_fields_are_an_entry_or_none(fields: dict[bytes, bytes]) -> None:
    entry = parse_entry(b"1-1", fields)
    if entry is not None:
        advance(Bearings(), [entry], "1-1")


def test_an_entry_parses_back() -> None:
    optout = OptOut(IdentityScope.EUID, bytes(33), 5, 4)
    fields = {b"epoch": b"ab" * 16, b"sequence": b"3", b"previous": b"1-0", b"optouts": pack([optout]), b"lost": b"0-9"}
    assert parse_entry(b"2-7", fields) == StreamEntry(Position(b"\xab" * 16, 3, "2-7"), "1-0", [optout], "0-9")
    with pytest.raises(OptOutRecordError):
        parse_id("x")


def test_who_was_away_for_longer_than_what_is_lost_comes_again_needs_a_snapshot() -> None:
    rng = random.Random(1)  # noqa: S311 - repeatable
    server, numbers, receiver, reader = Server(rng), iter(range(100)), Receiver(), Reader()
    receiver.publish(server, _optouts(numbers), "")
    reader.step(server, 10)
    server.entries = []
    server.now_ms += RETENTION_MS + 1
    receiver.publish(server, _optouts(numbers), "")
    reader.step(server, 10)
    assert reader.bearings.gap
    reader.step(server, 10)
    assert reader.held == set(receiver.outbox)
    assert not reader.is_level(server)
