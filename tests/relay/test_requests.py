"""What a relay answers to requests of all kinds, and how many it answers at a time."""

import asyncio
import os
import re
import secrets
import signal
import socket
import ssl
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, suppress
from pathlib import Path
from typing import Any

import orjson
import pybase64
import pytest
import trustme

from bidstream_svc.core.crypto import (
    SEALED_PART_BYTES,
    Envelope,
    open_response,
    seal_request,
    seal_response,
    seal_response_in_parts,
)
from bidstream_svc.core.status import DecryptionStatus
from bidstream_svc.devoperator import DevOperator, OperatorState
from bidstream_svc.devoperator.key_endpoints import bidstream_keys
from bidstream_svc.operator import Credentials, OperatorTransport, SharingClient
from bidstream_svc.relay.relay_plane import MAX_ANSWERS
from tests.relay.fleet import KEYS, SHARING, Question, key_ids, relay, relay_settings, relayed
from tests.support.certificates import CertificateFiles
from tests.support.metrics_page import scrape
from tests.support.operator import operator_in_thread
from tests.support.processes import resident_bytes
from tests.support.raw_http import Connection, ask, make_request
from tests.support.sidecar import DEADLINE_S, Sidecar, wait_until


@pytest.fixture(scope="module")
def operator() -> Iterator[DevOperator]:
    with operator_in_thread(OperatorState(seed=7)) as running:
        yield running


@pytest.fixture(scope="module")
def relaying(operator: DevOperator, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Sidecar]:
    with relay(tmp_path_factory.mktemp("requests"), **relay_settings(operator)) as process:
        yield process


@pytest.mark.parametrize("binary", [False, True])
def test_answer_is_the_operators_sealed_anew(operator: DevOperator, relaying: Sidecar, *, binary: bool) -> None:
    questions = [Question(operator.state, binary=binary) for _ in range(2)]
    answers = [question.post(relaying) for question in questions]
    assert [question.read(answer) for question, answer in zip(questions, answers, strict=True)] == [
        bidstream_keys(operator.state, {})
    ] * 2
    assert answers[0].body != answers[1].body
    assert answers[0].headers["content-type"] == ("application/octet-stream" if binary else "text/plain")
    # The same request again is answered again, as by an operator: only who has the secret can read that.
    again = questions[0].post(relaying)
    assert again.body != answers[0].body
    assert questions[0].read(again) == questions[0].read(answers[0])


def test_a_relay_names_itself_and_tells_the_age_of_its_keys(operator: DevOperator, relaying: Sidecar) -> None:
    headers = Question(operator.state).post(relaying, Cache_Control="max-age=3600").headers
    assert re.fullmatch("1.1 bidstream-svc-relay-[0-9a-f]{16}", headers["via"])
    assert 0 <= int(headers["age"]) < 3600


def test_base64_under_the_content_type_of_bytes(operator: DevOperator, relaying: Sidecar) -> None:
    question = Question(operator.state)
    answer = question.post(relaying, Content_Type="application/octet-stream")
    assert key_ids(question.read(answer))


@pytest.mark.parametrize(("age_s", "status"), [(110, 200), (-110, 200), (130, 400), (-130, 400)])
def test_time_of_a_request(operator: DevOperator, relaying: Sidecar, age_s: int, status: int) -> None:
    answer = Question(operator.state, age_s=age_s).post(relaying)
    assert answer.status == status
    if status == 400:
        assert answer.json["status"] == "client_error"
        assert "Invalid timestamp" in answer.json["message"]


def test_wrong_credentials_are_401_and_a_wrong_secret_400(operator: DevOperator, relaying: Sidecar) -> None:
    question = Question(operator.state)
    wrong = ["", "Bearer", "Bearer wrong", f"Bearer {question.api_key}x", f"Basic {question.api_key}", "Bearer \udcff"]
    for authorization in wrong:
        answer = question.post(relaying, Authorization=authorization)
        assert (answer.status, answer.json) == (401, {"status": "unauthorized"}), authorization
    other = Question(OperatorState(seed=99))
    other.api_key = question.api_key
    answer = other.post(relaying)
    assert answer.status == 400
    assert "Check encryption key" in answer.json["message"]


