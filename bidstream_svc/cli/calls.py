"""A single call to the configured operator."""

import asyncio
from collections.abc import Awaitable, Callable
from typing import Any, TypeVar

from bidstream_svc.cli.options import provided
from bidstream_svc.config import load_settings
from bidstream_svc.operator import OperatorTransport
from bidstream_svc.operator.from_settings import make_transport

_T = TypeVar("_T")


def call_operator(flags: dict[str, Any], call: Callable[[OperatorTransport], Awaitable[_T]]) -> _T:
    """Return the result of `call` with a transport made from the environment and a command's flags.

    Raises:
        BidstreamError: the settings are invalid, or the call failed.
    """

    async def run() -> _T:
        async with make_transport(load_settings(**provided(flags)).only_operator) as transport:
            return await call(transport)

    return asyncio.run(run())
