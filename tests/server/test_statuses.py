"""The statuses, domains and duplicates over HTTP. KEYS_NOT_SYNCED is in test_process."""

import json
from dataclasses import replace

import pytest

from bidstream_svc.core.identity import IdentityScope
from bidstream_svc.devoperator import DevOperator, OperatorState
from bidstream_svc.devoperator.well_known import identity_of
from tests.support.operator import operator_in_thread
from tests.support.raw_http import make_request
from tests.support.sidecar import RunningService, operator_settings, service_in_thread, wait_until

DAY_S = 86_400
FAILED = {"uid": None, "established": None}


@pytest.mark.parametrize("version", [2, 3, 4])
@pytest.mark.parametrize("identity", ["someone@example.com", "+12125550123"])
def test_a_good_token_gives_the_raw_uid(
    service: RunningService, state: OperatorState, version: int, identity: str
) -> None:
    established_ms = 1_700_000_000_123
    token = state.mint_token(version, identity=identity, established_ms=established_ms)

    answer = service.ask("/decrypt", {"token": token})

    assert answer.status == 200
    assert answer.headers["content-type"] == "application/json"
    assert answer.json == {"status": "SUCCESS", "uid": state.raw_uid(identity), "established": established_ms}


def test_euid_tokens_open_with_euid_keys() -> None:
    state = OperatorState(seed=3, scope=IdentityScope.EUID)
    with operator_in_thread(state) as operator, service_in_thread(**operator_settings(operator)) as service:
        assert service.decrypt(state.mint_token())["uid"] == state.raw_uid("someone@example.com")
        stranger = OperatorState(seed=3).mint_token()
        assert service.decrypt(stranger) == {"status": "INVALID_PAYLOAD", **FAILED}


@pytest.mark.parametrize("version", [2, 3, 4])
def test_every_failure_has_its_status_and_no_uid(service: RunningService, state: OperatorState, version: int) -> None:
    unlisted = state.make_unlisted_key()
    now_ms = state.now_ms()
    tokens = [
        ("NOT_AUTHORIZED_FOR_KEY", state.mint_token(version, master_key=unlisted)),
        ("NOT_AUTHORIZED_FOR_KEY", state.mint_token(version, site_key=unlisted)),
        ("INVALID_PAYLOAD", state.mint_token(version)[:-8]),
        ("EXPIRED_TOKEN", state.mint_token(version, lifetime_s=-60)),
        ("DOMAIN_NAME_CHECK_FAILED", state.mint_token(version, client_side=True)),
        ("INVALID_TOKEN_LIFETIME", state.mint_token(version, lifetime_s=4 * DAY_S)),
        ("USER_OPTED_OUT", state.mint_token(version, opted_out=True)),
    ]
    if version != 2:  # which does not say when it was made
        tokens.append(("INVALID_TOKEN_LIFETIME", state.mint_token(version, generated_ms=now_ms + 7_200_000)))

    for status, token in tokens:
        assert service.decrypt(token) == {"status": status, **FAILED}


@pytest.mark.parametrize("token", ["AAAA", "gAAAAAAAAAAAAAAAAAAAAAAA", "abcd"])
def test_an_unknown_version_has_its_status(service: RunningService, token: str) -> None:
    assert service.decrypt(token) == {"status": "VERSION_NOT_SUPPORTED", **FAILED}


@pytest.mark.parametrize(
    "token",
    [
        "",
        "abc",
        "not base64",
        "AAA",
        "ÄÖÜ€",
        "\N{GRINNING FACE}" * 4,
        "AAAA\x00AAAA",
        "\x00\x00\x00\x00",
        "AAAA\nAAAA",
        '"},{"\\',
        "A" * 3_000 + "é",
    ],
    ids=lambda token: ascii(token)[:20],
)
def test_what_is_no_token_is_an_invalid_payload(service: RunningService, token: str) -> None:
    assert service.decrypt(token, domain=token) == {"status": "INVALID_PAYLOAD", **FAILED}


def test_before_the_first_keys_nothing_is_initialised(state: OperatorState, *, has_fast_path: bool) -> None:
    # Port 9 of this host answers nobody.
    unreachable = {"operator_url": "http://127.0.0.1:9", "api_key": "key", "client_secret": state.client_secret}
    with service_in_thread(started=False, has_fast_path=has_fast_path, **unreachable) as service:
        for token in (state.mint_token(), "", "abcd"):
            assert service.decrypt(token) == {"status": "NOT_INITIALIZED", **FAILED}