@pytest.mark.parametrize(
    "wire", [b"", b"{}", b'{"a":1}', b"\xff" * 100, b"AAAA", b"A" * 16_000, b"\x01" * 70, b"AQ==" * 40], ids=repr
)
@pytest.mark.parametrize("media_type", ["text/plain", "application/octet-stream"])
def test_garbage_is_400(operator: DevOperator, relaying: Sidecar, wire: bytes, media_type: str) -> None:
    headers = {"Authorization": f"Bearer {operator.state.api_key}", "Content-Type": media_type}
    answer = ask(relaying.data, KEYS, wire, headers=headers)
    assert (answer.status, answer.json["status"]) == (400, "client_error")


def test_huge_bodies_are_refused_and_not_kept(operator: DevOperator, relaying: Sidecar) -> None:
    before = resident_bytes(relaying.process.pid)
    headers = {"Authorization": f"Bearer {operator.state.api_key}", "Content-Length": str(10**9)}
    with ExitStack() as stack:
        for _ in range(20):
            connection = stack.enter_context(Connection(relaying.data))
            connection.send(make_request(KEYS, b"A", headers=headers))
            assert connection.receive().status == 413
            connection.socket.setblocking(False)
            with suppress(OSError):  # it is not read, or the connection has been closed
                for _ in range(32):
                    connection.send(b"A" * 65536)
    chunked = {
        "Authorization": f"Bearer {operator.state.api_key}",
        "Transfer-Encoding": "chunked",
        "Content-Length": None,
    }
    with Connection(relaying.data) as connection:
        connection.send(make_request(KEYS, b"", headers=chunked) + b"8000\r\n" + b"A" * 0x8000 + b"\r\n0\r\n\r\n")
        assert connection.receive().status == 413
    assert resident_bytes(relaying.process.pid) < before + 32 * 1024 * 1024


@pytest.mark.parametrize("has_tls", [False, True], ids=["plain", "tls"])
def test_silent_connections_keep_nobody_out(operator: DevOperator, tmp_path: Path, *, has_tls: bool) -> None:
    """They need no credentials. Those that are still opening, as all of a burst are, are no exception."""
    authority, client = trustme.CA(), ssl.create_default_context()
    authority.configure_trust(client)
    files = CertificateFiles(tmp_path, authority).settings if has_tls else {}
    limit = 2
    with relay(tmp_path, **relay_settings(operator), **files, max_connections=limit) as process, ExitStack() as stack:
        process.signal(signal.SIGSTOP)  # so that all are accepted at once
        silent = [stack.enter_context(Connection(process.data)) for _ in range(10 * limit)]
        asking = stack.enter_context(Connection(process.data))
        process.signal(signal.SIGCONT)
        if has_tls:
            asking.socket = client.wrap_socket(asking.socket, server_hostname="localhost")
        question = Question(operator.state)
        assert key_ids(question.read(asking.ask(KEYS, question.wire, headers=question.headers())))
        for connection in silent[: 1 - limit]:
            assert connection.is_closed_by_peer()
        assert scrape(process.admin).value("bidstream_connections") == limit
        asking.socket.close()
        for connection in silent:
            connection.socket.close()
        wait_until(lambda: scrape(process.admin).value("bidstream_connections") == 0, "the end of all")


def test_settings_that_a_relay_does_not_use_are_told(operator: DevOperator, tmp_path: Path) -> None:
    with relay(tmp_path, **relay_settings(operator), workers=2, optout_path="/left", log_level="info") as process:
        (line,) = (line for line in process.log if line["event"] == "settings without effect")
    assert line["variables"] == ["BIDSTREAM_WORKERS", "BIDSTREAM_OPTOUT_PATH"]


def test_other_paths_and_methods(operator: DevOperator, relaying: Sidecar) -> None:
    question = Question(operator.state)
    assert ask(relaying.data, KEYS, method="GET").status == 405
    for path in ("/", "/v2/key/latest", "/v2/token/generate", "/decrypt", f"{KEYS}/"):
        assert question.post(relaying, path).status == 404


def test_requests_are_counted(operator: DevOperator, relaying: Sidecar) -> None:
    names = ("success", "unauthorized", "refused")
    before = {name: relayed(relaying, name) for name in names}
    question = Question(operator.state)
    question.read(question.post(relaying))
    question.post(relaying, Authorization="Bearer wrong")
    Question(operator.state, age_s=1000).post(relaying)
    wait_until(lambda: all(relayed(relaying, name) == before[name] + 1 for name in names), "the counts")


