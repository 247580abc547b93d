"""A raw uid in the opt-out store is never answered: every way to decrypt a token gives the same verdicts."""

import asyncio
import json
import subprocess
import sys
from collections import Counter
from collections.abc import Iterator
from contextlib import ExitStack
from itertools import cycle
from pathlib import Path
from typing import Any
from uuid import uuid4

import orjson
import pytest

import bidstream_svc
from bidstream_svc import sdk
from bidstream_svc.core.identity import IdentityScope
from bidstream_svc.core.kernel import IS_NATIVE
from bidstream_svc.core.key_response import parse_key_response
from bidstream_svc.devoperator import DevOperator, OperatorState
from bidstream_svc.devoperator.key_endpoints import bidstream_keys
from bidstream_svc.sdk.times import to_unix_ms
from tests.optouts.cases import OPTED_OUT, SOURCES, Case, bid_request, make_cases, opted_out
from tests.support.metrics_page import scrape
from tests.support.operator import operator_in_thread
from tests.support.optouts import opt_out
from tests.support.raw_http import Connection, make_request
from tests.support.sidecar import (
    PROGRAM,
    Sidecar,
    environment,
    operator_settings,
    programme_settings,
    service_in_thread,
    wait_until,
)

UID2 = IdentityScope.UID2
WORKERS = 2
CONNECTIONS = 6  # enough for both workers
PURE_PROGRAM = (
    sys.executable,
    "-c",
    """if True:
        import runpy, sys
        sys.modules["bidstream_svc.core.kernel._native"] = None
        sys.argv[0] = "bidstream_svc"
        runpy.run_module("bidstream_svc", run_name="__main__")
    """,
)
Operators = dict[IdentityScope, DevOperator]


@pytest.fixture(scope="module")
def operators() -> Iterator[Operators]:
    with ExitStack() as stack:
        yield {
            scope: stack.enter_context(operator_in_thread(OperatorState(seed=scope, scope=scope)))
            for scope in IdentityScope
        }


@pytest.fixture(scope="module")
def states(operators: Operators) -> dict[IdentityScope, OperatorState]:
    return {scope: operator.state for scope, operator in operators.items()}


@pytest.fixture(scope="module")
def cases(states: dict[IdentityScope, OperatorState]) -> list[Case]:
    return make_cases(states)


@pytest.fixture(scope="module")
def store(states: dict[IdentityScope, OperatorState], tmp_path_factory: pytest.TempPathFactory) -> Path:
    directory = tmp_path_factory.mktemp("optouts") / "store"
    opt_out(directory, opted_out(states))
    return directory


