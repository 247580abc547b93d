"""The corpus over TCP, TLS and Unix sockets on uvloop, for the fast path and for aiohttp."""

import asyncio
import ssl
from collections.abc import Iterator
from contextlib import AsyncExitStack
from pathlib import Path
from random import Random
from typing import NamedTuple

import pytest
import trustme
import uvloop

from bidstream_svc.config import load_settings
from bidstream_svc.devoperator import DevOperator
from bidstream_svc.metrics import MetricCells
from bidstream_svc.server.auth import BearerToken
from bidstream_svc.server.routes import ROUTES, labels_of
from bidstream_svc.server.service import Service
from bidstream_svc.server.sockets import open_listeners_each
from tests.fastpath.corpus import BEARER, CORPUS, GUARDED_CORPUS, STATE, Case
from tests.fastpath.support import FastPathSide, HttpAnswer, Outcome, Side, cut, split_answers, talk
from tests.support.sidecar import operator_settings

DEADLINE_S = 20
# Between two pieces, so that the first has been read, and behind the last answer, in which no other must come.
TURNS = 12


class Doors(NamedTuple):
    """Where a service can be asked."""

    tcp: str | int
    tls: str | int
    guarded: str | int
    unix: str | int


class Client(asyncio.Protocol):
    """Collects what comes."""

    def __init__(self) -> None:
        self.received = b""
        self.is_closed = False
        self.news = asyncio.Event()

    def data_received(self, data: bytes) -> None:
        self.received += data
        self.news.set()

    def connection_lost(self, _exc: Exception | None) -> None:
        self.is_closed = True
        self.news.set()

    def outcome(self) -> tuple[list[HttpAnswer], bool]:
        try:
            return split_answers(self.received), self.is_closed
        except AssertionError:  # half an answer
            return [], self.is_closed


@pytest.fixture(scope="module")
def runner() -> Iterator[asyncio.Runner]:
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        yield runner


@pytest.fixture(scope="module")
def authority() -> trustme.CA:
    return trustme.CA()


@pytest.fixture(scope="module")
def tls(authority: trustme.CA) -> ssl.SSLContext:
    context = ssl.create_default_context()
    authority.configure_trust(context)
    return context


