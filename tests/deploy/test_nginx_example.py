"""nginx in front of a bidder: each bid request reaches it rewritten by a real sidecar, or else as it came."""

import gzip
import json
import os
import re
import signal
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest

from bidstream_svc.core.identity import IdentityScope
from bidstream_svc.devoperator import DevOperator
from tests.deploy.nginx_proxy import FILES, Proxy, find_module, running_proxy
from tests.deploy.test_examples import ScriptedSidecar, http
from tests.support.raw_http import Connection, ask
from tests.support.sidecar import DEADLINE_S, Sidecar, programme_settings, wait_until

pytestmark = pytest.mark.needs_tools("nginx")

SOURCES = {IdentityScope.UID2: "uidapi.com", IdentityScope.EUID: "euid.eu"}
MAX_BODY = 512 * 1024
Operators = dict[IdentityScope, DevOperator]


@pytest.fixture(scope="module")
def module() -> Path:
    found = find_module()
    if found is None and os.environ.get("REQUIRE_TOOLS") == "1":
        pytest.fail("nginx has no njs; on Debian: apt-get install libnginx-mod-http-js", pytrace=False)
    if found is None:
        pytest.skip("nginx has no njs")
    return found


def start_sidecar(directory: Path, operators: Operators, **settings: Any) -> Sidecar:
    listen = f"unix:{directory}/decrypt.sock"
    return Sidecar(directory, listen=listen, **programme_settings(operators.values()), **settings)


def wait_for_both(sidecar: Sidecar, operators: Operators) -> None:
    for operator in operators.values():
        body = {"token": operator.state.mint_token()}
        wait_until(lambda body=body: ask(sidecar.data, "/decrypt", body).json["status"] == "SUCCESS", "keys")  # type: ignore[misc]


@pytest.fixture(scope="module")
def proxy(module: Path, operators: Operators, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Proxy]:
    """With a sidecar that has the keys of both programmes."""
    directory = tmp_path_factory.mktemp("nginx")
    with ExitStack() as stack:
        sidecar = stack.enter_context(start_sidecar(directory, operators))
        wait_for_both(sidecar, operators)
        yield stack.enter_context(running_proxy(directory, directory / "decrypt.sock", module))


@pytest.fixture
def stack() -> Iterator[ExitStack]:
    with ExitStack() as opened:
        yield opened


def bid_request(operators: Operators, person: str = "someone@example.com") -> tuple[bytes, bytes]:
    """One with a token of each programme and an expired one, and what the bidder should get."""
    uids = {scope: operator.state.raw_uid(person) for scope, operator in operators.items()}
    tokens = {scope: operator.state.mint_token(identity=person) for scope, operator in operators.items()}
    expired = operators[IdentityScope.UID2].state.mint_token(lifetime_s=-60)

    def build(ids: dict[IdentityScope, str], last: str) -> bytes:
        eids = ",".join(f'{{"source":"{SOURCES[scope]}","uids":[{{"id":"{ids[scope]}","atype":3}}]}}' for scope in ids)
        return (
            f'{{"id":"r1","imp":[{{"id":"1","bidfloor":1.10}}],"user":{{"eids":[{eids}{last}],"geo":{{"lat":1e3}}}},'
            '"ext":{"note":"\\u00e4\\ud800 \u00f6"}}'
        ).encode()

    return build(tokens, f',{{"source":"uidapi.com","uids":[{{"id":"{expired}"}}]}}'), build(uids, "")


def test_the_bidder_gets_raw_ids(proxy: Proxy, operators: Operators) -> None:
    sent, expected = bid_request(operators)
    answer, received = proxy.ask(sent, X_Openrtb_Version="2.6")
    assert answer.status == 200
    assert received.body == expected
    assert received.headers["bidstream-statuses"] == "SUCCESS,SUCCESS,EXPIRED_TOKEN"
    assert received.headers["x-openrtb-version"] == "2.6"
    assert received.headers["content-type"] == "application/json"


def test_a_compressed_bid_request_arrives_decompressed(proxy: Proxy, operators: Operators) -> None:
    sent, expected = bid_request(operators)
    _, received = proxy.ask(gzip.compress(sent), Content_Encoding="gzip")
    assert received.body == expected
    assert "content-encoding" not in received.headers


def test_a_bid_request_without_our_ids_says_nothing_of_statuses(proxy: Proxy) -> None:
    _, received = proxy.ask(b'{"id": "r1"}', Bidstream_Statuses="SUCCESS")
    assert json.loads(received.body) == {"id": "r1"}
    assert "bidstream-statuses" not in received.headers


def test_requests_at_the_same_time_are_not_mixed_up(proxy: Proxy, operators: Operators) -> None:
    pairs = [bid_request(operators, f"person-{number}@example.com") for number in range(40)]

    def send(pair: tuple[bytes, bytes]) -> None:
        with proxy.connect() as connection:
            for _ in range(3):
                assert connection.ask("/bid", pair[0]).body == pair[1]

    with ThreadPoolExecutor(8) as threads:
        list(threads.map(send, pairs))


