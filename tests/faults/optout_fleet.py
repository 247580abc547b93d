"""A fleet that shares opt-outs, as real processes: a Redis server, receivers, sidecars, and the programme's webhooks.

The programme's sender is played by `Webhooks`: any number of requests at a time, at a rate. Behind one address there
are all receivers: a request that one of them does not answer with 200 goes to the next.
"""

import asyncio
import os
import random
import signal
import socket
import sys
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path
from typing import Any, NamedTuple, Self
from urllib.parse import quote

import orjson
import pybase64

from bidstream_svc.core.identity import IdentityScope
from bidstream_svc.devoperator import DevOperator
from bidstream_svc.optouts.optout_store import OptOutStore
from tests.support.operator import operator_in_thread
from tests.support.raw_http import ask
from tests.support.receiver import Receiver
from tests.support.redis_server import RedisServer
from tests.support.sidecar import DEADLINE_S, Sidecar, operator_settings

_OPEN_AT_ONCE = 64
_RETRY_S = 0.05
_LEVEL_TIMEOUT_S = 300.0


def free_port() -> int:
    """A port on loopback that nobody listens on."""
    with socket.socket() as listening:
        listening.bind(("127.0.0.1", 0))
        port: int = listening.getsockname()[1]
        return port


class Acknowledged(NamedTuple):
    """A webhook that was answered with 200.

    Attributes:
        at_s: when, by the monotonic clock.
    """

    raw_id: bytes
    at_s: float


class Webhooks:
    """Sends opt-outs to the receivers at a rate, in a thread of its own.

    Attributes:
        sent: every raw id that was sent at least once, whatever the answer.
        acknowledged: those answered with 200, in the order of the answers.
        attempts_failed: how many attempts got no 200.
    """

    def __init__(self, ports: Sequence[int], rate: float, *, seed: int = 1, path: str = "/optout") -> None:
        self._ports, self._rate, self._path = [*ports], rate, path
        self._random = random.Random(seed)  # noqa: S311 - ids of a test
        self._stopping = threading.Event()
        self._thread = threading.Thread(target=lambda: asyncio.run(self._run()), name="webhooks")
        self.wanted: list[bytes] = []  # ids to send before any other
        self.sent: set[bytes] = set()
        self.acknowledged: list[Acknowledged] = []
        self.answered_after_s: list[float] = []
        self.attempts_failed = 0

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, *_exc_info: object) -> None:
        self.stop()

    def stop(self) -> None:
        """Wait until all that was begun has been acknowledged, and end."""
        self._stopping.set()
        self._thread.join()

    async def _run(self) -> None:
        due: asyncio.Queue[float] = asyncio.Queue()
        senders = [asyncio.create_task(self._send_all(due, number)) for number in range(_OPEN_AT_ONCE)]
        next_s = time.monotonic()
        while not self._stopping.is_set():
            while next_s <= time.monotonic():
                if due.qsize() < 4 * _OPEN_AT_ONCE:  # while nobody answers, do not pile up
                    due.put_nowait(next_s)
                next_s += 1 / self._rate
            await asyncio.sleep(0.001)
        await due.join()
        for sender in senders:
            sender.cancel()

    def _next_id(self) -> bytes:
        if self.wanted:
            return self.wanted.pop()
        return self._random.randbytes(32 + self._random.randrange(2))

    async def _send_all(self, due: "asyncio.Queue[float]", number: int) -> None:
        place = number
        streams: tuple[asyncio.StreamReader, asyncio.StreamWriter] | None = None
        while True:
            due_s = await due.get()
            raw_id = self._next_id()
            text = quote(pybase64.b64encode(raw_id).decode(), safe="")
            target = f"{self._path}?identity={text}&timestamp={int(time.time())}"
            self.sent.add(raw_id)
            while True:
                try:
                    if streams is None:
                        streams = await asyncio.open_connection("127.0.0.1", self._ports[place % len(self._ports)])
                    reader, writer = streams
                    writer.write(f"GET {target} HTTP/1.1\r\nHost: 127.0.0.1\r\n\r\n".encode())
                    async with asyncio.timeout(30):
                        status = await _read_answer(reader)
                    if status == 200:
                        break
                except (OSError, EOFError, TimeoutError, asyncio.IncompleteReadError):
                    pass
                self.attempts_failed += 1
                if streams is not None:
                    streams[1].close()
                streams, place = None, place + 1
                await asyncio.sleep(_RETRY_S)
            now_s = time.monotonic()
            self.acknowledged.append(Acknowledged(raw_id, now_s))
            self.answered_after_s.append(now_s - due_s)
            due.task_done()


async def _read_answer(reader: asyncio.StreamReader) -> int:
    """Read an answer and its body. Returns its status."""
    head = await reader.readuntil(b"\r\n\r\n")
    length = next((line for line in head.lower().split(b"\r\n") if line.startswith(b"content-length:")), b":0")
    await reader.readexactly(int(length.partition(b":")[2]))
    return int(head[9:12])


