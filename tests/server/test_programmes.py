"""Both programmes in one sidecar, each with an operator of its own: one that fails never touches the other."""

from collections.abc import Iterator
from contextlib import ExitStack
from threading import Event, Thread
from typing import Any

import pytest

from bidstream_svc.core.identity import IdentityScope
from bidstream_svc.core.kernel import IS_NATIVE
from bidstream_svc.devoperator import DevOperator, Fault, OperatorState
from tests.support.metrics_page import scrape
from tests.support.operator import operator_in_thread
from tests.support.sidecar import RunningService, programme_settings, service_in_thread, wait_until

UID2, EUID = IdentityScope.UID2, IdentityScope.EUID
KEY_PATH = "/v2/key/bidstream"
ROUNDS_AFTER_FAULTS = 20


@pytest.fixture
def operators() -> Iterator[dict[IdentityScope, DevOperator]]:
    with ExitStack() as stack:
        yield {
            scope: stack.enter_context(operator_in_thread(OperatorState(seed=scope, scope=scope)))
            for scope in IdentityScope
        }


@pytest.fixture
def service(operators: dict[IdentityScope, DevOperator]) -> Iterator[RunningService]:
    with service_in_thread(**programme_settings(operators.values())) as running:
        wait_until(lambda: all(store.snapshot for store in running.service._stores.all), "keys of both")
        yield running


def status_of(service: RunningService, token: str, **fields: str) -> str:
    answer = service.ask("/decrypt", {"token": token, **fields})
    assert answer.status == 200, answer.body
    status: str = answer.json["status"]
    return status


@pytest.mark.parametrize("version", [2, 3, 4])
def test_tokens_of_both_programmes(
    service: RunningService, operators: dict[IdentityScope, DevOperator], version: int
) -> None:
    states = {scope: operator.state for scope, operator in operators.items()}
    tokens = {scope: state.mint_token(version) for scope, state in states.items()}
    before = scrape(service.admin)
    for scope, token in tokens.items():
        answer = service.decrypt(token)
        assert (answer["status"], answer["uid"]) == ("SUCCESS", states[scope].raw_uid("someone@example.com"))
        assert status_of(service, token, scope=scope.name) == "SUCCESS"
    assert status_of(service, tokens[EUID], scope="UID2") == "INVALID_PAYLOAD"
    batch = [{"token": token} for token in (*tokens.values(), "?", *tokens.values())] * 100
    batch += [{"token": tokens[EUID], "scope": "EUID"}]
    results = service.ask("/decrypt/batch", {"requests": batch}).json["results"]
    assert [result["status"] for result in results] == (
        ["SUCCESS", "SUCCESS", "INVALID_PAYLOAD", "SUCCESS", "SUCCESS"] * 100 + ["SUCCESS"]
    )
    assert {result["uid"] for result in results} - {None} == {
        state.raw_uid("someone@example.com") for state in states.values()
    }
    after = scrape(service.admin)

    def growth(scope: str, status: str) -> float:
        name = "bidstream_decryptions_total"
        return after.value(name, scope=scope, status=status) - before.value(name, scope=scope, status=status)

    assert (growth("UID2", "SUCCESS"), growth("EUID", "SUCCESS")) == (202, 203)
    assert growth("unknown", "INVALID_PAYLOAD") == 100
    assert growth("UID2" if version == 2 else "EUID", "INVALID_PAYLOAD") == 1


