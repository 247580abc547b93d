"""The fast path and aiohttp on a fake transport, with the same handlers and keys."""

import asyncio
from collections import deque
from collections.abc import Callable, Iterable, Sequence
from typing import Any, NamedTuple, cast

import orjson

from bidstream_svc.addresses import TcpAddress
from bidstream_svc.core.identity import IdentityScope
from bidstream_svc.core.kernel import IS_NATIVE, build_kernel
from bidstream_svc.core.key_response import parse_key_response
from bidstream_svc.core.keys import KeySnapshot
from bidstream_svc.devoperator.key_endpoints import bidstream_keys
from bidstream_svc.keystore.store import KeysInUse, KeyStore, KeyStores
from bidstream_svc.metrics import MetricCells
from bidstream_svc.metrics.cells import CONNECTIONS, DECRYPTIONS, REQUEST_DURATION_NS
from bidstream_svc.server.auth import BearerToken
from bidstream_svc.server.base_connection import Connection
from bidstream_svc.server.connections import ConnectionLimits, Connections
from bidstream_svc.server.data_plane import DataPlane
from bidstream_svc.server.fastpath import FastPath
from bidstream_svc.server.handlers import TokenDecryptor
from bidstream_svc.server.hosts import HostCheck
from bidstream_svc.server.refusal import Refusals
from bidstream_svc.server.routes import ROUTES, Route, labels_of
from tests.fastpath.corpus import STATE

LIMITS = ConnectionLimits(max_connections=1000, idle_timeout_s=60, request_timeout_s=60, max_buffered_bytes=2**26)
SNAPSHOTS = [parse_key_response(orjson.dumps(bidstream_keys(STATE, {})))]
HOSTS = HostCheck(TcpAddress("127.0.0.1", 80), frozenset({"b\u00fccher.example"}))


class HttpAnswer(NamedTuple):
    """An answer as it was on the wire; headers but Date, in any order."""

    status_line: bytes
    headers: frozenset[bytes]
    body: bytes

    @property
    def status(self) -> int:
        return int(self.status_line.split()[1])


class Outcome(NamedTuple):
    """All that a client gets to see of a connection, and what was counted."""

    answers: list[HttpAnswer]
    is_closed: bool
    counted: list[int]

    def __str__(self) -> str:
        """As in the corpus."""
        end = "close" if self.is_closed else "wait"
        return " ".join([*(str(answer.status) for answer in self.answers), end])


class FakeTransport(asyncio.Transport):
    """Delivers and records; refuses writes behind a close.

    Attributes:
        written: what the protocol wrote.
        is_stuck: whether the client reads nothing, so that a gentle close waits.
        unread_bytes: the size of the write buffer, as a test sets it.
        lost: set once the protocol has been told that the connection is lost.
    """

    def __init__(self, protocol: asyncio.BaseProtocol) -> None:
        super().__init__()
        self.written: list[bytes] = []
        self.is_stuck = False
        self.unread_bytes = 0
        self.is_aborted = False
        self.lost = asyncio.Event()
        self.is_reading_paused = False
        self._is_closing = False
        self._waiting: deque[bytes] = deque()
        self._loop = asyncio.get_running_loop()
        self._protocol = protocol
        protocol.connection_made(self)

    @property
    def is_lost(self) -> bool:
        return self.lost.is_set()

    @property
    def sent(self) -> bytes:
        return b"".join(self.written)

    @property
    def statuses(self) -> list[int]:
        return [answer.status for answer in split_answers(self.sent)]

    def feed(self, data: bytes) -> None:
        """Let bytes arrive from the client."""
        self._waiting.append(data)
        self._deliver()

    def lose(self) -> None:
        """Let the client go away."""
        self._is_closing = True
        if not self.is_lost:
            self.lost.set()
            self._protocol.connection_lost(None)

    def set_protocol(self, protocol: asyncio.BaseProtocol) -> None:
        self._protocol = protocol

    def get_protocol(self) -> asyncio.BaseProtocol:
        return self._protocol

    def is_closing(self) -> bool:
        return self._is_closing

    def is_reading(self) -> bool:
        return not self.is_reading_paused

    def pause_reading(self) -> None:
        self.is_reading_paused = True

    def resume_reading(self) -> None:
        self.is_reading_paused = False
        self._loop.call_soon(self._deliver)

    def write(self, data: bytes | bytearray | memoryview) -> None:
        assert not self._is_closing
        self.written.append(bytes(data))

    def writelines(self, list_of_data: Iterable[bytes | bytearray | memoryview]) -> None:
        self.write(b"".join(list_of_data))

    def set_write_buffer_limits(self, high: int | None = None, low: int | None = None) -> None:
        """Nothing ever waits here."""

    def get_write_buffer_size(self) -> int:
        return self.unread_bytes

    def can_write_eof(self) -> bool:
        return False

    def close(self) -> None:
        if not self._is_closing:
            self._is_closing = True
            if not self.is_stuck:
                self._loop.call_soon(self.lose)

    def abort(self) -> None:
        self.is_aborted = True
        self._is_closing = True
        self._loop.call_soon(self.lose)

    def _deliver(self) -> None:
        while self._waiting and not self.is_reading_paused and not self._is_closing:
            cast("asyncio.Protocol", self._protocol).data_received(self._waiting.popleft())


