"""One call to the operator of the settings."""

import asyncio
from collections.abc import Awaitable, Callable
from typing import Any, TypeVar

from bidstream_svc.cli.options import provided
from bidstream_svc.config import load_settings
from bidstream_svc.operator import OperatorTransport
from bidstream_svc.operator.from_settings import make_transport

_T = TypeVar("_T")


def call_operator(flags: dict[str, Any], call: Callable[[OperatorTransport], Awaitable[_T]]) -> _T:
    """What `call` answers over a transport that the environment and these flags of a command describe.

    Raises:
        BidstreamError: the settings or the call.
    """

    async def run() -> _T:
        async with make_transport(load_settings(**provided(flags))) as transport:
            return await call(transport)

    return asyncio.run(run())