async def test_sharing_keys_are_fetched_once_they_are_asked_for(operator: DevOperator, relaying: Sidecar) -> None:
    assert operator.state.calls[SHARING] == 0
    credentials = Credentials.from_base64(operator.state.api_key, operator.state.client_secret)
    async with OperatorTransport(f"http://{relaying.data}", credentials) as transport:
        clients = [SharingClient(transport) for _ in range(4)]
        await asyncio.gather(*(client.refresh() for client in clients))
        raw_uid = operator.state.raw_uid("a@example.com")
        token = clients[0].encrypt(raw_uid).token
        assert token is not None
        assert clients[1].decrypt(token)[:2] == (DecryptionStatus.SUCCESS, raw_uid)
    assert operator.state.calls[SHARING] <= 2


def test_sharing_keys_that_the_operator_refuses_are_refused(operator: DevOperator, tmp_path: Path) -> None:
    client = operator.state.clients.without_role
    own = {"api_key": client.api_key, "client_secret": client.client_secret}
    asked = operator.state.calls[SHARING]
    with Sidecar(tmp_path, "relay", **relay_settings(operator) | own) as process:
        question = Question(operator.state)
        question.api_key, question.secret = client.api_key, pybase64.b64decode(client.client_secret)
        wire = seal_request(question.secret, os.urandom(12), Envelope(time.time_ns() // 1_000_000, bytes(8), b""))
        for _ in range(3):
            answer = ask(process.data, SHARING, wire, headers=question.headers())
            assert (answer.status, answer.json) == (401, {"status": "unauthorized"})
        answer = ask(process.data, KEYS, wire, headers=question.headers())
        assert answer.status == 503  # a fallback may have them, and the relay goes on asking
    assert operator.state.calls[SHARING] == asked + 1


def test_age_that_a_request_allows(operator: DevOperator, relaying: Sidecar) -> None:
    """Only who asks for newer keys lets the relay ask the operator, and that once a minute."""
    asked = operator.state.calls[KEYS]
    for _ in range(5):
        assert Question(operator.state).post(relaying, Cache_Control="max-age=3600").status == 200
    assert operator.state.calls[KEYS] == asked
    operator.state.rotate_keys()
    newest = set(key_ids(bidstream_keys(operator.state, {})))
    question = Question(operator.state)
    with ThreadPoolExecutor(16) as pool:
        answers = list(pool.map(lambda _: question.read(question.post(relaying)), range(32)))
    # The tests before may have used the one question of this minute.
    assert operator.state.calls[KEYS] <= asked + 1
    if operator.state.calls[KEYS] == asked + 1:
        assert {frozenset(key_ids(answer)) for answer in answers} == {frozenset(newest)}


# Answers of megabytes.

DOMAINS = 60_000


def with_large_response(directory: Path, state: OperatorState) -> tuple[dict[str, Any], bytes]:
    """The settings of a relay with a large key response in its cache, whose operator is down, and that response."""
    answer = bidstream_keys(state, {})
    answer["body"]["site_data"] = [
        {"id": place, "domain_names": [secrets.token_hex(16) + ".example"]} for place in range(DOMAINS)
    ]
    json = orjson.dumps(answer)
    content = Envelope(time.time_ns() // 1_000_000, bytes(8), json)
    wire = seal_response(pybase64.b64decode(state.client_secret), os.urandom(12), content)
    (directory / "keys").write_bytes(wire)
    with socket.create_server(("127.0.0.1", 0)) as closed:
        url = f"http://127.0.0.1:{closed.getsockname()[1]}"
    settings = {"operator_url": url, "api_key": state.api_key, "client_secret": state.client_secret}
    return settings | {"key_cache": directory / "keys", "request_timeout": 2}, json


@pytest.fixture(scope="module")
def big(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[OperatorState, Sidecar, bytes]]:
    directory, state = tmp_path_factory.mktemp("big"), OperatorState(seed=3)
    settings, json = with_large_response(directory, state)
    with relay(directory, **settings) as process:
        yield state, process, json


def test_large_answer_over_tls(tmp_path: Path) -> None:
    authority, state = trustme.CA(), OperatorState(seed=3)
    settings, json = with_large_response(tmp_path, state)
    client = ssl.create_default_context()
    authority.configure_trust(client)
    files = CertificateFiles(tmp_path, authority)
    with relay(tmp_path, **settings, **files.settings) as process:
        question = Question(state)
        answer = ask(process.data, KEYS, question.wire, headers=question.headers(), tls=client)
        assert question.read(answer) == orjson.loads(json)


def test_large_answer_is_whole(big: tuple[OperatorState, Sidecar, bytes]) -> None:
    state, process, json = big
    for binary in (False, True):
        question = Question(state, binary=binary)
        assert question.read(question.post(process, Cache_Control="max-age=999999999")) == orjson.loads(json)


def test_pipelined_requests_are_answered_in_order(big: tuple[OperatorState, Sidecar, bytes]) -> None:
    state, process, json = big
    questions = [Question(state) for _ in range(4)]
    with Connection(process.data) as connection:
        connection.send(b"".join(request_of(question) for question in questions))
        for question in questions:  # the nonce of each answer is that of its question
            assert question.read(connection.receive()) == orjson.loads(json)


def test_http_1_0(big: tuple[OperatorState, Sidecar, bytes]) -> None:
    state, process, json = big
    question = Question(state)
    with Connection(process.data) as connection:
        connection.send(request_of(question).replace(b" HTTP/1.1\r\n", b" HTTP/1.0\r\n", 1))
        assert question.read(connection.receive()) == orjson.loads(json)
        assert connection.is_closed_by_peer()


def test_an_answer_is_sent_to_its_end_at_sigterm(tmp_path: Path) -> None:
    state = OperatorState(seed=3)
    settings, json = with_large_response(tmp_path, state)
    with relay(tmp_path, **settings) as process, Connection(process.data) as connection:
        connection.socket.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 65536)
        question = Question(state)
        connection.send(request_of(question))
        assert connection.socket.recv(1, socket.MSG_PEEK)
        process.signal(signal.SIGTERM)
        wait_until(lambda: not accepts(process), "the end of accepting")
        assert question.read(connection.receive()) == orjson.loads(json)
        assert process.process.wait(DEADLINE_S) == 0


def request_of(question: Question) -> bytes:
    return make_request(KEYS, question.wire, headers=question.headers(Cache_Control="max-age=999999999"))


def accepts(process: Sidecar) -> bool:
    try:
        Connection(process.data).socket.close()
    except ConnectionRefusedError:
        return False
    return True


def test_clients_that_do_not_read_cost_little_and_not_for_ever(big: tuple[OperatorState, Sidecar, bytes]) -> None:
    state, process, _ = big
    before = resident_bytes(process.process.pid)
    question = Question(state)
    request = make_request(KEYS, question.wire, headers=question.headers())
    with ExitStack() as stack:
        connections = [stack.enter_context(Connection(process.data)) for _ in range(4 * MAX_ANSWERS)]
        for connection in connections:
            connection.socket.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
            connection.send(request)
        wait_until(lambda: relayed(process, "overloaded"), "a refusal")
        assert resident_bytes(process.process.pid) < before + 48 * 1024 * 1024
        # The first ones are closed once they have not read for long enough, and the next ones have their places.
        wait_until(lambda: question.post(process).status == 200, "a place")
        answers = []
        for connection in connections:
            with suppress(ConnectionError):
                answers.append(connection.socket.recv(4096))
    head, _, body = next(answer for answer in answers if b" 429 " in answer[:20]).partition(b"\r\n\r\n")
    assert orjson.loads(body)["status"] == "too_many_requests"
    assert re.search(rb"\r\nRetry-After: [1-9]", head)


@pytest.mark.parametrize(
    "length", [0, 1, 2, SEALED_PART_BYTES - 28, SEALED_PART_BYTES - 27, SEALED_PART_BYTES, 3 * SEALED_PART_BYTES + 5]
)
@pytest.mark.parametrize("binary", [False, True])
def test_parts_are_the_whole(length: int, *, binary: bool) -> None:
    secret, iv, content = bytes(32), bytes(12), Envelope(1, b"12345678", os.urandom(length))
    size, parts = seal_response_in_parts(secret, iv, content, binary=binary)
    whole = b"".join(parts)
    assert whole == seal_response(secret, iv, content, binary=binary)
    assert len(whole) == size
    assert open_response(secret, whole, content.nonce, binary=binary) == content
