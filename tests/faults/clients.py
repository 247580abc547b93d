"""Clients that send requests continuously and compare every answer with the expected one."""

import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import cycle
from threading import Event, Thread
from typing import NamedTuple

import orjson

from bidstream_svc.devoperator import OperatorState
from tests.support.raw_http import Connection, make_request
from tests.support.sidecar import wait_until

SLOW_S = 11.0
_BATCH = 1_000
# Longer than a worker may hang.
_TIMEOUT_S = 20.0


class Exchange(NamedTuple):
    """A request as bytes, and the expected body of its answer."""

    request: bytes
    answer: bytes


def exchanges(state: OperatorState, count: int = 500) -> list[Exchange]:
    """Make requests with distinct version 4 tokens under the operator's current keys."""
    return [
        Exchange(make_request("/decrypt", {"token": token}), orjson.dumps(answer))
        for token, answer in _tokens_and_answers(state, count)
    ]


def batch_exchanges(state: OperatorState) -> list[Exchange]:
    """Make one request that takes a sidecar several loop iterations."""
    pairs = list(_tokens_and_answers(state, _BATCH))
    request = make_request("/decrypt/batch", {"requests": [{"token": token} for token, _ in pairs]})
    return [Exchange(request, orjson.dumps({"results": [answer for _, answer in pairs]}))]


def _tokens_and_answers(state: OperatorState, count: int) -> Iterator[tuple[str, dict[str, object]]]:
    now_ms = state.now_ms()
    for number in range(count):
        identity, established_ms = f"person-{number}@example.com", now_ms - number
        answer = {"status": "SUCCESS", "uid": state.raw_uid(identity), "established": established_ms}
        yield state.mint_token(identity=identity, established_ms=established_ms), answer


@dataclass(slots=True)
class Tally:
    """The results of the requests.

    Attributes:
        sent: requests, each counted once.
        bad: wrong answers, and requests that got none although they were repeated once.
        repeated: requests that were sent again because their connection had been closed without a byte of an answer.
        turned_away: new connections closed or refused; only with `until_gone`.
        slow: requests that took longer than SLOW_S, both attempts together.
        problem: the first wrong or missing answer.
    """

    sent: int = 0
    bad: int = 0
    repeated: int = 0
    turned_away: int = 0
    slow: int = 0
    problem: str = ""

    def __add__(self, other: "Tally") -> "Tally":
        return self._combine(other, int.__add__)

    def __sub__(self, earlier: "Tally") -> "Tally":
        return self._combine(earlier, int.__sub__)

    def _combine(self, other: "Tally", combine: Callable[[int, int], int]) -> "Tally":
        return Tally(
            combine(self.sent, other.sent),
            combine(self.bad, other.bad),
            combine(self.repeated, other.repeated),
            combine(self.turned_away, other.turned_away),
            combine(self.slow, other.slow),
            self.problem or other.problem,
        )


class _Client:
    """Sends requests on one keep-alive connection; when it is closed, connects to the next address."""

    def __init__(
        self, addresses: Sequence[str], pool: Sequence[Exchange], *, until_gone: bool, reconnects: bool
    ) -> None:
        self.tally = Tally()
        self._addresses = cycle(addresses)
        self._tries_to_connect = len(addresses)
        self._pool = cycle(pool)
        self._until_gone = until_gone
        self._reconnects = reconnects
        self._connection: Connection | None = None
        self._is_gone = False

    def run(self, stop: Event) -> None:
        try:
            while not stop.is_set() and not self._is_gone:
                self._ask(next(self._pool))
        finally:
            self._drop()

    def _ask(self, exchange: Exchange) -> None:
        self.tally.sent += 1
        begun_s = time.monotonic()
        self._try_twice(exchange)
        self.tally.slow += time.monotonic() - begun_s > SLOW_S

    def _try_twice(self, exchange: Exchange) -> None:
        for is_last_try in (False, True):
            is_fresh = self._connection is None
            try:
                connection = self._connection = self._connection or self._connect()
                connection.send(exchange.request)
                response = connection.receive()
            except (OSError, EOFError) as error:
                has_begun = self._connection is not None and bool(self._connection._received)
                self._drop()
                if is_fresh and self._until_gone and not has_begun:
                    self.tally.turned_away += 1
                    self._is_gone = True
                    return
                if is_last_try or has_begun:
                    self._note_bad(f"no answer: {error!r}")
                    return
                self.tally.repeated += 1
                continue
            if (response.status, response.body) != (200, exchange.answer):
                self._note_bad(f"wrong answer: {response.status} {response.body[:100]!r}")
            if response.closes or self._reconnects:
                self._drop()
            return

    def _connect(self) -> Connection:
        for _ in range(self._tries_to_connect - 1):
            try:
                return Connection(next(self._addresses), timeout_s=_TIMEOUT_S)
            except OSError:
                continue
        return Connection(next(self._addresses), timeout_s=_TIMEOUT_S)

    def _drop(self) -> None:
        if self._connection is not None:
            self._connection.socket.close()
            self._connection = None

    def _note_bad(self, problem: str) -> None:
        self.tally.bad += 1
        self.tally.problem = self.tally.problem or problem


class Clients:
    """Running clients, each in its own thread."""

    def __init__(self, clients: list[_Client], threads: list[Thread]) -> None:
        self._askers = clients
        self._threads = threads

    @property
    def tally(self) -> Tally:
        """The sum so far."""
        return sum((client.tally for client in self._askers), Tally())

    def wait_for(self, requests: int) -> None:
        """Wait until this many further requests have been sent."""
        enough = self.tally.sent + requests
        wait_until(lambda: self.tally.sent >= enough, "requests to be asked")

    def wait_for_seconds(self, seconds: float) -> None:
        """Keep the clients running for a time."""
        time.sleep(seconds)

    def wait_gone(self) -> None:
        """Wait until every client has been refused a new connection."""
        for thread in self._threads:
            thread.join(30)
            assert not thread.is_alive(), "still served"


@contextmanager
def running_clients(
    addresses: str | Sequence[str],
    pool: Sequence[Exchange],
    *,
    connections: int = 4,
    until_gone: bool = False,
    reconnects: bool = False,
) -> Iterator[Clients]:
    """Run clients until the block ends. Each uses the first address as long as it serves.

    Args:
        addresses: `host:port` or `unix:/path`, in order of preference; a failure goes on to the next.
        pool: the requests to send.
        connections: the number of clients.
        until_gone: a client ends when a new connection fails.
        reconnects: a client makes a new connection for each request.
    """
    addresses = [addresses] if isinstance(addresses, str) else addresses
    share = len(pool) // connections or 1
    clients = [
        _Client(addresses, pool[number * share :] or pool, until_gone=until_gone, reconnects=reconnects)
        for number in range(connections)
    ]
    stop = Event()
    threads = [Thread(target=client.run, args=(stop,), name=f"client-{n}") for n, client in enumerate(clients)]
    for thread in threads:
        thread.start()
    try:
        yield Clients(clients, threads)
    finally:
        stop.set()
        for thread in threads:
            thread.join(30)
