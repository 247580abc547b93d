"""Adds opt-outs to the store in a thread: all that came during one commit go into the next one.

So an opt-out waits for two commits at most, and any number of them cost as much as one.
"""

import asyncio
import threading
import time
from collections.abc import Callable, Iterable
from contextlib import suppress
from itertools import islice, takewhile
from queue import SimpleQueue
from typing import NamedTuple, TypeAlias

from bidstream_svc.core.errors import OptOutStoreError
from bidstream_svc.logs import get_logger
from bidstream_svc.metrics.cells import OptOutResult
from bidstream_svc.optouts.malformed_log import MalformedLog
from bidstream_svc.optouts.optout_records import OptOut
from bidstream_svc.optouts.optout_store import OptOutStore
from bidstream_svc.optouts.webhook import Malformed

_log = get_logger(__name__)

# Bounds the time of one transaction.
_MAX_BATCH = 5_000
_LOG_PERIOD_S = 60.0

_Done: TypeAlias = "asyncio.Future[OptOutResult]"


class _Job(NamedTuple):
    request: OptOut | Malformed
    done: _Done


class GroupCommit:
    """The queue in front of the store, and its thread.

    Args:
        store: the store.
        malformed: where malformed requests are kept.
        is_owed: whether the opt-outs are put into the outbox of the stream.
        on_added: called in the thread after a commit of opt-outs.
    """

    def __init__(
        self,
        store: OptOutStore,
        malformed: MalformedLog,
        *,
        is_owed: bool,
        on_added: Callable[[Iterable[OptOut]], None],
    ) -> None:
        self._store = store
        self._malformed = malformed
        self._is_owed = is_owed
        self._on_added = on_added
        self._loop = asyncio.get_running_loop()
        self._queue: SimpleQueue[_Job | None] = SimpleQueue()
        self._waiting: dict[_Done, float] = {}  # in the order of their arrival
        self._next_log_s = 0.0
        self._thread = threading.Thread(target=self._run, name="optout-writer", daemon=True)
        self._thread.start()

    def put(self, request: OptOut | Malformed) -> _Done:
        """Add an opt-out, or keep a malformed request aside.

        Returns:
            a future that is done when it is on disk, or cannot be written: NEW, DUPLICATE, MALFORMED or ERROR.
        """
        done: _Done = self._loop.create_future()
        self._waiting[done] = time.monotonic()
        self._queue.put(_Job(request, done))
        return done

    def expire(self, timeout_s: float) -> None:
        """Give up waiting for what has not been written for so long: the disk hangs. It may be written later."""
        deadline_s = time.monotonic() - timeout_s
        late = takewhile(lambda done: self._waiting[done] <= deadline_s, tuple(self._waiting))
        self._resolve(dict.fromkeys(late, OptOutResult.ERROR))

    async def close(self, timeout_s: float) -> bool:
        """End the thread after it has written all; return whether it has ended within the time."""
        self._queue.put(None)
        await asyncio.to_thread(self._thread.join, timeout_s)
        return not self._thread.is_alive()

    # In the thread.

    def _run(self) -> None:
        jobs: list[_Job | None] = []
        while None not in jobs:
            jobs = [self._queue.get()]
            while len(jobs) < _MAX_BATCH and not self._queue.empty():
                jobs.append(self._queue.get())
            self._write([job for job in jobs if job is not None])

    def _write(self, jobs: list[_Job]) -> None:
        optouts = {job.done: job.request for job in jobs if isinstance(job.request, OptOut)}
        malformed = {job.done: job.request for job in jobs if isinstance(job.request, Malformed)}
        if optouts:
            self._deliver(self._try(lambda: self._add(optouts), optouts))
        if malformed:
            self._deliver(self._try(lambda: self._keep(malformed), malformed))

    def _add(self, optouts: dict[_Done, OptOut]) -> dict[_Done, OptOutResult]:
        first = {(optout.scope, optout.raw_id): done for done, optout in reversed(optouts.items())}
        added = self._store.add([optouts[done] for done in first.values()], is_owed=self._is_owed)
        self._on_added(optouts.values())
        # Others may have come with an earlier commit, or from the stream: which ones does not matter.
        new = set(islice(first.values(), added))
        return {done: OptOutResult.NEW if done in new else OptOutResult.DUPLICATE for done in optouts}

    def _keep(self, malformed: dict[_Done, Malformed]) -> dict[_Done, OptOutResult]:
        self._malformed.append(malformed.values(), int(time.time()))
        return dict.fromkeys(malformed, OptOutResult.MALFORMED)

    def _try(
        self, write: Callable[[], dict[_Done, OptOutResult]], all_done: Iterable[_Done]
    ) -> dict[_Done, OptOutResult]:
        try:
            return write()
        except (OptOutStoreError, OSError) as error:
            self._log(str(error) if isinstance(error, OptOutStoreError) else error.strerror)
        except Exception:  # noqa: BLE001 - a bug must not end the thread, which nothing replaces
            _log.exception("opt-outs not written")
        return dict.fromkeys(all_done, OptOutResult.ERROR)

    def _log(self, error: str | None) -> None:
        if time.monotonic() >= self._next_log_s:
            self._next_log_s = time.monotonic() + _LOG_PERIOD_S
            _log.error("opt-outs not written", error=error)

    def _deliver(self, outcomes: dict[_Done, OptOutResult]) -> None:
        with suppress(RuntimeError):  # the loop is closed
            self._loop.call_soon_threadsafe(self._resolve, outcomes)

    # In the loop.

    def _resolve(self, outcomes: dict[_Done, OptOutResult]) -> None:
        for done, outcome in outcomes.items():
            self._waiting.pop(done, None)
            if not done.done():  # else its client has gone
                done.set_result(outcome)
