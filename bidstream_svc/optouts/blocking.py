"""Calls that block, such as those of the store, from an event loop."""

import asyncio
from collections.abc import Callable
from typing import TypeVar

Result = TypeVar("Result")


async def run_blocking(function: Callable[[], Result]) -> Result:
    """Call a function in a thread. A cancelled caller waits for its end, so that the store can be closed afterwards."""
    call = asyncio.ensure_future(asyncio.to_thread(function))
    try:
        return await asyncio.shield(call)
    except asyncio.CancelledError:
        await asyncio.wait([call])
        raise
