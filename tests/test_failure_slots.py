"""Sketches in shared memory: over an hour, over processes, and over processes that are killed."""

import os
import signal
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from typing import Any

import pytest

from bidstream_svc import FailureReason
from bidstream_svc.core.identity import IdentityScope
from bidstream_svc.metrics import MetricCells
from bidstream_svc.metrics.failure_slots import BUFFER_BYTES, FailureRow, FailureSlots, FailureWriter
from bidstream_svc.metrics.site_failures import NAMES, SITES, SLOT_S, SLOTS, Site, SitedFailure, SlotSketch
from tests.support.sidecar import wait_until

UID2 = IdentityScope.UID2
EXPIRED = FailureReason.EXPIRED
LONGEST_NAME = "\N{SNOWMAN}" * 85  # 255 bytes


def failures_of(site_id: int, count: int, name: str | None = None) -> list[SitedFailure]:
    return [SitedFailure(EXPIRED, Site(site_id, UID2), name)] * count


def shown(slots: FailureSlots, now_s: float) -> dict[str, Any]:
    hour = slots.hour(now_s)
    for sketch in slots.read():
        hour.add(sketch)
    return hour.describe()


@pytest.fixture
def slots(monkeypatch: pytest.MonkeyPatch) -> FailureSlots:
    """Of a service that was started at 0 of the monotonic clock."""
    monkeypatch.setattr(time, "monotonic", lambda: 0.0)
    return FailureSlots(2)


def test_the_window_is_the_slot_that_runs_and_an_hour_before_it(slots: FailureSlots) -> None:
    writer = FailureWriter(slots.row, 0.0)
    for slot in range(20):
        for minute in (1, 5):
            now_s = slot * SLOT_S + 60.0 * minute
            writer.add(10, failures_of(slot, 10), now_s)
            answer = shown(slots, now_s)
            whole = range(max(0, slot - SLOTS + 1), slot)
            sites = {each["site_id"]: each["failures"] for each in answer["sites"]}
            assert sites == {**dict.fromkeys(whole, 20), slot: 10 if minute == 1 else 20}
            assert answer["window_s"] == min(now_s, (SLOTS - 1) * SLOT_S + 60 * minute)


def test_failures_grow_old_without_new_ones(slots: FailureSlots) -> None:
    FailureWriter(slots.row, 0.0).add(5, failures_of(1, 5), 0.0)
    assert shown(slots, SLOTS * SLOT_S - 1.0)["failures"] == 5
    late = shown(slots, SLOTS * SLOT_S)
    assert (late["failures"], late["sites"], late["window_s"]) == (0, [], 3600)


