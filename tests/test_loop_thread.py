"""Threads with a loop of their own, and the limit of the time that one may take."""

import asyncio
import os
import selectors
import socket
import threading
import time
from contextlib import ExitStack

from structlog.testing import capture_logs

from bidstream_svc.loop_thread import GilShareSelector, LoopThread
from tests.support.sidecar import DEADLINE_S, wait_until

SHARE = 0.1


def test_it_runs_until_it_is_stopped() -> None:
    events: list[str] = []

    async def main() -> None:
        try:
            events.append(threading.current_thread().name)
            await asyncio.Event().wait()
        finally:
            await asyncio.sleep(0)
            events.append("closed")

    thread = LoopThread("tested", main)
    thread.start()
    wait_until(lambda: events, "the start")
    assert thread.stop()
    assert events == ["tested", "closed"]
    thread.call_soon(events.append, "too late")
    assert events == ["tested", "closed"]


def test_a_failure_is_logged_and_reported() -> None:
    async def main() -> None:
        raise RuntimeError("a secret")

    has_failed = threading.Event()
    with capture_logs() as log:
        thread = LoopThread("tested", main, on_failure=has_failed.set)
        thread.start()
        assert has_failed.wait(DEADLINE_S)
        thread.stop()
    assert [(line["event"], line["thread"]) for line in log] == [("thread failed", "tested")]


def test_a_thread_that_does_not_end_is_left_behind() -> None:
    reading, writing = os.pipe()

    async def main() -> None:
        os.read(reading, 1)

    thread = LoopThread("stuck", main)
    thread.start()
    try:
        assert not thread.stop()
        assert LoopThread.left_behind == ["stuck"]
    finally:
        LoopThread.left_behind.clear()
        os.write(writing, b"x")
        wait_until(lambda: "stuck" not in {each.name for each in threading.enumerate()}, "its end")
        os.close(reading)
        os.close(writing)


def run_limited(main: "asyncio._CoroutineLike[None]", selector: GilShareSelector) -> None:
    loop = asyncio.SelectorEventLoop(selector)
    try:
        loop.run_until_complete(main)
    finally:
        loop.close()


def busy_for(seconds: float) -> None:
    """Compute for so much processor time."""
    end_s = time.thread_time() + seconds
    while time.thread_time() < end_s:
        pass


def test_a_busy_loop_gets_its_share_only() -> None:
    """The processor time is measured, and only a bound on the elapsed time from below is asserted."""

    async def main() -> None:
        for _ in range(50):
            busy_for(0.001)
            await asyncio.sleep(0)

    started_s, used_s = time.monotonic(), time.thread_time()
    run_limited(main(), GilShareSelector(SHARE))
    used_s = time.thread_time() - used_s
    assert time.monotonic() - started_s > 0.5 * used_s / SHARE


def test_a_lifted_limit_is_none() -> None:
    pauses = []
    selector = GilShareSelector(SHARE)

    async def main() -> None:
        selector.lift()
        await asyncio.sleep(0)
        for _ in range(50):
            before_s = time.thread_time()
            busy_for(0.001)
            started_s = time.monotonic()
            await asyncio.sleep(0)
            pauses.append((time.monotonic() - started_s) / (time.thread_time() - before_s))

    run_limited(main(), selector)
    assert min(pauses) < 1


def ready_pair(stack: ExitStack) -> socket.socket:
    """A socket that is always ready, because what it has received is never read."""
    ours, theirs = socket.socketpair()
    stack.enter_context(ours)
    stack.enter_context(theirs)
    theirs.send(b"x")
    return ours


def served(selector: GilShareSelector, times: int) -> list[int]:
    """The descriptors of the next events."""
    found = [selector.select(0) for _ in range(times)]
    assert {len(events) for events in found} == {1}
    return [key.fd for events in found for key, _ in events]


def test_events_come_one_at_a_time_and_in_turn() -> None:
    with ExitStack() as stack, GilShareSelector(1) as selector:
        sockets = [ready_pair(stack) for _ in range(20)]
        for each in sockets:
            selector.register(each, selectors.EVENT_READ)
        order = served(selector, 3 * len(sockets))
        assert set(order) == {each.fileno() for each in sockets}
        turns = [order[-2 * len(sockets) : -len(sockets)], order[-len(sockets) :]]
        assert len(set(turns[0])) == len(sockets)
        assert turns[0] == turns[1]


def test_busy_files_do_not_delay_new_ones_or_those_that_were_quiet() -> None:
    with ExitStack() as stack, GilShareSelector(1) as selector:
        quiet, new, *busy = (ready_pair(stack) for _ in range(100))
        selector.register(quiet, selectors.EVENT_READ)
        served(selector, 1)
        selector.modify(quiet, 0)
        for each in busy:
            selector.register(each, selectors.EVENT_READ)
        served(selector, 500)
        selector.modify(quiet, selectors.EVENT_READ)
        selector.register(new, selectors.EVENT_READ)
        assert {quiet.fileno(), new.fileno()} <= set(served(selector, 20))


def test_new_files_do_not_keep_out_others_and_urgent_ones_come_first() -> None:
    urgent: list[int] = []
    with ExitStack() as stack, GilShareSelector(1, lambda: urgent) as selector:
        known = ready_pair(stack)
        selector.register(known, selectors.EVENT_READ)
        served(selector, 1)
        for _ in range(100):
            selector.register(ready_pair(stack), selectors.EVENT_READ)
        assert served(selector, 20).count(known.fileno()) >= 2
        first = ready_pair(stack)
        urgent.append(first.fileno())
        selector.register(first, selectors.EVENT_READ)
        assert served(selector, 40).count(first.fileno()) >= 4


def test_an_event_of_a_socket_that_was_unregistered_meanwhile_is_dropped() -> None:
    with GilShareSelector(1) as selector, ExitStack() as stack:
        pairs = [socket.socketpair() for _ in range(3)]
        for ours, theirs in pairs:
            stack.enter_context(ours)
            stack.enter_context(theirs)
            selector.register(ours, selectors.EVENT_READ)
            theirs.send(b"x")
        ((first, _),) = selector.select(0)
        gone, changed = (ours for ours, _ in pairs if ours.fileno() != first.fd)
        selector.unregister(gone)
        selector.unregister(changed)
        new = selector.register(changed, selectors.EVENT_READ, "new")
        later = [key for _ in range(4) for key, _ in selector.select(0)]
        assert gone.fileno() not in {key.fd for key in later}
        assert {key is new for key in later if key.fd == changed.fileno()} == {True}


def test_another_thread_wakes_the_loop() -> None:
    woken = threading.Event()

    async def main() -> None:
        asyncio.get_running_loop().call_later(DEADLINE_S, lambda: None)
        await asyncio.Event().wait()

    thread = LoopThread("tested", main, GilShareSelector(SHARE))
    thread.start()
    thread.call_soon(woken.set)
    assert woken.wait(DEADLINE_S)
    assert thread.stop()
