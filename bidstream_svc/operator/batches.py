"""Lists of any length, sent to an operator in batches.

This is the one place that limits the size of a request and the number of requests in flight.
"""

import asyncio
from collections import deque
from collections.abc import AsyncGenerator, Awaitable, Callable, Iterable, Iterator, Sequence
from contextlib import aclosing
from itertools import islice
from typing import Any, TypeAlias, TypeVar

MAX_BATCH = 5000  # elements that an operator accepts in one request
MAX_CONCURRENCY = 4  # hides the latency of a request; more would risk answers of 429

Progress: TypeAlias = Callable[[int, int], None]  # (elements done, elements in total)

_T = TypeVar("_T")
_R = TypeVar("_R")


async def send_in_batches(
    items: Iterable[_T],
    send: Callable[[Sequence[_T]], Awaitable[Sequence[_R]]],
    *,
    max_concurrency: int = MAX_CONCURRENCY,
) -> AsyncGenerator[tuple[Sequence[_T], Sequence[_R]]]:
    """Send items in batches; yields each batch with what `send` returned for it, in the order of the items.

    At most `max_concurrency` batches are taken from `items` and not yet yielded, so memory is bounded. Once a request
    has failed, no further batch is taken: the batches before it are yielded, those behind it are cancelled, and its
    error is raised.
    """
    batches = _split(items)
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
    """The results of all batches in one list.

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


def _split(items: Iterable[_T]) -> Iterator[Sequence[_T]]:
    # A limit on the bytes of a request belongs here, too.
    iterator = iter(items)
    while batch := tuple(islice(iterator, MAX_BATCH)):
        yield batch
