"""An operator that gives one fixed answer and records requests, opened by code of the published client."""

import json
import os
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import pybase64
from aiohttp import web
from uid2_client.encryption import _decrypt_gcm, _encrypt_gcm

from bidstream_svc.operator import Credentials, OperatorTransport, RetryPolicy

_BINARY = "application/octet-stream"


class Recorder:
    """What was asked.

    Attributes:
        url: where it listens.
        paths, payloads, headers: of each request; a payload is its JSON, or None if there was none.
    """

    def __init__(self, answer: bytes) -> None:
        self.url = ""
        self.secret = os.urandom(32)
        self.paths: list[str] = []
        self.payloads: list[Any] = []
        self.headers: list[dict[str, str]] = []
        self._answer = answer

    async def handle(self, request: web.Request) -> web.Response:
        binary = request.headers.get("Content-Type") == _BINARY
        body = await request.read()
        envelope = body if binary else pybase64.b64decode(body)
        assert envelope[0] == 1
        content = _decrypt_gcm(envelope[1:], self.secret)
        self.paths.append(request.path)
        self.headers.append(dict(request.headers))
        self.payloads.append(json.loads(content[16:]) if content[16:] else None)
        sealed = _encrypt_gcm(content[:16] + self._answer, None, self.secret)
        return web.Response(
            body=sealed if binary else pybase64.b64encode(sealed), content_type=_BINARY if binary else "text/plain"
        )


@asynccontextmanager
async def running_recorder(answer: bytes) -> AsyncIterator[Recorder]:
    """One in the running loop, on a real socket."""
    recorder = Recorder(answer)
    app = web.Application(client_max_size=2**24)
    app.router.add_post("/{path:.*}", recorder.handle)
    runner = web.AppRunner(app)
    await runner.setup()
    try:
        await web.TCPSite(runner, "127.0.0.1", 0).start()
        recorder.url = "http://127.0.0.1:{1}".format(*runner.addresses[0])
        yield recorder
    finally:
        await runner.cleanup()


@asynccontextmanager
async def recorded_json(answer: bytes) -> AsyncIterator[tuple[Recorder, OperatorTransport]]:
    """One that answers with this JSON, and a transport to it."""
    async with (
        running_recorder(answer) as recorder,
        OperatorTransport(
            recorder.url, Credentials("made-up", recorder.secret), retry=RetryPolicy(attempts=1)
        ) as transport,
    ):
        yield recorder, transport