@pytest.mark.parametrize(
    ("body", "headers"),
    [
        (b"no JSON", {}),
        (b"\x0a\x02r1", {"Content_Type": "application/x-protobuf"}),
        (b"", {}),
        (b"no gzip", {"Content_Encoding": "gzip"}),
        (b'{"id": "r1"}', {"Content_Encoding": "br"}),
        (b'{"id": "%b"}' % (b"a" * MAX_BODY), {}),
        (b'{"id": "%b"}' % (b"a" * 3 * MAX_BODY), {}),
    ],
    ids=["no JSON", "protobuf", "empty", "no gzip", "brotli", "too large", "in a file"],
)
def test_what_the_sidecar_refuses_arrives_as_it_came(proxy: Proxy, body: bytes, headers: dict[str, str]) -> None:
    answer, received = proxy.ask(body, Bidstream_Statuses="SUCCESS", **headers)
    assert answer.status == 200
    assert (received.method, received.body) == ("POST", body)
    for name, value in headers.items():
        assert received.headers[name.replace("_", "-").lower()] == value
    assert "bidstream-statuses" not in received.headers


def test_other_methods_are_passed_on(proxy: Proxy) -> None:
    with proxy.connect() as connection:
        assert connection.ask("/status", method="GET").status == 200
    assert proxy.bidder.received[-1].method == "GET"


def test_the_route_to_the_sidecar_is_not_open(proxy: Proxy, operators: Operators) -> None:
    sent, _ = bid_request(operators)
    with proxy.connect() as connection:
        assert connection.ask("/openrtb/rewrite", sent).status == 404


@pytest.mark.parametrize("state", ["no socket", "nobody listens", "stopped", "too many connections"])
def test_without_an_answer_in_time_the_request_arrives_as_it_came(
    state: str, module: Path, operators: Operators, tmp_path: Path, stack: ExitStack
) -> None:
    """By the example's own time-outs. The time measured here is bounded only generously."""
    if state != "no socket":
        sidecar = stack.enter_context(start_sidecar(tmp_path, operators, max_connections=1)).wait_ready()
        match state:
            case "nobody listens":
                sidecar.process.kill()
                sidecar.process.wait(DEADLINE_S)
            case "stopped":
                sidecar.signal(signal.SIGSTOP)
            case _:
                stack.enter_context(Connection(sidecar.data)).ask("/decrypt", {"token": "abcd"})
    proxy = stack.enter_context(running_proxy(tmp_path, tmp_path / "decrypt.sock", module, is_patient=False))
    sent, _ = bid_request(operators)
    for _ in range(3):
        begun_s = time.monotonic()
        answer, received = proxy.ask(sent)
        assert time.monotonic() - begun_s < DEADLINE_S / 2
        assert (answer.status, received.body) == (200, sent)
        assert "bidstream-statuses" not in received.headers
    tokens = re.findall(r'"id":"([\w-]{80,})"', sent.decode())
    assert len(tokens) == 3
    assert not [token for token in tokens if token in proxy.log]


def test_after_a_restart_of_the_sidecar_requests_are_rewritten(
    module: Path, operators: Operators, tmp_path: Path, stack: ExitStack
) -> None:
    proxy = stack.enter_context(running_proxy(tmp_path, tmp_path / "decrypt.sock", module))
    sent, expected = bid_request(operators)
    assert proxy.ask(sent)[1].body == sent
    for _ in range(2):
        with start_sidecar(tmp_path, operators) as sidecar:
            wait_for_both(sidecar, operators)
            assert proxy.ask(sent)[1].body == expected
            assert sidecar.stop() == 0


@pytest.mark.parametrize("lacks", [0, 1])
def test_an_answer_that_ends_early_is_not_used(lacks: int, module: Path, tmp_path: Path, stack: ExitStack) -> None:
    scripted = ScriptedSidecar("unix", tmp_path)
    stack.callback(scripted.close)
    body = '{"id": "rewritten"}'
    scripted.start([http("200 OK", body, "Connection: close", length=len(body) + lacks)])
    proxy = stack.enter_context(running_proxy(tmp_path, tmp_path / "scripted.sock", module))
    _, received = proxy.ask(b'{"id": "original"}')
    assert received.body == (b'{"id": "original"}' if lacks else body.encode())


def test_a_request_is_repeated_if_the_kept_connection_is_closed_at_it(
    module: Path, tmp_path: Path, stack: ExitStack
) -> None:
    scripted = ScriptedSidecar("unix", tmp_path)
    stack.callback(scripted.close)
    body = '{"id": "rewritten"}'
    # Each connection is closed at the request behind its script; the last one gets the end of nginx.
    scripted.start([http("200 OK", body)], [http("200 OK", body)])
    proxy = stack.enter_context(running_proxy(tmp_path, tmp_path / "scripted.sock", module))
    for _ in range(2):
        assert proxy.ask(b'{"id": "original"}')[1].body == body.encode()
    assert scripted.connections == 2


def test_the_time_outs_add_up_to_five_milliseconds() -> None:
    timeouts = re.findall(r"proxy_(connect|send|read)_timeout (\d+)ms;", (FILES / "nginx.conf").read_text("utf-8"))
    assert [phase for phase, _ in timeouts] == ["connect", "send", "read"]
    assert sum(int(number) for _, number in timeouts) == 5
