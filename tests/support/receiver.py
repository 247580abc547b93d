"""The process of an opt-out store: in a thread, as a receiver, or beside the workers of a sidecar."""

import asyncio
import base64
import json
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from threading import Thread
from typing import Any
from urllib.parse import quote

import uvloop

from bidstream_svc.config import load_settings
from bidstream_svc.metrics import MetricCells
from bidstream_svc.server.optout_process import OptOutService
from bidstream_svc.server.sockets import Listeners, open_listeners, open_optout_listeners
from tests.support.raw_http import Connection, Response
from tests.support.sidecar import DEADLINE_S, Sidecar


def webhook_path(raw_id: bytes, time_s: int | None = 1_700_000_000, path: str = "/optout") -> str:
    """The target of a request that tells an opt-out."""
    time = "" if time_s is None else f"&timestamp={time_s}"
    return f"{path}?identity={quote(base64.b64encode(raw_id).decode(), safe='')}{time}"


class Client(Connection):
    """A connection of the programme's sender."""

    def get(self, path: str, **headers: str) -> Response:
        return self.ask(path, method="GET", headers={name.replace("_", "-"): text for name, text in headers.items()})

    def tell(self, raw_id: bytes, **headers: str) -> str:
        """Send an opt-out; the result, which must be with 200."""
        response = self.get(webhook_path(raw_id), **headers)
        assert response.status == 200, response.body
        return str(response.json["result"])


class RunningReceiver:
    """A receiver in a loop of another thread."""

    def __init__(
        self, service: OptOutService, listeners: Listeners, metrics: MetricCells, loop: asyncio.AbstractEventLoop
    ) -> None:
        self.service, self.metrics, self.loop = service, metrics, loop
        self.address = str(listeners.optouts[0].address)
        self.admin = str(listeners.admin[0].address)

    def connect(self) -> Client:
        return Client(self.address)

    def count(self, cell: int) -> int:
        return self.metrics.row[cell]

    def run(self, function: Any) -> None:
        """Call a function in the loop."""
        self.loop.call_soon_threadsafe(function)


@contextmanager
def receiver_in_thread(store: Path, **settings: Any) -> Iterator[RunningReceiver]:
    """Run the process of a store on free ports."""
    addresses = {"listen": "127.0.0.1:0", "admin_listen": "127.0.0.1:0", "optout_listen": "127.0.0.1:0"}
    loaded = load_settings(**addresses | {"optout_store": store, "allow_unauthenticated": 1} | settings)
    listeners = Listeners(
        admin=open_listeners(loaded.admin_listen, field="admin_listen"), optouts=open_optout_listeners(loaded)
    )
    metrics = MetricCells()
    metrics.take_row(len(metrics.rows))
    loop = uvloop.new_event_loop()
    thread = Thread(target=loop.run_forever, name="receiver")
    thread.start()

    async def enter() -> OptOutService:
        service = OptOutService(loaded, listeners, metrics)
        await service.__aenter__()
        return service

    try:
        service = asyncio.run_coroutine_threadsafe(enter(), loop).result(DEADLINE_S)
        try:
            yield RunningReceiver(service, listeners, metrics, loop)
        finally:
            asyncio.run_coroutine_threadsafe(service.__aexit__(), loop).result(DEADLINE_S)
            asyncio.run_coroutine_threadsafe(loop.shutdown_default_executor(), loop).result(DEADLINE_S)
    finally:
        loop.call_soon_threadsafe(loop.stop)
        thread.join(DEADLINE_S)
        loop.close()
        listeners.close()


class Receiver(Sidecar):
    """A process of `optouts serve`."""

    def __init__(self, directory: Path, **settings: Any) -> None:
        defaults: dict[str, Any] = {
            "optout_listen": "127.0.0.1:0",
            "optout_store": directory / "store",
            "allow_unauthenticated": 1,
        }
        super().__init__(directory, "optouts", "serve", **defaults | settings)

    def _addresses(self) -> list[str]:
        line = next((line for line in self.stderr.splitlines(keepends=True) if "opt-out store open" in line), "")
        if not line.endswith("\n"):
            return []
        event = json.loads(line)
        return [*event["webhook"][:1], *event["admin"][:1]]


def webhook_address(sidecar: Sidecar) -> str:
    """The address of the webhook beside a sidecar's workers."""
    return next(str(line["webhook"][0]) for line in sidecar.log if line["event"] == "opt-out store open")
