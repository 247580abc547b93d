"""The sidecar as a real process, or as a service in a thread that a test can inspect."""

import asyncio
import json
import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from threading import Event, Thread
from typing import Any, Self

import uvloop

from bidstream_svc.config import ENV_PREFIX, load_settings
from bidstream_svc.devoperator import DevOperator
from bidstream_svc.metrics import MetricCells
from bidstream_svc.server.routes import ROUTES, labels_of
from bidstream_svc.server.service import Service
from bidstream_svc.server.sockets import open_listeners_each
from tests.support.raw_http import Connection, Response, ask

DEADLINE_S = 40.0
PROGRAM = (sys.executable, "-m", "bidstream_svc")
_POLL_S = 0.02


def wait_until(condition: Callable[[], object], what: str, timeout_s: float = DEADLINE_S) -> None:
    """Poll a condition of another process or thread."""
    deadline_s = time.monotonic() + timeout_s
    while not condition():
        assert time.monotonic() < deadline_s, f"in vain: waited for {what}"
        time.sleep(_POLL_S)


def operator_settings(operator: DevOperator) -> dict[str, Any]:
    """The settings that lead to an operator."""
    state = operator.state
    return {"operator_url": operator.url, "api_key": state.api_key, "client_secret": state.client_secret}


def programme_settings(operators: Iterable[DevOperator]) -> dict[str, Any]:
    """The settings that lead to the operators of several programmes."""
    return {
        f"{operator.state.scope.name.lower()}_{name}": value
        for operator in operators
        for name, value in operator_settings(operator).items()
    }


def environment(settings: dict[str, Any]) -> dict[str, str]:
    """This process's environment with exactly these settings."""
    rest = {name: value for name, value in os.environ.items() if not name.startswith(ENV_PREFIX)}
    return rest | {ENV_PREFIX + name.upper(): str(value) for name, value in settings.items()}


class Sidecar:
    """A process of `python -m bidstream_svc serve`; a context manager that kills what is left of it.

    Args:
        directory: for what it prints.
        args: the command line behind `bidstream_svc`.
        program: what to start instead of this environment's program.
        pass_fds: descriptors that it inherits.
        settings: its environment; it listens on free ports unless told otherwise.
    """

    def __init__(
        self,
        directory: Path,
        *args: str,
        program: Sequence[str] = PROGRAM,
        pass_fds: Sequence[int] = (),
        **settings: Any,
    ) -> None:
        settings = {"listen": "127.0.0.1:0", "admin_listen": "127.0.0.1:0"} | settings
        self._stdout, self._stderr = directory / "stdout", directory / "stderr"
        with self._stdout.open("wb") as stdout, self._stderr.open("wb") as stderr:
            self.process = subprocess.Popen(
                [*program, *(args or ("serve",))],
                env=environment(settings),
                stdin=subprocess.DEVNULL,
                stdout=stdout,
                stderr=stderr,
                cwd=directory,
                pass_fds=pass_fds,
            )

    def __enter__(self) -> Self:
        try:
            wait_until(lambda: self._addresses() or self.process.poll() is not None, "the sidecar to listen")
            assert self._addresses(), f"exit {self.process.returncode}: {self.stderr}"
        except BaseException:
            self._end()
            raise
        return self

    def __exit__(self, *_exc_info: object) -> None:
        self._end()

    def _end(self) -> None:
        if self.process.poll() is None:
            self.process.kill()
        self.process.wait(DEADLINE_S)

    @property
    def stdout(self) -> str:
        return self._stdout.read_text("utf-8")

    @property
    def stderr(self) -> str:
        return self._stderr.read_text("utf-8")

    @property
    def data(self) -> str:
        """The first address of the data plane."""
        return self._addresses()[0]

    @property
    def admin(self) -> str:
        """The first address of the admin plane."""
        return self._addresses()[1]

    @property
    def log(self) -> list[dict[str, Any]]:
        """What it logged as JSON; the last line may be half written."""
        return [json.loads(line) for line in self.stderr.splitlines(keepends=True) if line.endswith("}\n")]

    def has_logged(self, event: str) -> bool:
        return self.times_logged(event) > 0

    def times_logged(self, event: str) -> int:
        return sum(line["event"] == event for line in self.log)

    def times_loaded(self, *, from_cache: bool) -> int:
        """How often workers have logged their first keys: from the operator, or those of another worker before."""
        return sum(line["event"] == "keys loaded" and line["from_cache"] is from_cache for line in self.log)

    def wait_ready(self) -> Self:
        wait_until(lambda: ask(self.admin, "/readyz", method="GET").status == 200, "/readyz")
        return self

    def wait_started(self) -> Self:
        """Wait for keys. `/readyz` needs more where there is a new store of opt-outs: its stream."""
        wait_until(lambda: ask(self.admin, "/startupz", method="GET").status == 200, "/startupz")
        return self

    def signal(self, number: signal.Signals) -> None:
        self.process.send_signal(number)

    def stop(self) -> int:
        """SIGTERM; the exit status."""
        self.signal(signal.SIGTERM)
        return self.process.wait(DEADLINE_S)

    def _addresses(self) -> list[str]:
        """Of the line "listening", in either log format: data plane, admin plane."""
        line = next((line for line in self.stderr.splitlines(keepends=True) if "listening" in line), "")
        if not line.endswith("\n"):
            return []
        if line.startswith("{"):
            event = json.loads(line)
            return [*event["data"][:1], *event["admin"][:1]]
        return [re.findall(rf"{plane}=\['([^']+)'", line)[0] for plane in ("data", "admin")]