def test_bid_requests_with_sources_of_the_settings(operators: dict[IdentityScope, DevOperator]) -> None:
    states = {scope: operator.state for scope, operator in operators.items()}
    sources = {"ids.example": UID2, "EUID.eu": EUID, "uidapi.com": UID2}
    eids: list[dict[str, Any]] = [
        {"source": source, "uids": [{"id": states[scope].mint_token(version)}]}
        for source, scope in sources.items()
        for version in (2, 3, 4)
    ]
    settings = programme_settings(operators.values())
    with service_in_thread(eid_sources="ids.example=UID2,euid.eu=EUID", **settings) as service:
        wait_until(lambda: all(store.snapshot for store in service.service._stores.all), "keys of both")
        before = scrape(service.admin)
        ids = service.ask("/openrtb", {"id": "r1", "user": {"eids": eids}}).json["ids"]
        assert [(each["source"], each["scope"], each["status"], each["uid"]) for each in ids] == [
            (source, scope.name, "SUCCESS", states[scope].raw_uid("someone@example.com"))
            for source, scope in list(sources.items())[:2]
            for _ in range(3)
        ]
        answer = service.ask("/openrtb/rewrite", {"id": "r1", "user": {"eids": eids}})
        assert answer.headers["bidstream-statuses"] == ",".join(["SUCCESS"] * 6)
        assert [eid["uids"][0]["id"] for eid in answer.json["user"]["eids"]] == [
            *(each["uid"] for each in ids),
            *(eid["uids"][0]["id"] for eid in eids[6:]),
        ]
        after = scrape(service.admin)
    name = "bidstream_decryptions_total"
    for scope in ("UID2", "EUID"):
        labels = {"scope": scope, "status": "SUCCESS"}
        assert after.value(name, **labels) - before.value(name, **labels) == 6
    assert after.value("bidstream_bid_requests_total", result="success") == 2


@pytest.mark.parametrize("scope", ["uid2", "", 0, "UID2\n", ["EUID"], "someone@example.com"])
@pytest.mark.parametrize("path", ["/decrypt", "/decrypt/batch"])
def test_any_other_scope_is_a_bad_request(service: RunningService, path: str, scope: object) -> None:
    request = {"token": "abcd", "scope": scope}
    answer = service.ask(path, request if path == "/decrypt" else {"requests": [request]})
    assert (answer.status, answer.json["error"]["code"]) == (400, "invalid_request")
    assert "someone" not in answer.json["error"]["message"]
    assert service.ask(path, {"requests": [{"token": "abcd", "scope": None}], "token": "abcd"}).status == 200


@pytest.mark.skipif(not IS_NATIVE, reason="the kernel is not built")
def test_kernels_are_published_together_in_order(
    service: RunningService, operators: dict[IdentityScope, DevOperator]
) -> None:
    stores = service.service._stores
    first = stores.current
    assert first.kernel_scopes == (UID2, EUID)
    assert first.kernels == tuple(store.keys.kernel for store in stores.all)
    operators[EUID].state.rotate_keys()
    service.reload()
    wait_until(lambda: stores.all[1].keys.kernel is not first.kernels[1], "the new keys of EUID")
    wait_until(lambda: stores.current.kernels[1] is not first.kernels[1], "their publication")
    assert stores.current.kernel_scopes == (UID2, EUID)


def test_credentials_go_to_their_own_operator_only(
    service: RunningService, operators: dict[IdentityScope, DevOperator]
) -> None:
    """An operator answers 401 to the credentials of the other."""
    service.reload()
    wait_until(lambda: all(operator.state.calls[KEY_PATH] >= 2 for operator in operators.values()), "two refreshes")
    page = scrape(service.admin)
    assert page.total("bidstream_key_refreshes_total", result="unauthorized") == 0
    # The test can fail: with the credentials exchanged, both are refused.
    settings = programme_settings(operators.values())
    exchanged = settings | {name: settings["euid" + name[4:]] for name in settings if name.startswith("uid2_a")}
    with service_in_thread(started=False, **exchanged) as wrong:
        wait_until(
            lambda: scrape(wrong.admin).value("bidstream_key_refreshes_total", scope="UID2", result="unauthorized"),
            "a refusal",
        )


def test_keys_of_the_other_programme_are_never_used(operators: dict[IdentityScope, DevOperator]) -> None:
    settings = programme_settings([operators[EUID]])
    settings |= {"uid2" + name.removeprefix("euid"): value for name, value in settings.items()}
    token = operators[EUID].state.mint_token(2)
    with service_in_thread(**settings) as service:
        wait_until(
            lambda: scrape(service.admin).value("bidstream_key_refreshes_total", scope="UID2", result="invalid"),
            "a refusal",
        )
        uid2 = service.get("/info").json["programmes"]["UID2"]
        assert uid2["keys"] is None
        assert uid2["last_refresh_error"] == ("key response rejected: its keys are of EUID, and the settings name UID2")
        assert status_of(service, token) == "SUCCESS"
        assert status_of(service, token, scope="UID2") == "NOT_INITIALIZED"