@pytest.fixture(scope="module")
def key_files(states: dict[IdentityScope, OperatorState], tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    paths = [tmp_path_factory.mktemp("keys") / f"{scope.name}.json" for scope in states]
    for path, state in zip(paths, states.values(), strict=True):
        path.write_bytes(orjson.dumps(bidstream_keys(state, {})))
    return paths


@pytest.fixture(scope="module", params=["native", "pure"])
def sidecar(
    request: pytest.FixtureRequest, operators: Operators, store: Path, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Sidecar]:
    if request.param == "native" and not IS_NATIVE:
        pytest.skip("the kernel is not built")
    program = PROGRAM if request.param == "native" else PURE_PROGRAM
    settings = programme_settings(operators.values()) | {"optout_store": store, "workers": WORKERS}
    with Sidecar(tmp_path_factory.mktemp("sidecar"), program=program, **settings) as running:
        assert {line["native"] for line in running.log if line["event"] == "listening"} == {request.param == "native"}
        wait_until(lambda: running.times_logged("keys loaded") == WORKERS * len(operators), "the keys of all workers")
        yield running


@pytest.fixture
def connections(sidecar: Sidecar) -> Iterator[list[Connection]]:
    with ExitStack() as stack:
        yield [stack.enter_context(Connection(sidecar.data)) for _ in range(CONNECTIONS)]


def chunked(body: object) -> bytes:
    """A request for a token that the fast path leaves to aiohttp."""
    content = json.dumps(body).encode()
    head = make_request("/decrypt", b"", headers={"Content-Length": None, "Transfer-Encoding": "chunked"})
    return head + b"%x\r\n%b\r\n0\r\n\r\n" % (len(content), content)


def test_the_cases_are_of_all_kinds(cases: list[Case]) -> None:
    counts = Counter((case.scope, case.expected.reason) for case in cases)
    kinds = {"opted_out_at_generation", "expired", "lifetime_too_long", "generated_in_future", "domain_missing"}
    kinds |= {"domain_not_listed", "master_key_unknown", "site_key_unknown", "master_layer"}
    assert kinds <= {reason for _, reason in counts}
    for scope in IdentityScope:
        assert counts[scope, "opted_out"] == counts[scope, None] == 2 * 3 * 3


def test_single_tokens(sidecar: Sidecar, connections: list[Connection], cases: list[Case]) -> None:
    before = scrape(sidecar.admin)
    rounds = 2  # what was good once is looked up again
    for _ in range(rounds):
        for connection, case in zip(cycle(connections), cases):
            assert connection.ask("/decrypt", case.body).json == case.answer
    for connection, case in zip(cycle(connections), cases):
        connection.send(chunked(case.body))
        assert connection.receive().json == case.answer
    after = scrape(sidecar.admin)
    expected = Counter(case.expected.reason for case in cases)
    for reason, count in expected.items():
        if reason is not None:
            name = "bidstream_decrypt_failures_total"
            assert after.total(name, reason=reason) - before.total(name, reason=reason) == count * (rounds + 1)
    for scope in IdentityScope:
        labels = {"scope": scope.name, "status": "USER_OPTED_OUT"}
        counted = after.total("bidstream_decryptions_total", **labels)
        counted -= before.total("bidstream_decryptions_total", **labels)
        given = [case for case in cases if case.scope is scope and case.expected.status == "USER_OPTED_OUT"]
        assert counted == len(given) * (rounds + 1)


def test_batches(connections: list[Connection], cases: list[Case]) -> None:
    answers = [case.answer for case in cases]
    for connection in connections:
        answer = connection.ask("/decrypt/batch", {"requests": [case.body for case in cases]})
        assert answer.json["results"] == answers
        for start in range(0, len(cases), 7):
            some = cases[start : start + 7]
            answer = connection.ask("/decrypt/batch", {"requests": [case.body for case in some]})
            assert answer.json["results"] == [case.answer for case in some]


def test_bid_requests(connections: list[Connection], cases: list[Case]) -> None:
    for connection, case in zip(cycle(connections), cases):
        body = bid_request(case.domain, (case.scope, case.token))
        (found,) = connection.ask("/openrtb", body).json["ids"]
        assert {name: found[name] for name in case.answer} == case.answer
        assert rewrite(connection, body) == (of_uids([case]), case.expected.status)


def test_bid_requests_with_many_tokens(connections: list[Connection], cases: list[Case]) -> None:
    for connection, domain in zip(cycle(connections), (None, "example.com", "www.Example.com", "example.net")):
        fitting = [case for case in cases if case.domain in {None, domain} and case.expected.reason != "domain_missing"]
        for start, number in ((0, 100), (3, 12), (40, 2)):
            some = fitting[start : start + number]
            body = bid_request(domain, *[(case.scope, case.token) for case in some])
            found = connection.ask("/openrtb", body).json["ids"]
            assert [{name: each[name] for name in some[0].answer} for each in found] == [case.answer for case in some]
            assert rewrite(connection, body) == (of_uids(some), ",".join(case.expected.status for case in some))


def rewrite(connection: Connection, body: dict[str, Any]) -> tuple[list[tuple[str, str]], str]:
    """Source and id of each eid that is left, and the statuses in the head."""
    answer = connection.ask("/openrtb/rewrite", body)
    left = [(eid["source"], entry["id"]) for eid in answer.json["user"]["eids"] for entry in eid["uids"]]
    return left, answer.headers["bidstream-statuses"]


def of_uids(cases: list[Case]) -> list[tuple[str, str]]:
    return [(SOURCES[case.scope], case.expected.uid) for case in cases if case.expected.uid is not None]


def run_decrypt(key_files: list[Path], store: Path, *args: str, text: str, **settings: Any) -> list[dict[str, Any]]:
    keys = [argument for path in key_files for argument in ("--keys", str(path))]
    command = [*PROGRAM, "decrypt", *keys, *args]
    done = subprocess.run(command, input=text, env=environment(settings), capture_output=True, text=True, check=False)
    assert done.returncode == 1, done.stderr
    return [json.loads(line) for line in done.stdout.splitlines()]


def test_the_command_line(key_files: list[Path], store: Path, cases: list[Case]) -> None:
    for domain in (None, "www.Example.com"):
        some = [case for case in cases if case.domain == domain]
        named = [] if domain is None else ["--domain", domain]
        text = "\n".join(case.token for case in some)
        answers = [case.answer for case in some]
        assert run_decrypt(key_files, store, *named, "--optouts", str(store), text=text) == answers
        assert run_decrypt(key_files, store, *named, text=text, optout_store=store) == answers
    lines = [json.dumps(bid_request(case.domain, (case.scope, case.token))) for case in cases]
    found = run_decrypt(key_files, store, "--bid-requests", "-", "--optouts", str(store), text="\n".join(lines))
    assert [{name: each["ids"][0][name] for name in cases[0].answer} for each in found] == [c.answer for c in cases]


def test_synchronous_clients(operators: Operators, store: Path, cases: list[Case]) -> None:
    for scope, operator in operators.items():
        credentials = operator.url, operator.state.api_key, operator.state.client_secret
        with (
            sdk.BidstreamClient(*credentials, optouts=store) as bidder,
            sdk.SharingClient(*credentials, optouts=str(store)) as sharer,
        ):
            assert bidder.refresh().success
            assert sharer.refresh().success
            for case in [case for case in cases if case.scope is scope]:
                decrypted = bidder.decrypt_token_into_raw_uid(case.token, case.domain)
                established = decrypted.established
                given = {
                    "status": decrypted.status.name,
                    "uid": decrypted.uid,
                    "established": None if established is None else to_unix_ms(established),
                }
                assert given == case.answer
                (found,) = bidder.decrypt_bid_request(in_bid_request(case)).ids
                assert (found.status, found.uid, found.established) == tuple(case.answer.values())
                if case.expected.reason == "opted_out":
                    shared = sharer.decrypt_token_into_raw_uid(case.token)
                    assert (shared.status, shared.uid) == (sdk.DecryptionStatus.USER_OPTED_OUT, None)


def in_bid_request(case: Case) -> bytes:
    return orjson.dumps(bid_request(case.domain, (case.scope, case.token)))


def test_asynchronous_clients(operators: Operators, store: Path, cases: list[Case]) -> None:
    async def decrypt_all(operator: DevOperator, some: list[Case]) -> None:
        credentials = bidstream_svc.Credentials.from_base64(operator.state.api_key, operator.state.client_secret)
        async with bidstream_svc.OperatorTransport(operator.url, credentials) as transport:
            bidder = bidstream_svc.BidstreamClient(transport, optouts=store)
            sharer = bidstream_svc.SharingClient(transport, optouts=str(store))
            await bidder.refresh()
            await sharer.refresh()
            for case in some:
                assert bidder.decrypt(case.token, case.domain) == case.expected_verdict
                (found,) = bidder.decrypt_bid_request(in_bid_request(case)).ids
                assert (found.status, found.uid, found.established) == case.expected_verdict[:3]
                if case.expected.reason == "opted_out":
                    assert sharer.decrypt(case.token) == case.expected_verdict

    for scope, operator in operators.items():
        asyncio.run(decrypt_all(operator, [case for case in cases if case.scope is scope]))


def test_functions(states: dict[IdentityScope, OperatorState], store: Path, cases: list[Case]) -> None:
    optouts = bidstream_svc.OptOuts(store)
    keys = {scope: parse_key_response(orjson.dumps(bidstream_keys(state, {}))) for scope, state in states.items()}
    for case in cases:
        now_ms = states[case.scope].now_ms()
        verdict = bidstream_svc.decrypt(case.token, case.domain, keys[case.scope], now_ms, optouts.check)
        assert verdict == case.expected_verdict
        found = bidstream_svc.decrypt_bid_request(in_bid_request(case), keys.values(), now_ms, optouts.check)
        assert [(each.status, each.uid) for each in found.ids] == [verdict[:2]]
        rewritten, statuses = bidstream_svc.rewrite_bid_request(
            in_bid_request(case), keys.values(), now_ms, optouts.check
        )
        assert statuses == verdict[:1]
        assert case.token.encode() not in rewritten
        assert (verdict[1] is None) is (orjson.loads(rewritten)["user"]["eids"] == [])


@pytest.mark.parametrize("version", [2, 3, 4])
def test_an_opt_out_counts_for_the_next_request(
    connections: list[Connection], states: dict[IdentityScope, OperatorState], store: Path, version: int
) -> None:
    """Whichever connection it comes on, and however often the token was good before."""
    for scope, state in states.items():
        person = f"{uuid4()}@example.com"
        cases = [
            (scope, state.mint_token(version, identity=person, client_side=is_client_side), domain)
            for is_client_side in (False, True)
            for domain in ("example.com", "WWW.example.com")
        ]
        for connection in connections * 2:
            assert statuses(connection, cases) == {"SUCCESS"}
        opt_out(store, [(scope, state.raw_uid(person))])
        for connection in connections:
            assert statuses(connection, cases) == {"USER_OPTED_OUT"}


def statuses(connection: Connection, cases: list[tuple[IdentityScope, str, str]]) -> set[str]:
    """What all routes answer to tokens on the site with the domain."""
    bodies = [{"token": token, "domain": domain} for _, token, domain in cases]
    found = {connection.ask("/decrypt", body).json["status"] for body in bodies}
    found |= {each["status"] for each in connection.ask("/decrypt/batch", {"requests": bodies}).json["results"]}
    for scope, token, domain in cases:
        body = bid_request(domain, (scope, token))
        found |= {connection.ask("/openrtb", body).json["ids"][0]["status"], rewrite(connection, body)[1]}
    return found


def test_an_opt_out_counts_for_the_next_call_of_a_client(operators: Operators, store: Path) -> None:
    operator = operators[UID2]
    person = "client@example.com"
    token = operator.state.mint_token(identity=person)
    with sdk.BidstreamClient(
        operator.url, operator.state.api_key, operator.state.client_secret, optouts=store
    ) as client:
        assert client.refresh().success
        assert client.decrypt_token_into_raw_uid(token, None).success
        opt_out(store, [(UID2, operator.state.raw_uid(person))])
        decrypted = client.decrypt_token_into_raw_uid(token, None)
        assert (decrypted.status.name, decrypted.uid) == ("USER_OPTED_OUT", None)
        assert decrypted.identity_scope is UID2


@pytest.mark.skipif(not IS_NATIVE, reason="the kernel is not built")
@pytest.mark.parametrize("version", [2, 3, 4])
def test_the_kernel_answers_what_is_not_in_the_store(operators: Operators, tmp_path: Path, version: int) -> None:
    state = operators[UID2].state
    directory = tmp_path / "store"
    opt_out(directory, [(UID2, state.raw_uid(OPTED_OUT))])
    with service_in_thread(optout_store=directory, **operator_settings(operators[UID2])) as running:
        (kernel,) = running.service._stores.current.kernels
        good, out = (state.mint_token(version, identity=person) for person in ("good@example.com", OPTED_OUT))
        assert kernel.decrypt(good, None, state.now_ms()) is not None
        assert kernel.decrypt(out, None, state.now_ms()) is None
        assert [running.decrypt(token)["status"] for token in (good, out)] == ["SUCCESS", "USER_OPTED_OUT"]
        opt_out(directory, [(UID2, state.raw_uid("good@example.com"))])
        assert kernel.decrypt(good, None, state.now_ms()) is None
        assert running.decrypt(good)["status"] == "USER_OPTED_OUT"
        (directory / "data.mdb").unlink()
        unknown = state.mint_token(version, identity="unknown@example.com")
        wait_until(lambda: kernel.decrypt(unknown, None, state.now_ms()) is None, "the store to be given up")
        assert running.decrypt(unknown)["status"] == "OPTOUTS_NOT_SYNCED"


def test_without_a_store_nobody_has_opted_out(operators: Operators, tmp_path: Path) -> None:
    state = operators[UID2].state
    with Sidecar(tmp_path, **programme_settings(operators.values())) as running, Connection(running.data) as connection:
        wait_until(lambda: running.times_logged("keys loaded") == len(operators), "the keys")
        body = {"token": state.mint_token(identity=OPTED_OUT)}
        assert connection.ask("/decrypt", body).json["uid"] == state.raw_uid(OPTED_OUT)
