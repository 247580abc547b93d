"""Accepting, on real sockets: connections count before their handshake, and a lack of descriptors is survived."""

import asyncio
import os
import resource
import select
import socket
import ssl
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path

import pytest

from bidstream_svc.devoperator import DevOperator
from bidstream_svc.metrics.cells import CONNECTIONS, CONNECTIONS_REFUSED, RefusalReason
from bidstream_svc.server import refusal
from bidstream_svc.server.acceptor import PAUSE_S, Acceptor
from bidstream_svc.server.answers import Answer
from bidstream_svc.server.base_connection import Connection
from bidstream_svc.server.refusal import Refusals
from bidstream_svc.server.tls import TlsFiles, load_tls
from tests.fastpath.support import HOSTS, FakeTransport, Side
from tests.support.metrics_page import scrape
from tests.support.raw_http import Connection as Client
from tests.support.raw_http import ask, make_request
from tests.support.sidecar import (
    DEADLINE_S,
    PROGRAM,
    RunningService,
    Sidecar,
    operator_settings,
    service_in_thread,
    wait_until,
)

GOOD = {"token": "abcd"}
MANY = 50


def open_descriptors(process: int | str = "self") -> set[int]:
    return {int(path.name) for path in Path(f"/proc/{process}/fd").iterdir()}


def connections(service: RunningService) -> float:
    return scrape(service.admin).value("bidstream_connections")


def refused(admin: str, reason: RefusalReason) -> float:
    return scrape(admin).value("bidstream_connections_refused_total", reason=reason)


# Before the handshake.


def test_connections_count_before_their_handshake(
    operator: DevOperator, tls_files: dict[str, str], client_tls: ssl.SSLContext
) -> None:
    settings = operator_settings(operator) | tls_files | {"max_connections": MANY, "request_timeout": 600}
    with service_in_thread(**settings) as service:
        assert ask(service.data, "/decrypt", GOOD, tls=client_tls).status == 200
        wait_until(lambda: connections(service) == 0, "the end of the first")
        before = len(open_descriptors())
        with ExitStack() as stack:
            for _ in range(MANY):
                stack.enter_context(Client(service.data))
            wait_until(lambda: connections(service) == MANY, "the connections")
            assert ask(service.data, "/decrypt", GOOD, tls=client_tls).status == 503
            with Client(service.data) as silent:
                assert silent.is_closed_by_peer()
        wait_until(lambda: connections(service) == 0, "the end of all")
        wait_until(lambda: len(open_descriptors()) <= before, "their descriptors to be closed")
        assert refused(service.admin, RefusalReason.MAX_CONNECTIONS) == 2
        # Neither a refused one nor one whose client went away.
        assert refused(service.admin, RefusalReason.HANDSHAKE_TIMEOUT) == 0
        assert ask(service.data, "/decrypt", GOOD, tls=client_tls).status == 200


def test_a_handshake_that_does_not_end_is_closed_and_counted(operator: DevOperator, tls_files: dict[str, str]) -> None:
    settings = operator_settings(operator) | tls_files | {"request_timeout": 0.2}
    with service_in_thread(**settings) as service:
        connections(service)
        before = len(open_descriptors())
        with ExitStack() as stack:
            clients = [stack.enter_context(Client(service.data)) for _ in range(MANY)]
            for client in clients[::2]:
                client.send(b"\x16\x03\x01\x02\x00\x01")  # the beginning of a ClientHello
            for client in clients:
                assert client.is_closed_by_peer()
            wait_until(lambda: connections(service) == 0, "the end of all")
            assert refused(service.admin, RefusalReason.HANDSHAKE_TIMEOUT) == MANY
            assert refused(service.admin, RefusalReason.MAX_CONNECTIONS) == 0
        wait_until(lambda: len(open_descriptors()) <= before, "their descriptors to be closed")


@pytest.mark.parametrize("sent", [make_request("/decrypt", GOOD), b"\0" * 100, b"\x16\x03\x01\x02\x00\x01"])
def test_a_handshake_that_fails_is_no_timeout(operator: DevOperator, tls_files: dict[str, str], sent: bytes) -> None:
    settings = operator_settings(operator) | tls_files | {"request_timeout": 600}
    with service_in_thread(**settings) as service:
        for _ in range(3):
            with Client(service.data) as client:
                wait_until(lambda: connections(service) == 1, "the connection")
                client.send(sent)
                client.socket.shutdown(socket.SHUT_WR)
                client.socket.recv(100)
            wait_until(lambda: connections(service) == 0, "its end")
        assert refused(service.admin, RefusalReason.HANDSHAKE_TIMEOUT) == 0


