"""The examples for bidders: built and run by their README, against a real sidecar and one that fails as scripted."""

import os
import re
import shutil
import signal
import socket
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from threading import Thread
from typing import IO, Any

import pytest

from bidstream_svc.core.identity import IdentityScope
from bidstream_svc.devoperator import DevOperator, OperatorState
from tests.deploy.bidders import ALL, EXAMPLES, PATIENT_MS, Bidder, Example, run, why_not
from tests.support.metrics_page import scrape
from tests.support.operator import operator_in_thread
from tests.support.sidecar import DEADLINE_S, Sidecar, programme_settings, wait_until

FALLBACK = "NO_VERDICT -"
NO_IDS = ["-"]
# The first build with Go, which only REQUIRE_TOOLS=1 allows, compiles the standard library.
TIMEOUTS_S = {"go": 240}


@pytest.fixture(
    scope="module",
    params=[
        pytest.param(
            example,
            id=example.language,
            marks=[pytest.mark.needs_tools(example.tool), pytest.mark.timeout(TIMEOUTS_S.get(example.tool, 60))],
        )
        for example in ALL
    ],
)
def example(request: pytest.FixtureRequest) -> Example:
    return request.param  # type: ignore[no-any-return]


@pytest.fixture(scope="module")
def built(example: Example, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The directory in which the example's command runs."""
    reason = None if os.environ.get("REQUIRE_TOOLS") == "1" else why_not(example)
    if reason is not None:
        pytest.skip(reason)
    directory = shutil.copytree(EXAMPLES, tmp_path_factory.mktemp(example.tool) / "examples")
    if example.build:
        run(["sh", "-c", example.build], directory)
    return directory


class ScriptedSidecar:
    """A server with scripted answers per connection. It closes a connection at the first request beyond its script.

    It refuses connections until `start`. An answer with `Connection: close` closes the connection at once.
    """

    def __init__(self, kind: str, directory: Path) -> None:
        self.connections = 0
        self._socket = socket.socket(socket.AF_UNIX if kind == "unix" else socket.AF_INET)
        self._socket.settimeout(DEADLINE_S)
        if kind == "unix":
            self._socket.bind(str(directory / "scripted.sock"))
            self.address = f"unix:{directory}/scripted.sock"
        else:
            self._socket.bind(("127.0.0.1", 0))
            self.address = "http://127.0.0.1:{1}".format(*self._socket.getsockname())
        self._thread: Thread | None = None

    def start(self, *script: list[bytes]) -> None:
        self._socket.listen()
        self._thread = Thread(target=self._serve, args=script, name="scripted sidecar")
        self._thread.start()

    def close(self) -> None:
        if self._thread is not None:
            self._thread.join()
        self._socket.close()

    def _serve(self, *script: list[bytes]) -> None:
        for answers in script:
            connection, _peer = self._socket.accept()
            connection.settimeout(DEADLINE_S)
            self.connections += 1
            with connection, connection.makefile("rb") as requests:
                for answer in answers:
                    if not read_request(requests):
                        break
                    connection.sendall(answer)
                    if b"Connection: close" in answer:
                        break
                else:
                    read_request(requests)


def read_request(requests: IO[bytes]) -> bool:
    """False at the end of the connection."""
    head = b""
    while (line := requests.readline()) not in {b"", b"\r\n"}:
        head += line
    length = re.search(rb"(?i)^content-length: *(\d+)", head, re.MULTILINE)
    return length is not None and len(requests.read(int(length[1]))) == int(length[1])


def http(status: str, body: str, *fields: str, length: int | None = None) -> bytes:
    length = len(body) if length is None else length
    lines = (f"HTTP/1.1 {status}", "Content-Type: application/json", f"Content-Length: {length}", *fields, "", body)
    return "\r\n".join(lines).encode()


CLOSE = "Connection: close"
GOOD = http("200 OK", '{"status": "SUCCESS", "uid": "abcd", "established": 1}')
UNUSABLE = [
    http("503 Service Unavailable", '{"error": {"code": "draining", "message": "-"}}', CLOSE),
    http("401 Unauthorized", '{"error": {"code": "unauthorized", "message": "-"}}', CLOSE),
    http("200 OK", "{}", CLOSE),
    http("200 OK", "[]", CLOSE),
    http("200 OK", "no JSON", CLOSE),
    http("200 OK", '{"status": "SUCCESS", "uid": "ab', CLOSE, length=54),
    f"220 example.com ESMTP\r\n{CLOSE}\r\n\r\n".encode(),
]


@pytest.fixture(scope="module")
def euid_operator() -> Iterator[DevOperator]:
    with operator_in_thread(OperatorState(seed=2, scope=IdentityScope.EUID)) as running:
        yield running


@pytest.fixture(scope="module")
def sidecar(
    operator: DevOperator, euid_operator: DevOperator, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Sidecar]:
    """A sidecar that closes idle connections after 0.3 s, so that clients meet closed connections."""
    directory = tmp_path_factory.mktemp("sidecar")
    listen = f"127.0.0.1:0,unix:{directory}/data.sock"
    settings = programme_settings([operator, euid_operator])
    with Sidecar(directory, listen=listen, idle_timeout=0.3, **settings) as running:
        yield running.wait_ready()


@pytest.fixture(params=["tcp", "unix"])
def kind(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture
def address(sidecar: Sidecar, kind: str) -> str:
    addresses: list[str] = next(line["data"] for line in sidecar.log if line["event"] == "listening")
    return addresses[1] if kind == "unix" else f"http://{addresses[0]}"


@pytest.fixture
def scripted(kind: str, tmp_path: Path) -> Iterator[ScriptedSidecar]:
    with closing(ScriptedSidecar(kind, tmp_path)) as server:
        yield server


def test_verdicts(example: Example, built: Path, operator: DevOperator, address: str) -> None:
    mint = operator.state.mint_token
    uids = {name: f"SUCCESS {operator.state.raw_uid(name)}" for name in ("a@example.com", "b@example.com")}
    tokens = [mint(identity=name) for name in uids]
    with Bidder(example.run, built, address, PATIENT_MS) as bidder:
        assert [bidder.ask(token) for token in tokens] == [[line] for line in uids.values()]
        assert bidder.ask(mint(lifetime_s=-60)) == ["EXPIRED_TOKEN -"]
        # Without escaping, these would end the JSON string or make it invalid.
        hostile = ['"', "\\", "\x01\x1f\x7f", '","domain":"example.com', "żółć"]
        verdicts = ["INVALID_PAYLOAD -"] * len(hostile)
        assert bidder.ask(*tokens, *hostile, *tokens) == [*uids.values(), *verdicts, *uids.values()]
        assert bidder.ask(hostile[0]) == verdicts[:1]

        client_side = mint(identity="a@example.com", client_side=True)
        assert bidder.ask(client_side) == ["DOMAIN_NAME_CHECK_FAILED -"]
        for domain, line in {"example.com": uids["a@example.com"], 'a"\\b': "DOMAIN_NAME_CHECK_FAILED -"}.items():
            assert bidder.ask(client_side, domain=domain) == [line]
            assert bidder.ask(client_side, client_side, domain=domain) == [line, line]
        assert bidder.log == ""


def bid_request(*eids: tuple[str, str], **fields: object) -> dict[str, Any]:
    """A bid request on example.com, with (source, token) for each eid."""
    user = {"eids": [{"source": source, "uids": [{"id": token}]} for source, token in eids]}
    return {"id": "r1", "site": {"domain": "example.com"}, "user": user, **fields}


def test_bid_requests(
    example: Example, built: Path, operator: DevOperator, euid_operator: DevOperator, address: str
) -> None:
    uid2, euid = operator.state, euid_operator.state
    name = "a@example.com"
    ids = [f"UID2:{uid2.raw_uid(name)}", f"EUID:{euid.raw_uid(name)}"]
    good = [
        ("uidapi.com", uid2.mint_token(identity=name)),
        ("euid.eu", euid.mint_token(identity=name, client_side=True)),
    ]
    expired = [("uidapi.com", uid2.mint_token(lifetime_s=-60)) for _ in range(2)]
    bad = [*expired, ("uidapi.com", "not a token"), ("example.com", good[0][1])]
    # An answer repeats the id, which must not be read as a part of its JSON.
    hostile = [f'żółć","{field}":"SUCCESS' for field in ("status", "uid", "scope", "ids")]
    with Bidder(example.run, built, address, PATIENT_MS) as bidder:
        assert bidder.bid(bid_request(*good)) == ids
        assert [bidder.bid(bid_request(*good, id=text)) for text in (*hostile, "status", 'a"status')] == [ids] * 6
        assert bidder.bid(bid_request()) == NO_IDS
        assert bidder.log == ""
        assert bidder.bid(bid_request(good[1], *bad, good[0])) == ids[::-1]
        assert bidder.bid(bid_request(good[1], site={"domain": "example.net"})) == NO_IDS
        counted = re.findall(r"not decrypted: (\w+ \d)$", bidder.log, re.MULTILINE)
        assert sorted(counted[:2]) == ["EXPIRED_TOKEN 2", "INVALID_PAYLOAD 1"]
        assert counted[2:] == ["DOMAIN_NAME_CHECK_FAILED 1"]
        assert "no verdict" not in bidder.log


@pytest.mark.parametrize("kind", ["tcp"])
def test_connections_that_the_sidecar_closed_while_idle(
    example: Example, built: Path, operator: DevOperator, sidecar: Sidecar, address: str
) -> None:
    with Bidder(example.run, built, address, PATIENT_MS) as bidder:
        for _ in range(2):
            wait_until(lambda: scrape(sidecar.admin).value("bidstream_connections") == 0, "an idle connection's end")
            assert bidder.ask(operator.state.mint_token())[0].startswith("SUCCESS ")
        assert bidder.log == ""


def test_connections_refused_kept_and_closed_on_use(example: Example, built: Path, scripted: ScriptedSidecar) -> None:
    with Bidder(example.run, built, scripted.address, PATIENT_MS) as bidder:
        assert bidder.ask("T0KEN") == [FALLBACK]
        assert bidder.ask("T0KEN", "T0KEN") == [FALLBACK, FALLBACK]
        log = bidder.log
        scripted.start([GOOD, GOOD], [GOOD, GOOD])
        # The third request fails on the first connection and is retried on the second.
        assert [bidder.ask("T0KEN") for _ in range(4)] == [["SUCCESS abcd"]] * 4
        assert scripted.connections == 2
        assert bidder.log == log


@pytest.mark.parametrize("kind", ["tcp"])
def test_connections_past_the_idle_time_are_not_used(example: Example, built: Path, scripted: ScriptedSidecar) -> None:
    scripted.start([GOOD] * 1_000, [GOOD] * 1_000)
    with Bidder(example.run, built, scripted.address, PATIENT_MS, 5) as bidder:
        wait_until(lambda: bidder.ask("T0KEN") and scripted.connections == 2, "a second connection")


@pytest.mark.parametrize("kind", ["tcp"])
def test_unusable_answers(example: Example, built: Path, scripted: ScriptedSidecar) -> None:
    scripted.start(*[[answer] for answer in UNUSABLE], [GOOD, GOOD])
    with Bidder(example.run, built, scripted.address, PATIENT_MS) as bidder:
        assert [bidder.ask("T0KEN") for _ in UNUSABLE] == [[FALLBACK]] * len(UNUSABLE)
        assert bidder.ask("T0KEN") == ["SUCCESS abcd"]
        assert bidder.ask("T0KEN", "T0KEN") == [FALLBACK, FALLBACK]
        assert "503" in bidder.log
        assert "401" in bidder.log


@pytest.mark.parametrize("kind", ["tcp"])
def test_unusable_answers_to_bid_requests(example: Example, built: Path, scripted: ScriptedSidecar) -> None:
    found = '{"scope": "UID2", "status": "SUCCESS", "uid": "abcd"}'
    good = http("200 OK", f'{{"id": "r1", "ids": [{found}, {found}]}}')
    scripted.start(*[[answer] for answer in UNUSABLE], [good, GOOD])
    request = bid_request(("uidapi.com", "T0KEN"))
    with Bidder(example.run, built, scripted.address, PATIENT_MS) as bidder:
        assert [bidder.bid(request) for _ in UNUSABLE] == [NO_IDS] * len(UNUSABLE)
        assert bidder.log.count("no verdict") == len(UNUSABLE)
        assert bidder.bid(request) == ["UID2:abcd"] * 2
        assert bidder.bid(request) == NO_IDS
        assert bidder.log.count("no verdict") == len(UNUSABLE) + 1


def test_a_hanging_sidecar(
    example: Example, built: Path, operator: DevOperator, sidecar: Sidecar, address: str
) -> None:
    before, after = (operator.state.mint_token(identity=name) for name in ("a@example.com", "b@example.com"))
    uid = operator.state.raw_uid("b@example.com")
    request = bid_request(("uidapi.com", before))
    with Bidder(example.run, built, address) as bidder:
        assert first_verdict(bidder, before).startswith("SUCCESS ")
        sidecar.signal(signal.SIGSTOP)
        try:
            assert bidder.ask(before) == [FALLBACK]
            assert bidder.ask(before, before) == [FALLBACK, FALLBACK]
            assert bidder.bid(request) == NO_IDS
        finally:
            sidecar.signal(signal.SIGCONT)
        # The late answers to the earlier requests must not be read as the answer to this one.
        assert first_verdict(bidder, after) == f"SUCCESS {uid}"
        wait_until(lambda: bidder.bid(request) == [f"UID2:{operator.state.raw_uid('a@example.com')}"], "a bid in time")


def first_verdict(bidder: Bidder, token: str) -> str:
    """Ask until an answer arrives within the 5 ms."""
    lines = [FALLBACK]
    while lines[-1] == FALLBACK:
        lines = bidder.ask(token)
    return lines[-1]
