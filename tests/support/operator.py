"""The embedded operator on a real socket: in the test's event loop, or in a thread for blocking clients."""

import asyncio
import os
import time
from collections.abc import AsyncIterator, Iterator
from contextlib import AsyncExitStack, asynccontextmanager, contextmanager
from threading import Thread
from typing import Any, BinaryIO, NamedTuple

import aiohttp
import orjson
import pybase64

from bidstream_svc.core.crypto import Envelope, open_response, seal_request
from bidstream_svc.devoperator import ApiClient, DevOperator, OperatorState

_TIMEOUT_S = 20


class Clock:
    """A clock that goes only when told to; pass it as `now_ms`."""

    def __init__(self, now_ms: int | None = None) -> None:
        self.now_ms = time.time_ns() // 1_000_000 if now_ms is None else now_ms

    def __call__(self) -> int:
        return self.now_ms

    def advance(self, *, seconds: float = 0, days: float = 0) -> None:
        self.now_ms += round((seconds + days * 86_400) * 1000)


class Answer(NamedTuple):
    """An answer of the operator: HTTP status, and its JSON, opened."""

    http_status: int
    json: Any

    @property
    def body(self) -> Any:
        assert self.http_status == 200
        assert self.json["status"] == "success"
        return self.json["body"]


@asynccontextmanager
async def running_operator(state: OperatorState | None = None, **options: Any) -> AsyncIterator[DevOperator]:
    """An operator in the running loop; `options` are those of DevOperator."""
    async with DevOperator(state or OperatorState(seed=1), **options) as operator:
        yield operator


@contextmanager
def operator_in_thread(
    state: OperatorState | None = None, *, loop: asyncio.AbstractEventLoop | None = None, **options: Any
) -> Iterator[DevOperator]:
    """An operator in a loop of its own in another thread, for clients that block."""
    loop = loop or asyncio.new_event_loop()
    thread = Thread(target=loop.run_forever, name="operator")
    thread.start()
    stack = AsyncExitStack()
    try:
        entering = stack.enter_async_context(DevOperator(state or OperatorState(seed=1), **options))
        yield asyncio.run_coroutine_threadsafe(entering, loop).result(_TIMEOUT_S)
    finally:
        asyncio.run_coroutine_threadsafe(stack.aclose(), loop).result(_TIMEOUT_S)
        loop.call_soon_threadsafe(loop.stop)
        thread.join(_TIMEOUT_S)
        loop.close()


async def post(
    operator: DevOperator, path: str, data: bytes | BinaryIO, *, api_key: str | None = None, **options: Any
) -> tuple[aiohttp.ClientResponse, bytes]:
    """Post bytes as they are, with the right API key unless another (or "") is given."""
    key = operator.state.api_key if api_key is None else api_key
    headers = {"Authorization": f"Bearer {key}"} if key else {}
    # Else aiohttp's client says application/octet-stream, which means an envelope without base64.
    headers |= options.pop("headers", {"Content-Type": "text/plain"})
    timeout = aiohttp.ClientTimeout(total=_TIMEOUT_S)
    async with (
        aiohttp.ClientSession(timeout=timeout) as session,
        session.post(operator.url + path, data=data, headers=headers, allow_redirects=False, **options) as response,
    ):
        return response, await response.read()


async def ask(
    operator: DevOperator, path: str, body: object = None, *, binary: bool = False, client: ApiClient | None = None
) -> Answer:
    """Ask an endpoint as the protocol wants it: sealed, and the answer opened and its nonce checked."""
    state = operator.state
    client = client or state.clients.main
    secret = pybase64.b64decode(client.client_secret)
    nonce = os.urandom(8)
    envelope = Envelope(state.now_ms(), nonce, b"" if body is None else orjson.dumps(body))
    wire = seal_request(secret, os.urandom(12), envelope, binary=binary)
    headers = {"Content-Type": "application/octet-stream" if binary else "text/plain"}
    response, content = await post(operator, path, wire, api_key=client.api_key, headers=headers)
    if response.status != 200:
        assert response.content_type == "application/json"
        return Answer(response.status, orjson.loads(content))
    assert (response.content_type == "application/octet-stream") is binary
    return Answer(200, orjson.loads(open_response(secret, content, nonce, binary=binary).body))