def test_the_end_of_a_service_ends_handshakes(operator: DevOperator, tls_files: dict[str, str]) -> None:
    before = len(open_descriptors())
    with ExitStack() as stack:
        settings = operator_settings(operator) | tls_files | {"request_timeout": 600}
        with service_in_thread(**settings) as service:
            clients = [stack.enter_context(Client(service.data)) for _ in range(3)]
            wait_until(lambda: connections(service) == 3, "the connections")
        for client in clients:
            assert client.is_closed_by_peer()
    wait_until(lambda: len(open_descriptors()) <= before, "all descriptors to be closed")


# Out of descriptors.


def readable(clients: list[Client]) -> list[Client]:
    """The clients to which something has been sent."""
    sockets = select.select([client.socket for client in clients], [], [], 0)[0]
    return [client for client in clients if client.socket in sockets]


def test_a_process_without_descriptors_refuses_and_recovers(operator: DevOperator, tmp_path: Path) -> None:
    with Sidecar(tmp_path, **operator_settings(operator)) as sidecar:
        process = sidecar.wait_ready().process.pid
        assert ask(sidecar.data, "/decrypt", GOOD).status == 200
        _, hard_limit = resource.prlimit(process, resource.RLIMIT_NOFILE)
        resource.prlimit(process, resource.RLIMIT_NOFILE, (max(open_descriptors(process)) + 5, hard_limit))
        with ExitStack() as stack:
            clients = [stack.enter_context(Client(sidecar.data)) for _ in range(100)]
            # Few are accepted; which ones depends on when the service closes descriptors of its own.
            wait_until(lambda: len(readable(clients)) >= 90, "the refusals")
            refused_clients = readable(clients)
            for client in refused_clients:
                answer = client.receive()  # before it has asked anything
                assert (answer.status, answer.error, answer.closes) == (503, "overloaded", True)
                assert client.is_closed_by_peer()
            served = next(client for client in clients if client not in refused_clients)
            assert served.ask("/decrypt", GOOD).status == 200
        wait_until(lambda: answers(sidecar.admin), "a descriptor for the admin plane")
        wait_until(lambda: scrape(sidecar.admin).value("bidstream_connections") == 0, "the end of all")
        assert ask(sidecar.data, "/decrypt", GOOD).status == 200
        page = scrape(sidecar.admin)
        assert page.value("bidstream_connections_refused_total", reason="no_file_descriptor") >= 50
        assert page.value("bidstream_http_requests_total", route="other", code="503") >= 50
        assert [line for line in sidecar.log if line["level"] == "error"] == []
        assert sidecar.stop() == 0


def test_with_64_descriptors_those_that_fit_are_served_and_the_rest_are_refused(
    operator: DevOperator, tmp_path: Path
) -> None:
    settings = operator_settings(operator) | {"refresh_interval": 0.3}
    with Sidecar(tmp_path, program=["prlimit", "--nofile=64:64", *PROGRAM], **settings) as sidecar:
        sidecar.wait_ready()
        with ExitStack() as stack:
            admin = [stack.enter_context(Client(sidecar.admin)) for _ in range(50)]
            clients = [stack.enter_context(Client(sidecar.data)) for _ in range(200)]
            statuses = []
            for client in clients:
                with suppress(ConnectionError):  # a 503 that was sent at once
                    client.send(make_request("/decrypt", GOOD))
                statuses.append(client.receive().status)
            served = statuses.count(200)
            assert served >= 10
            assert statuses.count(503) == 200 - served
            for client in admin:
                client.socket.close()
            wait_until(lambda: answers(sidecar.admin), "the admin plane")
            assert ask(sidecar.admin, "/readyz", method="GET").status == 200
            assert refused(sidecar.admin, RefusalReason.NO_FILE_DESCRIPTOR) == 200 - served
            before = scrape(sidecar.admin).total("bidstream_key_refreshes_total", result="success")
            wait_until(
                lambda: scrape(sidecar.admin).total("bidstream_key_refreshes_total", result="success") > before,
                "a key refresh",
            )
            assert scrape(sidecar.admin).total("bidstream_key_refreshes_total", result="network") == 0
        wait_until(lambda: scrape(sidecar.admin).value("bidstream_connections") == 0, "the end of all")
        assert ask(sidecar.data, "/decrypt", GOOD).status == 200
        events = [line["event"] for line in sidecar.log]
        assert events.count("no file descriptor for a connection") == 1
        assert events.count("too few file descriptors") == 1
        assert sidecar.stop() == 0


