"""Long lists, sent in pieces: so many elements a request, so many requests at a time, results in order."""

import asyncio
from collections.abc import Awaitable, Callable, Iterator, Sequence
from typing import TypeAlias, TypeVar

MAX_BATCH = 5000  # what an operator takes in one request
MAX_CONCURRENCY = 4  # enough to hide the way there and back, and not enough to be told to slow down

Progress: TypeAlias = Callable[[int, int], None]  # (elements done, elements in all)

_T = TypeVar("_T")
_R = TypeVar("_R")


async def map_in_batches(
    items: Sequence[_T],
    send: Callable[[Sequence[_T]], Awaitable[Sequence[_R]]],
    *,
    max_concurrency: int = MAX_CONCURRENCY,
    progress: Progress | None = None,
) -> list[_R]:
    """Send `items` in pieces of at most MAX_BATCH; what `send` returns for each, joined in the order of the items.

    `progress` is called after each piece, in the event loop. The first failure stops everything and is raised.
    """
    answers: list[Sequence[_R]] = [()] * -(-len(items) // MAX_BATCH)
    pieces = iter(range(len(answers)))
    done = 0

    async def work(pieces: Iterator[int]) -> None:
        nonlocal done
        for piece in pieces:  # shared by all workers: each piece goes to one
            batch = items[piece * MAX_BATCH : (piece + 1) * MAX_BATCH]
            answers[piece] = await send(batch)
            done += len(batch)
            if progress is not None:
                progress(done, len(items))

    workers = [asyncio.ensure_future(work(pieces)) for _ in range(min(max_concurrency, len(answers)))]
    try:
        await asyncio.gather(*workers)
    finally:
        for worker in workers:
            worker.cancel()
        await asyncio.gather(*workers, return_exceptions=True)
    return [result for answer in answers for result in answer]