class Fleet:
    """Redis, receivers and sidecars.

    Args:
        directory: for everything that they write.
        sidecars: their number.
        workers: of each sidecar.
    """

    def __init__(self, directory: Path, operator: DevOperator, *, sidecars: int = 3, workers: int = 2) -> None:
        self._directory, self._operator, self._workers = directory, operator, workers
        self._stack = ExitStack()
        self.redis = RedisServer(directory / "redis")
        self.ports = [free_port(), free_port()]
        self.stores = [directory / f"receiver{place}" / "store" for place in range(2)]
        self.stores += [directory / f"sidecar{place}" / "store" for place in range(sidecars)]
        self.receivers: list[Receiver] = []
        self.sidecars: list[Sidecar] = []
        self._number_of_sidecars = sidecars

    def __enter__(self) -> Self:
        self._stack.enter_context(self.redis)
        for place in range(2):
            self.receivers.append(self._stack.enter_context(self.start_receiver(place)))
        for place in range(self._number_of_sidecars):
            directory = self._directory / f"sidecar{place}"
            directory.mkdir(exist_ok=True)
            sidecar = Sidecar(
                directory,
                **operator_settings(self._operator),
                workers=self._workers,
                optout_store=directory / "store",
                optout_stream=self.redis.url,
                optout_snapshot_url=f"http://127.0.0.1:{self.ports[place % 2]}/snapshot",
            )
            self.sidecars.append(self._stack.enter_context(sidecar).wait_ready())
        return self

    def __exit__(self, *_exc_info: object) -> None:
        for process in [*self.sidecars, *self.receivers]:
            if process.process.poll() is None:
                process.stop()
        self._stack.close()

    def start_receiver(self, place: int) -> Receiver:
        """Start a receiver, on the store and the port that this one had before."""
        directory = self._directory / f"receiver{place}"
        directory.mkdir(exist_ok=True)
        return Receiver(
            directory,
            optout_listen=f"127.0.0.1:{self.ports[place]}",
            optout_stream=self.redis.url,
            optout_snapshot_url=f"http://127.0.0.1:{self.ports[1 - place]}/snapshot",
        )

    def restart_receiver(self, place: int) -> None:
        """Kill a receiver with all of its processes, and start it again."""
        self.kill_receiver(place)
        self.receivers[place] = self._stack.enter_context(self.start_receiver(place))

    def kill_receiver(self, place: int) -> None:
        """SIGKILL."""
        process = self.receivers[place].process
        for pid in descendants(process.pid):
            with suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        process.wait(DEADLINE_S)

    def counts(self) -> list[int]:
        """How many ids each host holds, receivers first, as /info says it."""
        return [_count(host) for host in [*self.receivers, *self.sidecars]]

    def held(self, store: Path) -> set[bytes]:
        """The ids in a store that no process of this fleet has open."""
        with OptOutStore(store) as opened:
            return {optout.raw_id for scope in IdentityScope for optout in all_optouts(opened, scope)}


def wait_level(fleet: Fleet, webhooks: Webhooks) -> float:
    """Wait until every host has as many ids as were acknowledged before. Returns the seconds; exits after many."""
    begun_s, wanted = time.monotonic(), len(webhooks.acknowledged)
    while min(fleet.counts()) < wanted:
        if time.monotonic() - begun_s > _LEVEL_TIMEOUT_S:
            sys.exit(f"not level after {_LEVEL_TIMEOUT_S} s: {fleet.counts()} of {wanted}")
        time.sleep(0.1)
    return time.monotonic() - begun_s


def compare_stores(fleet: Fleet, webhooks: Webhooks) -> bool:
    """Print what each store of a fleet that has ended lacks, and holds without its having been sent. False if any."""
    acknowledged = {raw_id for raw_id, _ in webhooks.acknowledged}
    sys.stdout.write(f"{len(acknowledged)} acknowledged, {webhooks.attempts_failed} attempts without a 200\n")
    is_good = True
    for store in fleet.stores:
        held = fleet.held(store)
        lost, foreign = len(acknowledged - held), len(held - webhooks.sent)
        sys.stdout.write(f"{store.parent.name:10} holds {len(held)}: {lost} lost, {foreign} not sent\n")
        is_good = is_good and not lost and not foreign
    return is_good


def all_optouts(store: OptOutStore, scope: IdentityScope) -> Iterator[Any]:
    after = b""
    while found := store.iterate(scope, after):
        yield from found
        after = found[-1].raw_id


def _count(host: Sidecar) -> int:
    with suppress(OSError, EOFError, KeyError, AssertionError):
        count: int = orjson.loads(ask(host.admin, "/info", method="GET").body)["optouts"]["count"]
        return count
    return -1


def descendants(pid: int) -> list[int]:
    """A process and all that it has started."""
    with suppress(OSError):
        children = Path(f"/proc/{pid}/task/{pid}/children").read_text("ascii").split()
        return [pid, *(each for child in children for each in descendants(int(child)))]
    return []


@contextmanager
def running_fleet(directory: Path, **options: Any) -> Iterator[Fleet]:
    """A fleet with an operator of its own; `options` are those of Fleet."""
    with operator_in_thread() as operator, Fleet(directory, operator, **options) as fleet:
        yield fleet