def answers(admin: str) -> bool:
    try:
        return ask(admin, "/livez", method="GET").status == 200
    except (ConnectionError, EOFError):
        return False


class CountingSocket(socket.socket):
    """Counts how often it was asked for a connection."""

    accepts = 0

    def accept(self) -> tuple[socket.socket, object]:
        self.accepts += 1
        return super().accept()


@contextmanager
def no_descriptors() -> Iterator[None]:
    """Let this process open none."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    lowest = os.open(os.devnull, os.O_RDONLY)
    os.close(lowest)
    resource.setrlimit(resource.RLIMIT_NOFILE, (lowest, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))


class Door:
    """An acceptor in this loop, for aiohttp's connections."""

    def __init__(
        self,
        on_answer: Callable[[Answer], None] = lambda _answer: None,
        tls: ssl.SSLContext | None = None,
        on_connect: Callable[[], object] = lambda: None,
        *,
        is_passed: bool = False,
    ) -> None:
        self.side = Side()
        self.on_connect = on_connect
        self.listening = CountingSocket()
        self.listening.bind(("127.0.0.1", 0))
        self.listening.listen()
        self.acceptor = Acceptor(
            self.listening, self.side.connections, self.connect, Refusals(on_answer), tls, is_passed=is_passed
        )
        self.address = "{}:{}".format(*self.listening.getsockname())

    def connect(self) -> Connection:
        self.on_connect()
        return self.side.plane.connect(HOSTS)

    @property
    def refused(self) -> int:
        return self.side.metrics.row[CONNECTIONS_REFUSED[RefusalReason.NO_FILE_DESCRIPTOR]]

    def close(self) -> None:
        self.acceptor.close()
        self.side.close()


async def turn(times: int = 100) -> None:
    for _ in range(times):
        await asyncio.sleep(0)


async def test_an_acceptor_that_is_closed_ends_its_handshakes(tls_files: dict[str, str]) -> None:
    door = Door(tls=load_tls(TlsFiles(Path(tls_files["tls_cert"]), Path(tls_files["tls_key"]))).context)
    with Client(door.address) as silent:
        await turn()
        assert len(door.side.connections) == 1
        door.acceptor.close()
        await turn()
        assert len(door.side.connections) == 0
        assert silent.is_closed_by_peer()
    assert door.side.failures == []
    door.close()


async def test_little_is_received_of_what_a_client_with_tls_sends_at_once(tls_files: dict[str, str]) -> None:
    """uvloop keeps a buffer as long as the longest read for each connection with TLS, for as long as it is open."""
    context = load_tls(TlsFiles(Path(tls_files["tls_cert"]), Path(tls_files["tls_key"]))).context
    received = []
    for door in (Door(tls=context), Door()):
        with socket.socket() as client:
            client.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 1)
            client.connect(door.listening.getsockname())
            client.setblocking(False)
            sent = 0
            with suppress(BlockingIOError):
                while sent < 1024 * 1024:
                    sent += client.send(bytes(1024))
            received.append(sent)
        door.close()
    of_tls, plain = received
    assert of_tls < min(32 * 1024, plain)


async def test_an_acceptor_that_is_closed_ends_connections_that_it_has_just_accepted() -> None:
    door = Door(on_connect=lambda: asyncio.get_running_loop().call_soon(door.acceptor.close))
    with Client(door.address) as client:
        await turn()
        assert len(door.side.connections) == 0
        assert client.is_closed_by_peer()
    door.close()