# Site 101 has registered example.com and example.org, 102 the apps com.example.app and 123456789, 103 nothing.
@pytest.mark.parametrize(
    ("site_id", "domain", "passes"),
    [
        (101, "example.com", True),
        (101, "EXAMPLE.com", True),
        (101, " example.com.\t", True),
        (101, "example.org", True),
        (101, "news.Example.COM", True),
        (101, "a.b.c.example.org.", True),
        (101, "example.net", False),
        (101, "notexample.com", False),
        (101, "example.com.evil.net", False),
        (101, "com", False),
        (101, "example", False),
        (101, "https://example.com", False),
        (101, "example.com/page", False),
        (101, "example.com:443", False),
        (101, "com.example.app", False),
        (101, "", False),
        (101, "   ", False),
        (101, ".", False),
        (101, None, False),
        (101, "example.com\x00", False),
        (101, "exämple.com", False),
        (101, "x." * 5_000, False),
        (102, "com.example.app", True),
        (102, "Com.Example.App", True),
        (102, "123456789", True),
        (102, "com.example.app.other", False),
        (102, "example.app", False),
        (103, "example.com", False),
        (103, None, False),
    ],
    ids=lambda value: ascii(value)[:30],
)
def test_a_token_made_on_the_client_side_needs_a_registered_name(
    service: RunningService, state: OperatorState, site_id: int, domain: str | None, *, passes: bool
) -> None:
    for version in (2, 3, 4):
        token = state.mint_token(version, site_id=site_id, client_side=True)
        assert (service.decrypt(token, domain)["status"] == "SUCCESS") is passes


def test_other_tokens_pass_whatever_the_domain(service: RunningService, state: OperatorState) -> None:
    token = state.mint_token(site_id=103)
    for domain in (None, "", "example.net", "\x00", "exämple", "x" * 10_000):
        assert service.decrypt(token, domain)["status"] == "SUCCESS"


def test_a_missing_domain_is_the_same_as_null(service: RunningService, state: OperatorState) -> None:
    token = state.mint_token(client_side=True)
    assert service.ask(body={"token": token}).body == service.ask(body={"token": token, "domain": None}).body


def test_a_duplicate_gets_the_same_answer_wherever_it_comes(service: RunningService, state: OperatorState) -> None:
    tokens = [state.mint_token(), state.mint_token(2), state.mint_token(lifetime_s=-1), "abcd", ""]
    with service.connect() as kept:
        for token in tokens:
            body = {"token": token, "domain": "example.com"}
            answers = {service.ask(body=body).body, kept.ask("/decrypt", body).body, kept.ask("/decrypt", body).body}
            kept.send(make_request("/decrypt", body) * 3)
            answers |= {kept.receive().body for _ in range(3)}
            assert len(answers) == 1
            batch = kept.ask("/decrypt/batch", {"requests": [body, body]}).json["results"]
            assert batch == [json.loads(answers.pop())] * 2


def test_the_uid_of_v2_is_text_and_comes_back_as_it_is(service: RunningService, state: OperatorState) -> None:
    # Only v2 carries the uid as text, of any content; an operator's bug must not break our JSON.
    now_ms = state.now_ms()
    for uid in ('quote " and backslash \\', "tab\tline\nnul\x00", "ünïcödé €\N{GRINNING FACE}\u2028", "</script>", ""):
        content = state.token_content(
            identity_of("someone@example.com"), site_id=101, lifetime_s=60, generated_ms=now_ms, established_ms=-1
        )
        token = state.mint(replace(content, raw_uid=uid), 2)
        assert service.decrypt(token) == {"status": "SUCCESS", "uid": uid, "established": -1}


def test_a_key_rotated_between_two_refreshes_costs_one_early_refresh(*, has_fast_path: bool) -> None:
    with (
        operator_in_thread(OperatorState(seed=4)) as operator,
        service_in_thread(has_fast_path=has_fast_path, **operator_settings(operator)) as service,
    ):
        assert refreshes(operator) == 1
        operator.state.rotate_keys()
        token = operator.state.mint_token()
        wait_until(lambda: service.decrypt(token)["status"] == "SUCCESS", "the new keys")
        assert refreshes(operator) == 2

        unlisted = operator.state.mint_token(master_key=operator.state.make_unlisted_key())
        answers = service.ask("/decrypt/batch", {"requests": [{"token": unlisted}] * 1000}).json["results"]
        assert answers == [{"status": "NOT_AUTHORIZED_FOR_KEY", **FAILED}] * 1000
        assert refreshes(operator) == 2


def refreshes(operator: DevOperator) -> int:
    return operator.state.calls["/v2/key/bidstream"]