def test_one_programme_is_enough_to_start(operators: dict[IdentityScope, DevOperator]) -> None:
    uid2, euid = operators[UID2].state, operators[EUID].state
    uid2.faults.inject(Fault.SERVER_ERROR, times=None)
    with service_in_thread(**programme_settings(operators.values())) as service:
        wait_until(lambda: service.get("/info").json["programmes"]["UID2"]["last_refresh_error"], "a failure")
        for path in ("/startupz", "/readyz"):
            answer = service.get(path)
            assert answer.status == 200
            programmes = answer.json["programmes"]
            assert (programmes["UID2"]["status"], programmes["EUID"]["status"]) == ("unavailable", "ok")
            assert programmes["UID2"]["reason"].startswith("no keys yet: operator answered ")
        assert status_of(service, euid.mint_token()) == "SUCCESS"
        assert status_of(service, uid2.mint_token()) == "NOT_INITIALIZED"
        page = scrape(service.admin)
        assert page.value("bidstream_keys", scope="UID2") == 0 < page.value("bidstream_keys", scope="EUID")
        assert page.value("bidstream_decryptions_total", scope="UID2", status="NOT_INITIALIZED") == 1
        uid2.faults.clear()
        service.reload()
        wait_until(lambda: status_of(service, uid2.mint_token()) == "SUCCESS", "the keys of UID2")


def test_without_any_keys_it_is_not_ready(operators: dict[IdentityScope, DevOperator]) -> None:
    for operator in operators.values():
        operator.state.faults.inject(Fault.SERVER_ERROR, times=None)
    with service_in_thread(started=False, **programme_settings(operators.values())) as service:
        for path in ("/startupz", "/readyz"):
            answer = service.get(path)
            assert answer.status == 503
            assert "UID2: no keys yet" in answer.json["reason"]
            assert "EUID: no keys yet" in answer.json["reason"]


@pytest.mark.parametrize("failing", IdentityScope)
def test_a_programme_that_fails_under_load_leaves_the_other_alone(
    service: RunningService, operators: dict[IdentityScope, DevOperator], failing: IdentityScope
) -> None:
    good = EUID if failing is UID2 else UID2
    bad_state, good_state = operators[failing].state, operators[good].state
    expected = good_state.raw_uid("someone@example.com")
    is_over = Event()
    wrong: list[object] = []
    answered = 0

    def ask_on() -> None:
        nonlocal answered
        versions = (2, 3, 4)
        with service.connect() as connection:
            while not is_over.is_set():
                token = good_state.mint_token(versions[answered % 3])
                answer = connection.ask("/decrypt", {"token": token}).json
                if (answer["status"], answer["uid"]) != ("SUCCESS", expected):
                    wrong.append(answer)
                answered += 1

    crowd = Thread(target=ask_on)
    crowd.start()
    try:
        for fault in (Fault.SERVER_ERROR, Fault.WRONG_NONCE, Fault.EMPTY_KEYS, Fault.EXPIRED_KEYS, Fault.OTHER_SCOPE):
            bad_state.faults.inject(fault, times=None)
            bad_state.rotate_keys()
            calls = bad_state.calls[KEY_PATH]
            service.reload()
            wait_until(lambda calls=calls: bad_state.calls[KEY_PATH] > calls, "a refresh in vain")  # type: ignore[misc]
            bad_state.faults.clear()
        before = answered
        wait_until(lambda: answered >= before + ROUNDS_AFTER_FAULTS or wrong, "some answers")
    finally:
        is_over.set()
        crowd.join()
    assert wrong == []
    page = scrape(service.admin)
    assert page.value("bidstream_key_refreshes_total", scope=failing.name, result="success") >= 1
    failures = page.total("bidstream_key_refreshes_total", scope=good.name) - page.value(
        "bidstream_key_refreshes_total", scope=good.name, result="success"
    )
    assert failures == 0
    assert page.total("bidstream_key_refreshes_total", scope=failing.name) > 4
