"""POST /decrypt/batch: order, size, and other connections being served meanwhile."""

import asyncio
import json
from functools import partial

import pytest

from bidstream_svc.config import load_settings
from bidstream_svc.devoperator import OperatorState
from bidstream_svc.metrics import MetricCells
from bidstream_svc.server.routes import ROUTES, labels_of
from bidstream_svc.server.service import Service
from bidstream_svc.server.sockets import open_listeners_each
from tests.support.operator import running_operator
from tests.support.raw_http import make_request
from tests.support.sidecar import RunningService, operator_settings

STATUSES = ["SUCCESS", "EXPIRED_TOKEN", "INVALID_PAYLOAD", "VERSION_NOT_SUPPORTED", "DOMAIN_NAME_CHECK_FAILED"]


def test_results_come_in_the_order_of_the_requests(service: RunningService, state: OperatorState) -> None:
    identities = [f"number{number}@example.com" for number in range(200)]
    kinds = [
        {},
        {"lifetime_s": -1},
        None,
        None,
        {"client_side": True},
    ]
    requests = []
    for number in range(1_000):
        kind, identity = kinds[number % 5], identities[number // 5]
        token = ["", "abcd"][number % 5 - 2] if kind is None else state.mint_token(identity=identity, **kind)
        requests.append({"token": token, "domain": None if number % 2 else "example.net"})

    results = service.ask("/decrypt/batch", {"requests": requests}).json["results"]

    assert [result["status"] for result in results] == STATUSES * 200
    assert [result["uid"] for result in results[::5]] == [state.raw_uid(identity) for identity in identities]
    assert [result["uid"] for result in results if result["status"] != "SUCCESS"] == [None] * 800


@pytest.mark.parametrize("size", [1, 2, 63, 64, 65, 128, 129, 999, 1000])
def test_a_batch_of_any_size_equals_single_requests(service: RunningService, state: OperatorState, size: int) -> None:
    request = {"token": state.mint_token(client_side=True), "domain": "www.example.com"}
    single = service.ask("/decrypt", request).json
    assert single["status"] == "SUCCESS"
    assert service.ask("/decrypt/batch", {"requests": [request] * size}).json == {"results": [single] * size}


def test_the_largest_batch_is_taken(service: RunningService) -> None:
    requests = [{"token": "A" * 4_000, "domain": "x" * 100}] * 1_000
    body = json.dumps({"requests": requests}).encode()
    assert 4_000_000 < len(body) < 4 * 1024 * 1024
    results = service.ask("/decrypt/batch", body).json["results"]
    assert [result["status"] for result in results] == ["VERSION_NOT_SUPPORTED"] * 1_000


def test_what_is_pipelined_behind_a_batch_waits_its_turn(service: RunningService) -> None:
    plain, batch = make_request("/decrypt", {"token": "abcd"}), {"requests": [{"token": "abcd"}] * 1_000}
    with service.connect() as connection:
        connection.send(plain + make_request("/decrypt/batch", batch) + plain + plain)
        shapes = [sorted(connection.receive().json) for _ in range(4)]
    single = ["established", "status", "uid"]
    assert shapes == [single, ["results"], single, single]


class _Client(asyncio.Protocol):
    """Notes when its answer begins to arrive."""

    def __init__(self, name: str, arrived: list[str]) -> None:
        self._name, self._arrived = name, arrived
        self.done = asyncio.Event()

    def data_received(self, _data: bytes) -> None:
        if self._name not in self._arrived:
            self._arrived.append(self._name)
        self.done.set()


@pytest.mark.parametrize("has_fast_path", [True, False])
async def test_a_large_batch_lets_others_through(*, has_fast_path: bool) -> None:
    # All in one loop: which answer comes first is a matter of turns there, and not of time.
    async with running_operator() as operator:
        settings = load_settings(listen="127.0.0.1:0", admin_listen="", **operator_settings(operator))
        listeners = open_listeners_each(settings, 1)[0]
        async with Service(settings, listeners, MetricCells(labels_of(ROUTES)), has_fast_path=has_fast_path) as service:
            await service.wait_started()
            # The native kernel answers good tokens in one step.
            requests = [{"token": operator.state.mint_token(2, lifetime_s=-1)}] * 1_000
            arrived: list[str] = []
            port = listeners.data[0].socket.getsockname()[1]
            loop = asyncio.get_running_loop()
            clients = [await loop.create_connection(partial(_Client, n, arrived), "127.0.0.1", port) for n in "ab"]
            (large, large_client), (small, small_client) = clients
            large.write(make_request("/decrypt/batch", {"requests": requests}))
            small.write(make_request("/decrypt", requests[0]))
            await large_client.done.wait()
            await small_client.done.wait()
            for transport, _ in clients:
                transport.close()
        assert arrived == ["b", "a"]