async def test_each_connection_without_a_descriptor_is_refused_once() -> None:
    door = Door()
    with ExitStack() as stack:
        clients = [stack.enter_context(Client(door.address)) for _ in range(5)]
        with no_descriptors():
            await turn()
        assert door.refused == 5
        assert door.listening.accepts <= 3 * 5  # and not again and again
        for client in clients:
            assert client.receive().status == 503
    door.close()


async def test_a_spare_descriptor_that_is_lost_to_another_thread_is_waited_for() -> None:
    """As when the refresh of keys opens a connection in the moment in which the spare one is given up."""
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    door = Door(lambda _answer: resource.setrlimit(resource.RLIMIT_NOFILE, (0, hard)))
    with ExitStack() as stack:
        clients = [stack.enter_context(Client(door.address)) for _ in range(3)]
        with no_descriptors():
            await turn()
        assert door.refused == 1
        assert door.listening.accepts <= 3  # and not again and again
        async with asyncio.timeout(DEADLINE_S):
            while door.side.metrics.row[CONNECTIONS] < 2:  # noqa: ASYNC110 - a counter has no event
                await asyncio.sleep(0.01)
        for client in clients[1:]:
            client.send(make_request("/decrypt", GOOD))
            assert (await asyncio.to_thread(client.receive)).status == 200
        assert door.refused == 1
        assert door.side.failures == []
    door.close()


async def test_an_acceptor_that_waits_for_a_descriptor_can_be_closed() -> None:
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    before = open_descriptors()
    door = Door(lambda _answer: resource.setrlimit(resource.RLIMIT_NOFILE, (0, hard)))
    with Client(door.address), no_descriptors():
        await turn()
        door.close()
    await asyncio.sleep(2 * PAUSE_S)
    assert open_descriptors() <= before  # connections of earlier tests may end meanwhile
    assert door.side.failures == []


async def test_the_time_of_a_refused_connection_begins_with_the_connection(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(refusal, "REFUSAL_TIMEOUT_S", 0)
    protocol = Refusals(lambda _answer: None).make()
    assert protocol is not None
    for _ in range(3):
        await asyncio.sleep(0)  # its handshake takes longer than that
    transport = FakeTransport(protocol)
    await asyncio.wait_for(transport.lost.wait(), DEADLINE_S)
    assert transport.is_aborted


# The end of accepting.


async def test_what_is_queued_when_accepting_stops_is_served() -> None:
    door = Door()
    with ExitStack() as stack:
        clients = [stack.enter_context(Client(door.address)) for _ in range(MANY * 2)]  # more than an iteration accepts
        for client in clients:
            client.send(make_request("/decrypt", GOOD))
        door.acceptor.stop()
        await turn()
        for client in clients:
            assert (await asyncio.to_thread(client.receive)).status == 200
    door.close()


async def test_what_is_queued_on_a_passed_socket_is_left_to_the_successor() -> None:
    door = Door(is_passed=True)
    with ExitStack() as stack, door.listening.dup() as successor:
        clients = [stack.enter_context(Client(door.address)) for _ in range(MANY)]
        door.acceptor.stop()
        await turn()
        assert len(door.side.connections) == 0
        successor.settimeout(DEADLINE_S)
        for _ in clients:
            stack.enter_context(successor.accept()[0])
    door.close()


async def test_a_connection_whose_request_has_not_been_read_is_not_idle() -> None:
    door = Door()
    with Client(door.address) as asking, Client(door.address) as idle:
        await turn()
        asking.send(make_request("/decrypt", GOOD))
        door.side.connections.close_idle()
        assert (await asyncio.to_thread(asking.receive)).status == 200
        assert await asyncio.to_thread(idle.is_closed_by_peer)
    door.close()


async def test_a_pause_for_descriptors_leaves_one_spare_descriptor_when_the_socket_is_replaced() -> None:
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    before = len(open_descriptors())
    door = Door(lambda _answer: resource.setrlimit(resource.RLIMIT_NOFILE, (0, hard)))
    replacement = socket.create_server(("127.0.0.1", 0))
    with Client(door.address), no_descriptors():
        await turn()
    door.acceptor.move_to(replacement)
    await turn()
    held = len(open_descriptors())
    await asyncio.sleep(2 * PAUSE_S)
    assert len(open_descriptors()) == held
    door.close()
    await turn()
    assert len(open_descriptors()) == before
