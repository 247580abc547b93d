"""The engine of one machine: threads that each process whole parts."""

import os
import threading
from collections.abc import Callable, Generator, Iterable, Sequence
from contextlib import ExitStack
from queue import SimpleQueue
from typing import TypeAlias

from bidstream_svc.bulk.batch_keys import BatchKeys
from bidstream_svc.bulk.batch_options import BatchOptions
from bidstream_svc.bulk.part_work import OnBatch, PartResult, StoppedError, process_part
from bidstream_svc.bulk.parts import Part, largest_first

_Process: TypeAlias = Callable[[Part, Callable[[], None]], PartResult]


def process_parts(
    parts: Sequence[Part],
    output: str,
    keys: BatchKeys,
    options: BatchOptions,
    now_ms: int,
    *,
    strict: bool,
    threads: int | None,
    on_batch: OnBatch,
) -> Generator[PartResult]:
    """Process parts, and yield what became of each. Closing the generator stops it between two batches.

    Args:
        parts: of a run that is open.
        output: as for `process_part`, and so are the next four.
        keys: shared by all threads.
        options: of the decryption.
        now_ms: Unix ms.
        strict: whether the first damaged row or file raises.
        threads: how many compute; None for as many as this process has cores.
        on_batch: called by any of the threads.

    Raises:
        BidstreamError: as for `process_part`; the other threads have stopped by then.
    """
    workers = _Workers(largest_first(parts), threads or len(os.sched_getaffinity(0)), on_batch)

    def process(part: Part, on_written: Callable[[], None]) -> PartResult:
        return process_part(
            part, output, keys, options, now_ms, strict=strict, on_batch=workers.on_batch, on_written=on_written
        )

    try:
        workers.start(process, len(parts))
        for _ in parts:
            yield workers.next_result()
    finally:
        workers.stop()


class _Workers:
    """Threads that take parts until there are none, one fails, or they are stopped.

    There is one more than may compute at a time, so that no core is idle while a part waits for storage.
    """

    def __init__(self, parts: Iterable[Part], count: int, on_batch: OnBatch) -> None:
        self._waiting = iter(parts)
        self._taking = threading.Lock()
        self._count = count
        self._computing = threading.Semaphore(count)
        self._on_batch = on_batch
        self._done: SimpleQueue[PartResult | BaseException] = SimpleQueue()
        self._is_stopped = threading.Event()
        self._threads: list[threading.Thread] = []

    def start(self, process: _Process, parts: int) -> None:
        for number in range(min(self._count + 1, parts)):
            thread = threading.Thread(target=self._work, args=[process], name=f"bulk-{number}")
            self._threads.append(thread)
            thread.start()

    def on_batch(self, rows: int, stored_bytes: int) -> None:
        """For `process_part`."""
        if self._is_stopped.is_set():
            raise StoppedError
        self._on_batch(rows, stored_bytes)

    def next_result(self) -> PartResult:
        """Wait for the next part that is done.

        Raises:
            Exception: that of a part.
        """
        result = self._done.get()
        if isinstance(result, BaseException):
            raise result
        return result

    def stop(self) -> None:
        """Return when all threads have stopped."""
        self._is_stopped.set()
        for thread in self._threads:
            thread.join()

    def _work(self, process: _Process) -> None:
        try:
            while self._process_next(process):
                pass
        except BaseException as error:  # noqa: BLE001 - raised again in the thread of the caller
            self._done.put(error)

    def _process_next(self, process: _Process) -> bool:
        """Process a part; returns False if there is none."""
        with ExitStack() as computing:
            computing.enter_context(self._computing)
            with self._taking:
                part = next(self._waiting, None)
            if part is None or self._is_stopped.is_set():
                return False
            self._done.put(process(part, computing.close))
        return True