@pytest.fixture(scope="module")
def doors(
    runner: asyncio.Runner, authority: trustme.CA, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[tuple[Doors, Doors]]:
    """Of the fast path, and of aiohttp alone."""
    directory = tmp_path_factory.mktemp("doors")
    certificate = authority.issue_cert("localhost")
    certificate.private_key_and_cert_chain_pem.write_to_path(directory / "tls.pem")
    (directory / "bearer").write_text(BEARER, "utf-8")
    stack = AsyncExitStack()

    async def open_all() -> tuple[Doors, Doors]:
        operator = await stack.enter_async_context(DevOperator(STATE))
        fast_path, aiohttp = [
            await open_doors(stack, operator, directory, has_fast_path=has_fast_path) for has_fast_path in (True, False)
        ]
        return fast_path, aiohttp

    try:
        yield runner.run(open_all())
    finally:
        runner.run(stack.aclose())


async def open_doors(stack: AsyncExitStack, operator: DevOperator, directory: Path, *, has_fast_path: bool) -> Doors:
    unix = str(directory / f"{has_fast_path}.sock")
    pem = str(directory / "tls.pem")
    ports: list[str | int] = []
    for options in (
        {"listen": f"127.0.0.1:0,unix:{unix}"},
        {"tls_cert": pem, "tls_key": pem},
        {"auth_token_file": str(directory / "bearer")},
    ):
        settings = load_settings(
            **{"listen": "127.0.0.1:0", "admin_listen": "", "request_timeout": 60}
            | {"allowed_hosts": "b\u00fccher.example"}
            | operator_settings(operator)
            | options
        )
        (listeners,) = open_listeners_each(settings, 1)
        stack.callback(listeners.close)
        service = await stack.enter_async_context(
            Service(settings, listeners, MetricCells(labels_of(ROUTES)), has_fast_path=has_fast_path)
        )
        await service.wait_started()
        ports.append(listeners.data[0].socket.getsockname()[1])
    return Doors(ports[0], ports[1], ports[2], unix)


async def turn() -> None:
    for _ in range(TURNS):
        await asyncio.sleep(0)


async def talk_to(door: str | int, tls: ssl.SSLContext | None, pieces: list[bytes], expected: Outcome) -> None:
    """Send the pieces, and wait for exactly the outcome that is expected."""
    loop = asyncio.get_running_loop()
    if isinstance(door, str):
        transport, client = await loop.create_unix_connection(Client, door)
    else:
        name = None if tls is None else "localhost"
        transport, client = await loop.create_connection(Client, "127.0.0.1", door, ssl=tls, server_hostname=name)
    for piece in pieces:
        if not client.is_closed:
            transport.write(piece)
            await turn()
    try:
        async with asyncio.timeout(DEADLINE_S):
            while client.outcome() != expected[:2]:
                client.news.clear()
                await client.news.wait()
    except TimeoutError:
        assert client.outcome() == expected[:2]
    await turn()
    assert client.outcome() == expected[:2]
    transport.abort()


def pieces_of(name: str, case: Case) -> list[list[bytes]]:
    """The case whole, and cut at random."""
    stream = b"".join(case.requests)
    random = Random(name)  # noqa: S311 - to be repeatable
    return [[stream], cut(stream, random.choices(range(len(stream)), k=random.randint(1, 4)))]


async def converse(side: Side, conversations: list[list[bytes]]) -> list[Outcome]:
    return [await talk(side, pieces) for pieces in conversations]


async def converse_on_both(bearer: BearerToken | None, conversations: list[list[bytes]]) -> list[list[Outcome]]:
    fast_path, aiohttp = FastPathSide(bearer), Side(bearer)
    outcomes = [await converse(side, conversations) for side in (fast_path, aiohttp)]
    fast_path.close()
    return outcomes


def compare(
    runner: asyncio.Runner,
    doors: tuple[str | int, str | int],
    conversations: list[list[bytes]],
    *,
    bearer: BearerToken | None = None,
    tls: ssl.SSLContext | None = None,
) -> None:
    with asyncio.Runner() as plain:  # one that says when all is done
        expected = plain.run(converse_on_both(bearer, conversations))

    async def compare_all() -> None:
        for pieces, *outcomes in zip(conversations, *expected, strict=True):
            talks = [talk_to(door, tls, pieces, outcome) for door, outcome in zip(doors, outcomes, strict=True)]
            await asyncio.gather(*talks)

    runner.run(compare_all())


@pytest.mark.parametrize("name", CORPUS)
def test_by_tcp(runner: asyncio.Runner, doors: tuple[Doors, Doors], name: str) -> None:
    compare(runner, (doors[0].tcp, doors[1].tcp), pieces_of(name, CORPUS[name]))


def test_by_unix_socket(runner: asyncio.Runner, doors: tuple[Doors, Doors]) -> None:
    # Where any host may be named.
    cases = {name: case for name, case in CORPUS.items() if "host" not in name}
    conversations = [pieces for name, case in cases.items() for pieces in pieces_of(name, case)[1:]]
    compare(runner, (doors[0].unix, doors[1].unix), conversations)


def test_by_tls(runner: asyncio.Runner, doors: tuple[Doors, Doors], tls: ssl.SSLContext) -> None:
    conversations = [pieces_of(name, case)[number % 2] for number, (name, case) in enumerate(CORPUS.items())]
    compare(runner, (doors[0].tls, doors[1].tls), conversations, tls=tls)


def test_with_a_bearer_token(runner: asyncio.Runner, doors: tuple[Doors, Doors], bearer: BearerToken) -> None:
    conversations = [pieces for name, case in GUARDED_CORPUS.items() for pieces in pieces_of(name, case)]
    compare(runner, (doors[0].guarded, doors[1].guarded), conversations, bearer=bearer)
