"""Stock HTTP clients in their default settings are answered by the fast path of a real sidecar.

Needs the clients, which package managers fetch: `make deploy-check` runs these tests.
"""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import pytest

from bidstream_svc.devoperator import OperatorState
from tests.clients.proxy import recording_proxy
from tests.clients.stock import CLIENTS, Client
from tests.support.operator import operator_in_thread
from tests.support.raw_http import Connection
from tests.support.sidecar import Sidecar, operator_settings

REQUESTS = 6
SECOND_HEADER = {True: "Date", False: "Content-Type"}  # by whether the fast path has written the response


class Running(NamedTuple):
    """A sidecar, and what it has to answer."""

    sidecar: Sidecar
    body: str
    uid: str


@pytest.fixture(scope="module")
def running(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Running]:
    state = OperatorState(seed=1)
    identity = "someone@example.com"
    with (
        operator_in_thread(state) as operator,
        Sidecar(tmp_path_factory.mktemp("sidecar"), **operator_settings(operator)) as sidecar,
    ):
        sidecar.wait_ready()
        yield Running(sidecar, json.dumps({"token": state.mint_token(identity=identity)}), state.raw_uid(identity))


@pytest.fixture(scope="module")
def directories(tmp_path_factory: pytest.TempPathFactory) -> dict[tuple[str, ...], Path]:
    """One for the clients that need the same tools, which share what is fetched."""
    return {client.tools: tmp_path_factory.mktemp("client") for client in CLIENTS}


def is_of_fast_path(response_head: bytes) -> bool:
    """Tell by the order of the headers who has written a response."""
    names = [line.partition(b":")[0].decode() for line in response_head.split(b"\r\n")[1:]]
    assert names[0] == "Server"
    assert names[1] in SECOND_HEADER.values()
    return names[1] == SECOND_HEADER[True]


def test_it_shows_in_a_response_who_has_written_it(running: Running) -> None:
    for headers, expected in (({}, True), ({"Connection": "x"}, False)):
        with recording_proxy(running.sidecar.data) as proxy, Connection(proxy.address) as connection:
            assert connection.ask("/decrypt", json.loads(running.body), headers=headers).status == 200
        assert [is_of_fast_path(head) for head in proxy.response_heads] == [expected]


@pytest.mark.timeout(600)
@pytest.mark.parametrize(
    "client", [pytest.param(each, id=each.name, marks=pytest.mark.needs_tools(*each.tools)) for each in CLIENTS]
)
def test_a_stock_client_is_answered_by_the_fast_path(
    client: Client, running: Running, directories: dict[tuple[str, ...], Path]
) -> None:
    with recording_proxy(running.sidecar.data) as proxy:
        answers = client.send(directories[client.tools], f"http://{proxy.address}/decrypt", running.body, REQUESTS)
    assert [status for status, _ in answers] == [200] * REQUESTS
    assert {json.loads(body)["uid"] for _, body in answers} == {running.uid}
    assert [is_of_fast_path(head) for head in proxy.response_heads] == [True] * REQUESTS
    # undici opens a second one if the first has not told it yet that the answer has ended.
    assert len(proxy.sent) <= 2, "the requests did not share connections"