class RunningService:
    """A service in a loop of another thread, with blocking ways to ask it."""

    def __init__(self, service: Service, loop: asyncio.AbstractEventLoop) -> None:
        self.service = service
        self.loop = loop
        self.data = str(service.data_addresses[0])
        self.admin = str(service.admin_addresses[0]) if service.admin_addresses else ""

    def connect(self) -> Connection:
        return Connection(self.data)

    def ask(self, path: str = "/decrypt", body: object = None, **options: Any) -> Response:
        """One request on a connection of its own."""
        return ask(self.data, path, body, **options)

    def decrypt(self, token: object, domain: object = None) -> Any:
        """The JSON for one token."""
        answer = self.ask("/decrypt", {"token": token, "domain": domain})
        assert answer.status == 200, answer.body
        return answer.json

    def reload(self) -> None:
        """What SIGHUP does in a process."""
        self.loop.call_soon_threadsafe(self.service.reload)

    @contextmanager
    def paused(self) -> Iterator[None]:
        """Hold the service's loop, so that all that is sent meanwhile reaches it in one turn."""
        is_held, may_go_on = Event(), Event()

        def hold() -> None:
            is_held.set()
            may_go_on.wait(DEADLINE_S)

        self.loop.call_soon_threadsafe(hold)
        assert is_held.wait(DEADLINE_S)
        try:
            yield
        finally:
            may_go_on.set()

    def get(self, path: str, **options: Any) -> Response:
        """A page of the admin plane."""
        return ask(self.admin, path, method="GET", **options)


@contextmanager
def service_in_thread(*, started: bool = True, has_fast_path: bool = True, **settings: Any) -> Iterator[RunningService]:
    """Serve by these settings on free ports; `started` waits for the first keys, `has_fast_path` as in Service."""
    settings = {"listen": "127.0.0.1:0", "admin_listen": "127.0.0.1:0"} | settings
    loaded = load_settings(**settings)
    listeners = open_listeners_each(loaded, 1)[0]
    loop = uvloop.new_event_loop()
    thread = Thread(target=loop.run_forever, name="service")
    thread.start()

    async def enter() -> Service:
        service = Service(loaded, listeners, MetricCells(labels_of(ROUTES)), has_fast_path=has_fast_path)
        await service.__aenter__()
        if started:
            await service.wait_started()
        return service

    async def leave(service: Service) -> None:
        await service.__aexit__()
        # As asyncio's Runner does at the end of the real process.
        rest = asyncio.all_tasks() - {asyncio.current_task()}
        for task in rest:
            task.cancel()
        await asyncio.gather(*rest, return_exceptions=True)

    try:
        service = asyncio.run_coroutine_threadsafe(enter(), loop).result(DEADLINE_S)
        try:
            yield RunningService(service, loop)
        finally:
            asyncio.run_coroutine_threadsafe(leave(service), loop).result(DEADLINE_S)
    finally:
        loop.call_soon_threadsafe(loop.stop)
        thread.join(DEADLINE_S)
        loop.close()
        listeners.close()