class Side:
    """aiohttp alone; make it in a running loop, whose failures it then collects."""

    def __init__(
        self,
        bearer: BearerToken | None = None,
        limits: ConnectionLimits = LIMITS,
        routes: tuple[Route, ...] = ROUTES,
        *,
        has_kernel: bool = IS_NATIVE,
        snapshots: Sequence[KeySnapshot] = SNAPSHOTS,
    ) -> None:
        self.metrics = MetricCells(labels_of(routes))
        stores = [
            KeyStore(KeysInUse(snapshot, build_kernel(snapshot) if has_kernel else None)) for snapshot in snapshots
        ]
        self.store = stores[0]
        self.on_unknown_key: Callable[[], None] = lambda: None  # fails where a test wants the handler to fail
        self.decryptor = TokenDecryptor(KeyStores(stores), self.metrics, on_unknown_key=self._call_on_unknown_key)
        self.connections = Connections(limits, self.metrics)
        self.plane = DataPlane(self.connections, routes, self.decryptor, self.metrics, bearer=bearer)
        self.connect_to: Callable[[HostCheck], Connection] = self.plane.connect
        self.failures: list[object] = []
        self.unknown_keys: list[IdentityScope | None] = []  # the programmes of tokens with one
        self._refusals = Refusals(lambda _answer: None)
        asyncio.get_running_loop().set_exception_handler(lambda _loop, context: self.failures.append(context))

    def _call_on_unknown_key(self, scope: IdentityScope | None, _token: object) -> None:
        self.unknown_keys.append(scope)
        self.on_unknown_key()

    def drain(self) -> None:
        """Make each answer the last of its connection."""
        self.plane.is_draining = True

    def close_idle(self) -> None:
        """Close the connections between two requests."""
        self.connections.close_idle()

    def close(self) -> None:
        """Abort all connections."""
        self.connections.close()

    def connect(self) -> FakeTransport:
        connection = self.connect_to(HOSTS)
        protocol = connection if self.connections.admit(connection) else self._refusals.make()
        assert protocol is not None
        return FakeTransport(protocol)

    @property
    def counted(self) -> list[int]:
        """What was counted, apart from how long it took."""
        row = self.metrics.row
        first = REQUEST_DURATION_NS.first
        cells = [*self.metrics.http_requests.values(), *DECRYPTIONS.values(), CONNECTIONS]
        return [sum(row[first : first + REQUEST_DURATION_NS.BUCKETS]), *[row[cell] for cell in cells]]

    def counted_with(self, code: int) -> int:
        """How many requests were answered with an HTTP status."""
        return sum(self.metrics.row[cell] for (_, each), cell in self.metrics.http_requests.items() if each == code)


class FastPathSide(Side):
    """The fast path, and aiohttp behind it."""

    def __init__(
        self,
        bearer: BearerToken | None = None,
        limits: ConnectionLimits = LIMITS,
        routes: tuple[Route, ...] = ROUTES,
        *,
        has_kernel: bool = IS_NATIVE,
        snapshots: Sequence[KeySnapshot] = SNAPSHOTS,
    ) -> None:
        super().__init__(bearer, limits, routes, has_kernel=has_kernel, snapshots=snapshots)
        self.fast_path = FastPath(
            self.connections,
            routes,
            self.decryptor,
            self.metrics,
            bearer=bearer,
            fallback=self.plane.connect,
            turns=self.plane.turns,
        )
        self.connect_to = self.fast_path.connect

    def drain(self) -> None:
        super().drain()
        self.fast_path.drain()

    def close(self) -> None:
        super().close()
        self.fast_path.close()


async def settle() -> None:
    """Let the loop turn until nothing is left to do but to wait."""
    ready = cast("Any", asyncio.get_running_loop())._ready
    while True:
        await asyncio.sleep(0)
        if not ready:
            return


async def talk(side: Side, pieces: Iterable[bytes], *, at_once: bool = False) -> Outcome:
    """Send pieces, each when all is done that the one before has set off, or all in one turn; then hang up."""
    before = side.counted
    transport = side.connect()
    for piece in pieces:
        transport.feed(piece)
        if not at_once:
            await settle()
    await settle()
    answers, is_closed = split_answers(transport.sent), transport.is_closing()
    transport.lose()
    await settle()
    assert side.failures == []
    return Outcome(answers, is_closed, [after - before for after, before in zip(side.counted, before, strict=True)])


def cut(stream: bytes, offsets: Iterable[int]) -> list[bytes]:
    """The pieces of a stream between these offsets."""
    inner = sorted({offset for offset in offsets if 0 < offset < len(stream)})
    return [stream[start:end] for start, end in zip([0, *inner], [*inner, len(stream)], strict=True)]


def split_answers(stream: bytes) -> list[HttpAnswer]:
    """The answers in the bytes a server sent, which must end with a whole one."""
    answers = []
    while stream:
        head, end, stream = stream.partition(b"\r\n\r\n")
        assert end, "half a head"
        status_line, *lines = head.split(b"\r\n")
        names = [line.partition(b": ")[0] for line in lines]
        assert len(set(names)) == len(names)
        headers = frozenset(line for line in lines if not line.startswith(b"Date: "))
        is_interim = status_line.startswith(b"HTTP/1.1 100 ")
        assert is_interim or len(headers) == len(lines) - 1
        length = sum(int(line.split()[1]) for line in lines if line.startswith(b"Content-Length: "))
        if stream.startswith(b"HTTP/1.1 "):
            length = 0  # to a HEAD: no body begins so
        assert len(stream) >= length, "half a body"
        answers.append(HttpAnswer(status_line, headers, stream[:length]))
        stream = stream[length:]
    return answers
