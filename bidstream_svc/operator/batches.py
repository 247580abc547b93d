"""Lists of any length, sent to an operator in batches.

This is the one place that limits the size of a request and the number of requests in flight.
"""

import asyncio
from collections import deque
from collections.abc import AsyncGenerator, Awaitable, Callable, Iterable, Iterator, Sequence
from contextlib import aclosing
from typing import Any, TypeAlias, TypeVar

import msgspec

MAX_BATCH = 5000  # elements of one request, as operators document it
# JSON of one request. Operators accept 1 MiB of HTTP body, and base64 makes three bytes four. The rest is for the
# envelope and the names of fields.
MAX_BATCH_BYTES = 1024 * 1024 * 3 // 4 - 1024
MAX_CONCURRENCY = 4  # hides the latency of a request; more would risk answers of 429

Progress: TypeAlias = Callable[[int, int], None]  # (elements done, elements in total)

_T = TypeVar("_T")
_R = TypeVar("_R")


async def send_in_batches(
    items: Iterable[_T],
    send: Callable[[Sequence[_T]], Awaitable[Sequence[_R]]],
    text: Callable[[_T], str],
    *,
    max_concurrency: int = MAX_CONCURRENCY,
) -> AsyncGenerator[tuple[Sequence[_T], Sequence[_R]]]:
    """Send items in batches, several at a time. Yields each batch with its results, in the order of the items.

    At most `max_concurrency` batches have been read from `items` and not yet yielded, so memory is bounded. After a
    request has failed, no further batch is read. The batches before it are still yielded, those after it are cancelled,
    and then its error is raised.

    Args:
        items: any number of items; read as batches are sent.
        send: sends one batch and returns its results. A batch has at most MAX_BATCH items, and their texts at most
            MAX_BATCH_BYTES of JSON; an item beyond that is a batch by itself.
        text: the string that is sent for an item.
        max_concurrency: the maximum number of requests in flight.
    """
    batches = _split(items, text)
    in_flight: deque[tuple[Sequence[_T], asyncio.Future[Sequence[_R]]]] = deque()
    try:
        while True:
            while (
                len(in_flight) < max_concurrency
                and not any(request.done() and request.exception() for _, request in in_flight)
                and (batch := next(batches, None))
            ):
                in_flight.append((batch, asyncio.ensure_future(send(batch))))
            if not in_flight:
                return
            first, request = in_flight.popleft()
            yield first, await request
    finally:
        for _, request in in_flight:
            request.cancel()
        await asyncio.gather(*(request for _, request in in_flight), return_exceptions=True)


async def collect_results(
    batches: AsyncGenerator[tuple[Sequence[Any], Sequence[_R]]], total: int, progress: Progress | None = None
) -> list[_R]:
    """Return the results of all batches in one list.

    Args:
        batches: from `send_in_batches`.
        total: elements in all batches, for `progress`.
        progress: called in the event loop for each batch, in order.
    """
    results: list[_R] = []
    done = 0
    async with aclosing(batches):
        async for batch, batch_results in batches:
            results += batch_results
            done += len(batch)
            if progress is not None:
                progress(done, total)
    return results


def _split(items: Iterable[_T], text: Callable[[_T], str]) -> Iterator[Sequence[_T]]:
    batch: list[_T] = []
    batch_bytes = 0
    for item in items:
        item_bytes = len(msgspec.json.encode(text(item))) + 1  # with the comma
        if batch and batch_bytes + item_bytes > MAX_BATCH_BYTES:
            yield tuple(batch)
            batch, batch_bytes = [], 0
        batch.append(item)
        batch_bytes += item_bytes
        if len(batch) == MAX_BATCH:  # now, and not when the next item has been read: that may take long
            yield tuple(batch)
            batch, batch_bytes = [], 0
    if batch:
        yield tuple(batch)
