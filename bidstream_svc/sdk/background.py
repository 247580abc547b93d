"""The event loop, in a daemon thread, on which all synchronous clients of a process make their calls.

So the protocol is implemented once, for asyncio, and clients are thread-safe. After a fork, the child starts its own
loop and opens its own connections.
"""

import asyncio
import atexit
import os
import threading
import weakref
from collections.abc import Coroutine
from typing import Any, TypeVar

from bidstream_svc.operator import OperatorTransport

_T = TypeVar("_T")


class _BackgroundLoop:
    def __init__(self) -> None:
        self.open_transports: set[OperatorTransport] = set()
        self._closing: set[asyncio.Task[None]] = set()
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, name="bidstream-svc-sdk", daemon=True)
        self._thread.start()

    def run(self, coroutine: Coroutine[Any, Any, _T]) -> _T:
        """Run a coroutine on the loop and wait for its result."""
        if threading.current_thread() is self._thread:
            coroutine.close()
            raise RuntimeError("a synchronous client was called from inside one of its own callbacks")
        future = asyncio.run_coroutine_threadsafe(coroutine, self._loop)
        try:
            return future.result()
        except BaseException:  # such as KeyboardInterrupt: the call must not continue in the background
            future.cancel()
            raise

    def start_closing(self, transport: OperatorTransport) -> None:
        """Close a transport without waiting. Any thread may call this, also the loop's."""
        if not self._loop.is_closed():
            self._loop.call_soon_threadsafe(self._close_in_task, transport)

    def _close_in_task(self, transport: OperatorTransport) -> None:
        task = self._loop.create_task(self.close_transport(transport))
        self._closing.add(task)
        task.add_done_callback(self._closing.discard)

    async def close_transport(self, transport: OperatorTransport) -> None:
        self.open_transports.discard(transport)
        await transport.__aexit__(None, None, None)

    def stop(self) -> None:
        """Close all transports, the thread and the loop, so that the program ends without ResourceWarnings."""
        self.run(self._close_all())
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join()
        self._loop.close()

    async def _close_all(self) -> None:
        for transport in tuple(self.open_transports):
            await self.close_transport(transport)
        await asyncio.gather(*self._closing)
        await self._loop.shutdown_default_executor()


_lock = threading.Lock()
_current: _BackgroundLoop | None = None
_abandoned: list[_BackgroundLoop] = []


def _get_loop() -> _BackgroundLoop:
    global _current  # noqa: PLW0603 - one loop a process
    with _lock:
        if _current is None:
            _current = _BackgroundLoop()
        return _current


def _forget_loop_of_parent() -> None:
    global _current, _lock  # noqa: PLW0603 - one loop a process
    _lock = threading.Lock()
    if _current is not None:
        for transport in _current.open_transports:
            transport.abandon()
        _abandoned.append(_current)  # never collected: its selector is shared with the parent
        _current = None


@atexit.register
def _stop_loop() -> None:
    if _current is not None:
        _current.stop()


os.register_at_fork(after_in_child=_forget_loop_of_parent)


class Connection:
    """A transport on the background loop, opened by the first call and closed with its owner. Thread-safe."""

    def __init__(self, transport: OperatorTransport) -> None:
        self._transport = transport
        self._finalizer = weakref.finalize(self, _close_unused, transport)
        self._finalizer.atexit = False  # _stop_loop closes it

    def run(self, coroutine: Coroutine[Any, Any, _T]) -> _T:
        """Run a call that uses the transport, and wait for its result."""
        loop = _get_loop()
        return loop.run(self._open_and_run(coroutine, loop))

    async def _open_and_run(self, coroutine: Coroutine[Any, Any, _T], loop: _BackgroundLoop) -> _T:
        if not self._transport.is_open:  # no lock: this runs in the loop's thread, and `__aenter__` does not suspend
            await self._transport.__aenter__()
            loop.open_transports.add(self._transport)
        return await coroutine

    def close(self) -> None:
        """Close the connections. The next call opens new ones."""
        if self._transport.is_open:
            loop = _get_loop()
            loop.run(loop.close_transport(self._transport))


def _close_unused(transport: OperatorTransport) -> None:
    if transport.is_open and _current is not None:
        _current.start_closing(transport)