def test_the_window_of_a_new_service_is_its_age(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(time, "monotonic", lambda: 1_000_000.0)
    slots = FailureSlots()
    assert shown(slots, 1_000_090.0)["window_s"] == 90
    assert shown(slots, 1_000_000.0)["window_s"] == 0


def test_rows_are_summed(slots: FailureSlots) -> None:
    for number, row in enumerate(slots.rows, 1):
        FailureWriter(row, 0.0).add(number * 10, failures_of(7, 5, f"name{number}.example"), 0.0)
    answer = shown(slots, 1.0)
    assert (answer["failures"], answer["sampled"]) == (30, 10)
    (site,) = answer["sites"]
    assert (site["failures"], site["share"], site["name"]) == (30, 1.0, "name2.example")


def test_a_row_is_continued(slots: FailureSlots) -> None:
    for restart in range(12):
        FailureWriter(slots.row, restart * 300.0).add(10, failures_of(7, 10), restart * 300.0)
    assert shown(slots, 12 * 300.0)["failures"] == 120
    assert len(list(slots.row.read())) == 6


def test_a_worker_takes_its_row_of_the_metrics() -> None:
    metrics = MetricCells(workers=2)
    for process in range(3):
        metrics.take_row(process)
        assert metrics.failures.row is metrics.failures.rows[min(process, 1)]  # the store of opt-outs has none


def test_the_largest_sketch_fits() -> None:
    slots = FailureSlots()
    writer = FailureWriter(slots.row, 0.0)
    for site in range(SITES):
        for reason in FailureReason:
            names = [chr(0x4E00 + NAMES * site + number) * 85 for number in range(NAMES)]
            found = [SitedFailure(reason, Site(2**32 - 1 - site, IdentityScope.EUID), name) for name in names]
            writer._sketch.add(2**40, found)
    for reason in FailureReason:
        writer._sketch.add(2**40, [SitedFailure(reason, None, LONGEST_NAME)])
    writer.add(2**40, [SitedFailure(EXPIRED, Site(2**32 - 1, IdentityScope.EUID), None)], 0.0)
    (sketch,) = slots.row.read()
    assert len(sketch.sites) == SITES
    assert all(
        len(tally.names) == NAMES and len(tally.reasons) == len(FailureReason) for tally in sketch.sites.values()
    )
    used = len(bytes(slots.row.buffers[0]).rstrip(b"\0"))
    assert 0.8 * BUFFER_BYTES < used < BUFFER_BYTES


# --- several processes


@contextmanager
def forked(work: Callable[[], None]) -> Iterator[int]:
    """Another process that does this; what is left of it is killed."""
    pid = os.fork()
    if pid == 0:
        try:
            work()
        finally:
            os._exit(0)
    try:
        yield pid
    finally:
        os.kill(pid, signal.SIGKILL)
        os.waitpid(pid, 0)


def write_for_ever(row: FailureRow, written: memoryview) -> None:
    """Write sketches in which every site has the same number of failures."""
    names = [f"{site}.a-name-that-takes-some-place.example" for site in range(200)]
    writer = FailureWriter(row, 0.0)
    while True:
        writer.add(200, [SitedFailure(EXPIRED, Site(site, UID2), name) for site, name in enumerate(names)], 0.0)
        written[0] = writer._sketch.failures


def assert_whole(sketch: SlotSketch) -> None:
    """Nothing of it is of another time."""
    assert len(sketch.sites) == 200
    assert {tally.seen for tally in sketch.sites.values()} == {sketch.failures / 200}


def is_above(integer: memoryview, limit: int) -> bool:
    return bool(integer[0] > limit)


def shared_integer() -> memoryview:
    return MetricCells().row


def test_a_reader_never_sees_half_of_a_write() -> None:
    slots, written = FailureSlots(), shared_integer()
    with forked(lambda: write_for_ever(slots.row, written)):
        wait_until(lambda: written[0], "the first write")
        last, changes = 0, 0
        deadline_s = time.monotonic() + 30
        while changes < 200 and time.monotonic() < deadline_s:
            before = written[0]
            (sketch,) = slots.row.read()
            assert_whole(sketch)
            assert sketch.failures >= max(last, before)
            changes += sketch.failures > last
            last = sketch.failures
    assert changes > 20


def test_a_killed_writer_loses_nothing_that_it_has_written() -> None:
    slots, written = FailureSlots(), shared_integer()
    for number in range(40):
        before = written[0]
        with forked(lambda: write_for_ever(slots.row, written)):
            wait_until(partial(is_above, written, before), "a write")
            time.sleep(number / 10_000)
        (sketch,) = slots.row.read()
        assert_whole(sketch)
        assert sketch.failures >= written[0]


def test_a_writer_that_is_killed_in_the_middle_of_a_write_leaves_the_write_before() -> None:
    """At every place of the write, in turn."""
    slots = FailureSlots()
    writer = FailureWriter(slots.row, 0.0)
    writer.add(1, failures_of(1, 1, "a.example"), 0.0)
    writer.add(1, failures_of(2, 1, "b.example"), 0.0)
    before = [bytes(buffer[:1024]) for buffer in slots.row.buffers]
    (sketch,) = slots.row.read()
    writer.add(1, failures_of(3, 1, "c.example"), 0.0)
    (changed,) = [place for place, buffer in enumerate(slots.row.buffers) if bytes(buffer[:1024]) != before[place]]
    after = bytes(slots.row.buffers[changed][:1024])
    length = len(after.rstrip(b"\0"))
    (whole,) = slots.row.read()
    assert (sketch.failures, whole.failures) == (2, 3)
    for cut in range(1, length):
        slots.row.buffers[changed][:1024] = after[:cut] + before[changed][cut:]
        (found,) = slots.row.read()
        assert found == (whole if after[:cut] + before[changed][cut:] == after else sketch)
        assert FailureWriter(slots.row, 0.0)._sketch == found
