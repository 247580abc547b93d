"""The engine of one machine: threads that each process whole parts."""

import os
import threading
from collections.abc import Generator, Sequence
from queue import SimpleQueue

from bidstream_svc.bulk.batch_keys import BatchKeys
from bidstream_svc.bulk.batch_options import BatchOptions
from bidstream_svc.bulk.part_work import OnBatch, PartResult, StoppedError, process_part
from bidstream_svc.bulk.parts import Part


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
        threads: how many; None for as many as this process has cores.
        on_batch: called by any of the threads.

    Raises:
        BidstreamError: as for `process_part`; the other threads have stopped by then.
    """
    # The large ones first, so that none of them is left to one thread in the end.
    waiting = iter(sorted(parts, key=lambda part: part.size, reverse=True))
    taking = threading.Lock()
    done: SimpleQueue[PartResult | BaseException] = SimpleQueue()
    is_stopped = threading.Event()

    def on_batch_or_stop(rows: int, stored_bytes: int) -> None:
        if is_stopped.is_set():
            raise StoppedError
        on_batch(rows, stored_bytes)

    def work() -> None:
        while not is_stopped.is_set():
            with taking:
                part = next(waiting, None)
            if part is None:
                return
            try:
                done.put(process_part(part, output, keys, options, now_ms, strict=strict, on_batch=on_batch_or_stop))
            except BaseException as error:  # noqa: BLE001 - raised below, in the thread of the caller
                done.put(error)
                return

    count = min(threads or len(os.sched_getaffinity(0)), len(parts))
    workers = [threading.Thread(target=work, name=f"bulk-{number}") for number in range(count)]
    try:
        for worker in workers:
            worker.start()
        for _ in parts:
            result = done.get()
            if isinstance(result, BaseException):
                raise result
            yield result
    finally:
        is_stopped.set()
        for worker in workers:
            if worker.ident is not None:
                worker.join()
