"""Requests at every host of a fleet, at a rate, each answer compared with the right one."""

import itertools
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from threading import Event, Thread
from typing import NamedTuple

import orjson

from bidstream_svc.devoperator import OperatorState
from tests.support.raw_http import Connection, make_request

_PEOPLE = 10
_VERSIONS = (2, 3, 4)
_NOT_YET = orjson.dumps({"status": "NOT_AUTHORIZED_FOR_KEY", "uid": None, "established": None})


class Question(NamedTuple):
    """A request as bytes, the body of the right answer, and the rotation whose keys the token needs, from 0 on."""

    request: bytes
    answer: bytes
    rotation: int


def questions(state: OperatorState, rotation: int) -> list[Question]:
    """Make a mixture for the operator's current keys: good tokens of each version first, then others."""
    now_ms = state.now_ms()
    good = [
        _question(
            state.mint_token(version, identity=identity, established_ms=now_ms - number),
            {"status": "SUCCESS", "uid": state.raw_uid(identity), "established": now_ms - number},
            rotation,
        )
        for number in range(_PEOPLE)
        for version in _VERSIONS
        for identity in [f"person-{number}@example.com"]
    ]
    site = next(each for each in state.sites.values() if each.domain_names)
    elsewhere = state.mint_token(site_id=site.site_id, client_side=True)
    return [
        *good,
        _question(state.mint_token(lifetime_s=-60), _failure("EXPIRED_TOKEN"), rotation),
        _question(elsewhere, _failure("DOMAIN_NAME_CHECK_FAILED"), rotation, "another.example"),
        _question("rubbish", _failure("INVALID_PAYLOAD"), 0),
    ]


def _failure(status: str) -> dict[str, object]:
    return {"status": status, "uid": None, "established": None}


def _question(token: str, answer: dict[str, object], rotation: int, domain: str | None = None) -> Question:
    return Question(make_request("/decrypt", {"token": token, "domain": domain}), orjson.dumps(answer), rotation)


@dataclass(slots=True)
class Counts:
    """What came of the requests.

    Attributes:
        answers: how many there were.
        wrong: other than the right one, and requests without an answer.
        not_initialized: those of the wrong ones that say that the host has no keys.
        not_yet: NOT_AUTHORIZED_FOR_KEY for a key that the host has not had so far.
        problem: the first wrong or missing answer.
    """

    answers: int = 0
    wrong: int = 0
    not_initialized: int = 0
    not_yet: int = 0
    problem: str = ""

    def __add__(self, other: "Counts") -> "Counts":
        return Counts(
            self.answers + other.answers,
            self.wrong + other.wrong,
            self.not_initialized + other.not_initialized,
            self.not_yet + other.not_yet,
            self.problem or other.problem,
        )

    def __sub__(self, earlier: "Counts") -> "Counts":
        return Counts(
            self.answers - earlier.answers,
            self.wrong - earlier.wrong,
            self.not_initialized - earlier.not_initialized,
            self.not_yet - earlier.not_yet,
            self.problem,
        )


class HostLoad:
    """One keep-alive connection to one host.

    Every other request has a token of the newest keys, so that the first right answer is seen soon.

    Args:
        address: of the host's data plane.
        rate_per_s: requests a second.
        pools: the questions of each rotation so far; the list grows.

    Attributes:
        counts: so far.
        level_s: when the host first answered a token of each rotation rightly, on the monotonic clock.
    """

    def __init__(self, address: str, rate_per_s: float, pools: Sequence[Sequence[Question]]) -> None:
        self.counts = Counts()
        self.level_s: dict[int, float] = {}
        self._address = address
        self._pause_s = 1 / rate_per_s
        self._pools = pools
        self._connection: Connection | None = None

    def run(self, stop: Event) -> None:
        """Send until told to stop."""
        due_s = time.monotonic()
        try:
            for number in itertools.count():
                newest = len(self._pools) - 1
                pool = self._pools[newest if number % 2 else number // 2 % (newest + 1)]
                self._ask(pool[number // 2 % len(pool)])
                # A host that is late is not given more at a time.
                due_s = max(due_s + self._pause_s, time.monotonic())
                if stop.wait(due_s - time.monotonic()):
                    return
        finally:
            if self._connection is not None:
                self._connection.socket.close()

    def _ask(self, question: Question) -> None:
        self.counts.answers += 1
        try:
            connection = self._connection = self._connection or Connection(self._address)
            connection.send(question.request)
            response = connection.receive()
        except (OSError, EOFError) as error:
            if self._connection is not None:
                self._connection.socket.close()
                self._connection = None
            self._note_wrong(f"no answer: {error!r}")
            return
        if (response.status, response.body) == (200, question.answer):
            self.level_s.setdefault(question.rotation, time.monotonic())
        elif response.body == _NOT_YET and question.rotation not in self.level_s:
            self.counts.not_yet += 1
        else:
            self.counts.not_initialized += b"NOT_INITIALIZED" in response.body
            self._note_wrong(f"{response.status} with status {_status_in(response.body)}")

    def _note_wrong(self, problem: str) -> None:
        self.counts.wrong += 1
        self.counts.problem = self.counts.problem or problem


def _status_in(body: bytes) -> str:
    """Return the status of an answer, without the uid beside it."""
    try:
        return str(orjson.loads(body)["status"])
    except (orjson.JSONDecodeError, KeyError, TypeError):
        return "that cannot be read"


class Load:
    """The loads of all hosts. `pools` grows with each rotation."""

    def __init__(self, hosts: Sequence[HostLoad], pools: list[list[Question]]) -> None:
        self.hosts = hosts
        self.pools = pools

    @property
    def counts(self) -> Counts:
        """The sum so far."""
        return sum((host.counts for host in self.hosts), Counts())

    def add(self, pool: list[Question]) -> int:
        """Ask for tokens of new keys, too. Returns the number of the rotation."""
        self.pools.append(pool)
        return len(self.pools) - 1

    def behind(self, rotation: int) -> int:
        """How many hosts have not answered a token of these keys rightly."""
        return sum(rotation not in host.level_s for host in self.hosts)


@contextmanager
def running_load(addresses: Sequence[str], rate_per_s: float, pool: list[Question]) -> Iterator[Load]:
    """Send to all hosts until the block ends; the starts of their loads are spread over a second."""
    pools = [pool]
    hosts = [HostLoad(address, rate_per_s, pools) for address in addresses]
    stop = Event()
    threads = [Thread(target=host.run, args=(stop,), name=f"load-{place}") for place, host in enumerate(hosts)]
    try:
        for thread in threads:
            thread.start()
            time.sleep(1 / len(threads))
        yield Load(hosts, pools)
    finally:
        stop.set()
        for thread in threads:
            if thread.ident is not None:
                thread.join(30)
