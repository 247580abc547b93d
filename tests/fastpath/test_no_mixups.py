"""No answer reaches another connection, whatever clients and the operator do.

Hundreds of connections ask for the uids of tokens that nobody else asks for at that moment; some go away in the
middle. At the same time keys are rotated and refreshed, and refreshes time out because the operator hangs.
"""

import asyncio
import json
from collections.abc import Iterator
from random import Random
from typing import Any

import pytest
import uvloop

from bidstream_svc.devoperator import DevOperator, Fault, OperatorState
from bidstream_svc.operator.from_settings import credentials_reader
from bidstream_svc.operator.transport import OperatorTransport, RetryPolicy
from bidstream_svc.operator_settings import OperatorSettings
from tests.support.metrics_page import scrape
from tests.support.operator import operator_in_thread
from tests.support.raw_http import make_request
from tests.support.sidecar import RunningService, operator_settings, service_in_thread

CONNECTIONS = 250
ANSWERS = 6_000
TOKENS = 1_000
HANG_S = 0.05
SUCCESSES, TIME_OUTS = 5, 5


@pytest.fixture
def operator() -> Iterator[DevOperator]:
    with operator_in_thread(OperatorState(seed=9)) as running:
        yield running


@pytest.fixture
def service(operator: DevOperator, monkeypatch: pytest.MonkeyPatch) -> Iterator[RunningService]:
    def impatient(settings: OperatorSettings, retry: RetryPolicy, *, total_timeout_s: float) -> OperatorTransport:
        assert total_timeout_s > HANG_S
        read = credentials_reader(settings)
        return OperatorTransport(operator.url, read, retry=retry, read_timeout_s=HANG_S, total_timeout_s=HANG_S)

    monkeypatch.setattr("bidstream_svc.keystore.key_client.make_transport", impatient)
    with service_in_thread(**operator_settings(operator)) as running:
        yield running


class _GoneError(Exception):
    """The client has gone away."""


class Crowd:
    """All clients together: what each token's answer must be, and how many came."""

    def __init__(self, service: RunningService, state: OperatorState) -> None:
        self._service = service
        self._state = state
        host, _, port = service.data.rpartition(":")
        self._address = host, int(port)
        self._random = Random(7)  # noqa: S311 - to be repeatable
        self._uids: dict[str, str] = {}
        self.answers = self.cancellations = 0
        self.is_over = False

    def mint(self, count: int) -> None:
        for _ in range(count):
            identity = f"number{len(self._uids)}@example.com"
            self._uids[self._state.mint_token(identity=identity)] = self._state.raw_uid(identity)
        self._tokens = list(self._uids)

    async def connect_again_and_again(self) -> None:
        """One client: a connection, some rounds of requests on it, and then the next."""
        while not self.is_over:
            reader, writer = await asyncio.open_connection(*self._address)
            try:
                for _ in range(self._random.randint(1, 20)):
                    await self._converse(reader, writer)
            except _GoneError:
                self.cancellations += 1
            finally:
                writer.transport.abort()

    async def _converse(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """Send pipelined requests and check their answers, or go away instead."""
        goes_away = self._random.random() < 0.05
        expected = await self._send(writer, goes_away=goes_away)
        if goes_away:
            raise _GoneError
        for tokens in expected:
            await self._receive(reader, tokens)

    async def _send(self, writer: asyncio.StreamWriter, *, goes_away: bool) -> list[list[str]]:
        """Send pipelined requests in pieces; the tokens of each, in order."""
        expected = [self._random.sample(self._tokens, self._size()) for _ in range(self._random.randint(1, 4))]
        stream = b"".join(map(self._request_for, expected))
        middle = self._random.randrange(len(stream))
        writer.write(stream[:middle])
        await asyncio.sleep(0)
        if not goes_away or self._random.random() < 0.5:
            writer.write(stream[middle:])
            await asyncio.sleep(0)
        return expected

    def _size(self) -> int:
        """1 for a single request; more for a batch, in one turn or in several."""
        return self._random.choices([1, self._random.randint(2, 20), self._random.randint(65, 100)], [95, 4, 1])[0]

    def _request_for(self, tokens: list[str]) -> bytes:
        if len(tokens) > 1:
            return make_request("/decrypt/batch", {"requests": [{"token": token} for token in tokens]})
        body = json.dumps({"token": tokens[0]}).encode()
        if self._random.random() < 0.01:  # aiohttp takes over
            chunk = b"%x\r\n%b\r\n0\r\n\r\n" % (len(body), body)
            return make_request("/decrypt", headers={"Transfer-Encoding": "chunked"}) + chunk
        return make_request("/decrypt", body)

    async def _receive(self, reader: asyncio.StreamReader, tokens: list[str]) -> None:
        head = await reader.readuntil(b"\r\n\r\n")
        length = int(head.partition(b"Content-Length: ")[2].partition(b"\r\n")[0])
        answer: Any = json.loads(await reader.readexactly(length))
        results = answer["results"] if len(tokens) > 1 else [answer]
        assert [result["uid"] for result in results] == [self._uids[token] for token in tokens]
        self.answers += 1


async def rotate_keys(crowd: Crowd, service: RunningService, state: OperatorState) -> None:
    """Refresh all the time: with new keys, in vain, again; until enough has happened."""
    store = service.service._stores.all[0]
    while not crowd.is_over:
        state.rotate_keys()
        newest = max(key.key_id for key in state.keys.listed(state.now_s()))
        while store.snapshot is None or newest not in store.snapshot.keys:
            state.faults.clear()
            service.reload()
            await asyncio.sleep(HANG_S)
        crowd.mint(20)
        for fault in (Fault.HANG_BEFORE_ANSWER, Fault.HANG_IN_BODY, Fault.RESET):
            state.faults.inject(fault)
            service.reload()
            await asyncio.sleep(1.5 * HANG_S)


async def run_crowd(service: RunningService, state: OperatorState) -> Crowd:
    crowd = Crowd(service, state)
    crowd.mint(TOKENS)

    async def watch() -> None:
        page = scrape(service.admin)
        while (
            crowd.answers < ANSWERS
            or page.total("bidstream_key_refreshes_total", result="success") < SUCCESSES
            or page.total("bidstream_key_refreshes_total", result="network") < TIME_OUTS
        ):
            await asyncio.sleep(0.2)
            page = await asyncio.to_thread(scrape, service.admin)
        crowd.is_over = True

    async with asyncio.timeout(50), asyncio.TaskGroup() as group:
        group.create_task(watch())
        group.create_task(rotate_keys(crowd, service, state))
        for _ in range(CONNECTIONS):
            group.create_task(crowd.connect_again_and_again())
    return crowd


def test_everybody_gets_the_uid_of_his_own_token(service: RunningService, operator: DevOperator) -> None:
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        crowd = runner.run(run_crowd(service, operator.state))
    assert crowd.cancellations > 100
    page = scrape(service.admin)
    assert page.total("bidstream_http_requests_total", code="200") >= crowd.answers >= ANSWERS
    assert page.total("bidstream_http_requests_total", code="500") == 0
    assert page.total("bidstream_decrypt_failures_total") == 0
