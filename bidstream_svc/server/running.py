"""What every process that serves needs: its loop, its housekeeping, its end by a signal or a failure."""

import asyncio
import signal
import time
from collections.abc import Awaitable, Callable, Collection, Coroutine, Iterator
from contextlib import AbstractAsyncContextManager, AsyncExitStack, contextmanager, suppress
from typing import Any, Protocol

import uvloop

from bidstream_svc.core.errors import ThreadFailedError
from bidstream_svc.core.units import NS_PER_S
from bidstream_svc.metrics import MetricCells
from bidstream_svc.metrics.cells import EVENT_LOOP_LAG_NS, HEARTBEAT_NS
from bidstream_svc.server.descriptors import raise_descriptor_limit
from bidstream_svc.server.heap import fix_mmap_threshold
from bidstream_svc.server.stop_signals import StopSignals
from bidstream_svc.server.systemd import ServiceManager

_HOUSEKEEPING_PERIOD_S = 0.5


class ThreadFailure(asyncio.Event):
    """Set when a thread has failed: the process must end, because nothing replaces the thread."""

    def __init__(self) -> None:
        super().__init__()
        self._own_loop = asyncio.get_running_loop()

    def note(self) -> None:
        """Set it; any thread may call this."""
        with suppress(RuntimeError):  # the loop is closed
            self._own_loop.call_soon_threadsafe(self.set)


class Running(AbstractAsyncContextManager[Any], Protocol):
    """A service, which works while entered."""

    failed: ThreadFailure

    def reload(self) -> None:
        """Look for changed files."""

    async def drain(self) -> None:
        """Finish the requests in flight."""


async def run_until_stopped(
    make: Callable[[AsyncExitStack], Running],
    drain_timeout_s: float,
    stop_signals: Collection[int] = (signal.SIGTERM, signal.SIGINT),
) -> None:
    """Run a service until a stop signal, then drain. A second stop signal ends draining. SIGHUP re-reads files.

    The process must end after it returns; see StopSignals.

    Args:
        make: makes the service; the stack is closed after it.
        drain_timeout_s: how long draining may take.
        stop_signals: the signals that stop it.

    Raises:
        BidstreamError: it cannot start, or one of its threads has failed.
    """
    fix_mmap_threshold()
    raise_descriptor_limit()
    stop = StopSignals(stop_signals, drain_timeout_s)
    async with AsyncExitStack() as stack:
        stack.enter_context(stop.handling())
        service = make(stack)
        stack.enter_context(handle_signals([signal.SIGHUP], service.reload))
        await stack.enter_async_context(service)
        await first_of(stop.first.wait(), service.failed.wait())
        await first_of(service.drain(), stop.second.wait())
    if service.failed.is_set():
        raise ThreadFailedError("a thread of the service failed; the log says why")


@contextmanager
def housekeeping(
    metrics: MetricCells, manager: ServiceManager, keep_house: Callable[[], Awaitable[object]]
) -> Iterator[None]:
    """Keep house at intervals, until exit, and record that the event loop turns, and how late; the first time now.

    Args:
        metrics: takes the heartbeat and the lag.
        manager: gets the heartbeat, too, and may shorten the interval.
        keep_house: called after each interval.
    """
    period_s = manager.period_s(_HOUSEKEEPING_PERIOD_S)

    def beat() -> None:
        metrics.set(HEARTBEAT_NS, time.monotonic_ns())
        manager.beat()

    async def turn() -> None:
        while True:
            due_s = time.monotonic() + period_s
            await asyncio.sleep(period_s)
            metrics.set(EVENT_LOOP_LAG_NS, max(0, int((time.monotonic() - due_s) * NS_PER_S)))
            beat()
            await keep_house()

    beat()
    turning = asyncio.create_task(turn())
    try:
        yield
    finally:
        turning.cancel()


@contextmanager
def handle_signals(numbers: Collection[int], handle: Callable[[], object]) -> Iterator[None]:
    """Call `handle` in the running loop for each of these signals; on exit, restore the default actions."""
    loop = asyncio.get_running_loop()
    for number in numbers:
        loop.add_signal_handler(number, handle)
    signal.pthread_sigmask(signal.SIG_UNBLOCK, numbers)  # those that came during the start are handled now
    try:
        yield
    finally:
        for number in numbers:
            loop.remove_signal_handler(number)


async def first_of(*coroutines: Coroutine[Any, Any, object]) -> None:
    """Run coroutines until one ends, then cancel the others and wait for them to end.

    An exception of the one that ended is raised.
    """
    tasks = [asyncio.ensure_future(coroutine) for coroutine in coroutines]
    done, pending = await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
    for task in pending:
        task.cancel()
    if pending:
        await asyncio.wait(pending)
    for task in done:
        task.result()


def run(main: Coroutine[Any, Any, None]) -> None:
    """Run a coroutine on uvloop until it returns."""
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        runner.run(main)
