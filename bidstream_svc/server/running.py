"""Runs a service of one process until a stop signal."""

import signal
from collections.abc import Callable, Collection
from contextlib import AbstractAsyncContextManager, AsyncExitStack
from typing import Any, Protocol

from bidstream_svc.core.errors import ThreadFailedError
from bidstream_svc.server.descriptors import raise_descriptor_limit
from bidstream_svc.server.heap import fix_mmap_threshold
from bidstream_svc.server.service import first_of, handle_signals
from bidstream_svc.server.stop_signals import StopSignals


class Running(AbstractAsyncContextManager[Any], Protocol):
    """A service, which works while entered."""

    @property
    def failed(self) -> Any:
        """An asyncio.Event that is set when a thread has failed."""

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
