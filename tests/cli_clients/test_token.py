"""`token generate / refresh / validate`, and the validate flow of the reference document."""

import asyncio
import json
import os
import pty
from base64 import b64encode
from pathlib import Path

import pytest

from bidstream_svc.core.identity import IdentityScope, hash_identity
from bidstream_svc.devoperator import DevOperator, Fault, OperatorState
from tests.support.cli import Cli, Outcome
from tests.support.consent import INSUFFICIENT, SUFFICIENT
from tests.support.recorder import running_recorder

ADDRESS = "validate@example.com"
HASH = "ntI244ZRTXwAwpki6/M5cyBYW7h/Wq576lnN3l9+W/c="  # as the reference document lists it
GENERATE, VALIDATE = "/v2/token/generate", "/v2/token/validate"


# "Using POST /token/validate to Test", step by step with `request`, which sends exactly what it is given.


@pytest.fixture(params=[("email", ADDRESS), ("email_hash", HASH)], ids=["email", "hash"])
def person(request: pytest.FixtureRequest) -> dict[str, str]:
    name, value = request.param
    return {name: value}


def advertising_token(cli: Cli, operator: DevOperator, person: dict[str, str]) -> str:
    generated = cli("request", "--json", operator.url + GENERATE, stdin=json.dumps(person))
    token: str = json.loads(generated.out)["body"]["advertising_token"]
    return token


def validate(cli: Cli, operator: DevOperator, body: dict[str, str]) -> object:
    answer = json.loads(cli("request", "--json", operator.url + VALIDATE, stdin=json.dumps(body)).out)
    assert answer["status"] == "success"
    return answer["body"]


def test_flow_is_true(cli: Cli, operator: DevOperator, person: dict[str, str]) -> None:
    token = advertising_token(cli, operator, person)
    assert validate(cli, operator, {"token": token, **person}) is True


@pytest.mark.parametrize("other", [{"email": "other@example.com"}, {"email_hash": hash_identity("other@example.com")}])
def test_flow_with_another_address_is_false(
    cli: Cli, operator: DevOperator, person: dict[str, str], other: dict[str, str]
) -> None:
    token = advertising_token(cli, operator, person)
    assert validate(cli, operator, {"token": token, **other}) is False
    assert validate(cli, operator, {"token": advertising_token(cli, operator, other), **person}) is False


# Not as in the document, but as operators answer since 2025-11-28.


@pytest.mark.parametrize("other", [{"email": "other@example.com"}, {"phone": "+12345678901"}])
def test_flow_with_any_user_is_true(cli: Cli, operator: DevOperator, other: dict[str, str]) -> None:
    assert validate(cli, operator, {"token": advertising_token(cli, operator, other), **other}) is True


def test_flow_with_a_broken_token_is_400(cli: Cli, operator: DevOperator, person: dict[str, str]) -> None:
    for token in (advertising_token(cli, operator, person)[:-4] + "AAAA", "abcd", ""):
        outcome = cli("request", operator.url + VALIDATE, stdin=json.dumps({"token": token, **person}))
        assert outcome.status == 1
        assert '"status":"client_error","message":"Invalid token"' in outcome.out


def test_flow_with_missing_parameters_is_400(cli: Cli, operator: DevOperator, person: dict[str, str]) -> None:
    token = advertising_token(cli, operator, person)
    for path, body in [
        (GENERATE, {}),
        (VALIDATE, {"token": token}),
        (VALIDATE, person),
        (VALIDATE, {}),
    ]:
        outcome = cli("request", operator.url + path, stdin=json.dumps(body))
        assert outcome.status == 1
        assert "Response: Error HTTP status code 400\n" in outcome.out
        assert '"status":"client_error"' in outcome.out


def test_flow_with_a_bad_bearer_is_401(cli: Cli, operator: DevOperator, person: dict[str, str]) -> None:
    for path in (GENERATE, VALIDATE):
        outcome = cli("request", operator.url + path, stdin=json.dumps(person), api_key="wrong")
        assert outcome.status == 1
        assert '"status":"unauthorized"' in outcome.out


# The commands.


@pytest.mark.parametrize(
    ("kind", "given"),
    [
        ("email", " Validate@Example.COM\r\n"),
        ("email_hash", HASH),
        ("phone", "+12345678901"),
        ("phone_hash", hash_identity("+12345678901")),
    ],
)
def test_generate_prints_an_identity_that_decrypts(cli: Cli, state: OperatorState, kind: str, given: str) -> None:
    outcome = cli("token", "generate", "--kind", kind, stdin=given)
    assert (outcome.status, outcome.err, outcome.out.count("\n")) == (0, "", 1)
    identity = json.loads(outcome.out)
    assert set(identity) >= {"advertising_token", "refresh_token", "refresh_response_key", "refresh_from"}
    assert given.strip() not in outcome.out
    decrypted = json.loads(cli("decrypt", identity["advertising_token"]).out)
    person = "+12345678901" if kind.startswith("phone") else ADDRESS
    assert decrypted["uid"] == state.raw_uid(person)


async def test_generate_sends_a_hash_and_the_consent_and_nothing_else(cli: Cli, tmp_path: Path) -> None:
    (tmp_path / "consent").write_text("CPhJRpMPhJRpMABAMBFRACBoALAAAEJAAIYgAKwAQAKgArABAAqAAA\n")
    async with running_recorder(b'{"status": "optout"}') as recorder:
        outcome = await asyncio.to_thread(
            cli,
            *("token", "generate", "--tcf-consent-file", str(tmp_path / "consent")),
            stdin=ADDRESS,
            operator_url=recorder.url,
            client_secret=b64encode(recorder.secret).decode(),
        )
    assert (outcome.status, outcome.complaint) == (1, "the user has opted out")
    consent = (tmp_path / "consent").read_text().strip()
    assert recorder.payloads == [{"email_hash": HASH, "tcf_consent_string": consent, "optout_check": 1}]


def test_a_user_may_be_in_a_file(cli: Cli, tmp_path: Path) -> None:
    (tmp_path / "user").write_text(ADDRESS + "\n")
    outcome = cli("token", "generate", "--user-file", str(tmp_path / "user"))
    assert outcome.status == 0
    assert cli("token", "validate", "--user-file", str(tmp_path / "user"), stdin=outcome.out).out == "true\n"


def test_refresh_gives_another_token_for_the_same_user(cli: Cli, state: OperatorState, tmp_path: Path) -> None:
    first = cli("token", "generate", stdin=ADDRESS)
    (tmp_path / "identity.json").write_text(first.out)
    second = cli("token", "refresh", "--identity", str(tmp_path / "identity.json"))
    third = cli("token", "refresh", stdin=second.out)
    tokens = [json.loads(outcome.out)["advertising_token"] for outcome in (first, second, third)]
    assert len(set(tokens)) == 3
    decrypted = cli("decrypt", *tokens).out.splitlines()
    assert {json.loads(line)["uid"] for line in decrypted} == {state.raw_uid(ADDRESS)}


def test_validate_takes_an_identity_a_token_and_an_answer(cli: Cli, operator: DevOperator) -> None:
    identity = cli("token", "generate", stdin=ADDRESS).out
    answer = cli("request", "--json", operator.url + GENERATE, stdin=json.dumps({"email": ADDRESS})).out
    for stdin in (identity, json.loads(identity)["advertising_token"] + "\n", answer):
        assert cli("token", "validate", stdin=stdin) == Outcome(0, "true\n", "")


def test_validate_says_false_with_status_1(cli: Cli, tmp_path: Path) -> None:
    user = tmp_path / "user"
    user.write_text(hash_identity("other@example.com"))
    others = cli("token", "generate", stdin="other@example.com").out
    ours = cli("token", "generate", stdin=ADDRESS).out
    other = ("--kind", "email_hash", "--user-file", str(user))
    assert cli("token", "validate", *other, stdin=others).out == "true\n"
    for args, stdin in [((), others), (other, ours)]:
        outcome = cli("token", "validate", *args, stdin=stdin)
        assert outcome == Outcome(1, "false\n", "bidstream-svc: the token was not generated for this user\n")


@pytest.mark.parametrize("kind", ["phone", "phone_hash"])
def test_validate_takes_a_phone_number(cli: Cli, tmp_path: Path, kind: str) -> None:
    number = "+12345678901"
    (tmp_path / "user").write_text(hash_identity(number) if kind == "phone_hash" else number)
    user = ("--kind", kind, "--user-file", str(tmp_path / "user"))
    assert cli("token", "validate", *user, stdin=cli("token", "generate", *user).out).out == "true\n"


def test_validate_says_why_the_operator_refuses(cli: Cli, state: OperatorState) -> None:
    foreign = state.mint_token(identity=ADDRESS, site_id=102)
    for token, reason in [(foreign, "Unauthorised to validate token"), (foreign[:60], "Invalid token")]:
        outcome = cli("token", "validate", stdin=token)
        assert (outcome.status, outcome.out, outcome.complaint) == (1, "", f"operator answered 400 ({reason})")


def test_refresh_tells_an_expired_token_from_an_invalid_one(cli: Cli, state: OperatorState) -> None:
    identity = json.loads(cli("token", "generate", stdin=ADDRESS).out)
    real, now_ms = state.now_ms, state.now_ms() + 31 * 86_400_000
    state.now_ms = lambda: now_ms
    expired = cli("token", "refresh", stdin=json.dumps(identity)).complaint
    state.now_ms = real
    invalid = cli("token", "refresh", stdin=json.dumps(identity | {"refresh_token": "AAAA"})).complaint
    assert expired == "operator answered 400 (Expired Token presented)"
    assert invalid == "operator answered 400 (Invalid Token presented)"


def test_consent_that_is_not_sufficient_is_named(
    cli: Cli, state: OperatorState, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    consent = tmp_path / "consent"
    monkeypatch.setattr(state, "scope", IdentityScope.EUID)
    for text, status, complaint in [
        (SUFFICIENT, 0, ""),
        (INSUFFICIENT, 1, "the user's consent is not sufficient for a token (insufficient_user_consent)"),
        ("junk", 1, "operator answered 400 (User consent is invalid)"),
    ]:
        consent.write_text(text)
        outcome = cli("token", "generate", "--tcf-consent-file", str(consent), stdin=ADDRESS)
        assert (outcome.status, outcome.err) == (status, complaint and f"bidstream-svc: {complaint}\n")
        assert bool(outcome.out) is (status == 0)


def test_an_opted_out_user_gets_no_token(cli: Cli) -> None:
    assert cli("token", "generate", stdin="optout@example.com").complaint == "the user has opted out"
    identity = cli("token", "generate", stdin="refresh-optout@example.com").out
    outcome = cli("token", "refresh", stdin=identity)
    assert (outcome.status, outcome.complaint) == (1, "the user has opted out")


@pytest.mark.parametrize(
    ("args", "stdin", "status", "problem"),
    [
        (("generate",), "", 1, "stdin is empty; one line with the user's email is needed"),
        (("generate",), "hidden", 1, "not an e-mail address"),
        (("generate",), "hidden@a.com\nhidden@b.com\n", 1, "stdin holds more than one line; one user is needed"),
        (("generate",), b"hidden\xff@a.com", 1, "stdin is not text in UTF-8"),
        (("generate", "--kind", "phone"), "hidden", 1, "phone number is not in E.164"),
        (("generate", "--kind", "email_hash"), "hidden", 1, "identity hash is not a SHA-256"),
        (("generate", "--user-file", "/nonexistent"), "", 2, "cannot read /nonexistent: No such file or directory"),
        (("generate", "--user-file", "/proc/self/mem"), "", 2, "cannot read /proc/self/mem: Input/output error"),
        (("refresh",), "", 1, "stdin is empty; an identity in JSON"),
        (("refresh",), "hidden", 1, "stdin does not hold an identity in JSON as `token generate` prints it"),
        (("refresh",), '{"advertising_token": "hidden"}', 1, "tokens have no refresh token"),
        (("validate",), "", 1, "stdin is empty; an advertising token is needed"),
        (("validate",), '{"hidden": 1}', 1, "stdin does not hold an identity in JSON"),
        (("refresh",), "[" * 100_000, 1, "stdin does not hold an identity in JSON"),
    ],
)
def test_wrong_input_is_one_line_that_does_not_repeat_it(
    cli: Cli, args: tuple[str, ...], stdin: str | bytes, status: int, problem: str
) -> None:
    outcome = cli("token", *args, stdin=stdin)
    assert outcome.status == status
    assert outcome.complaint.startswith(problem)
    assert "hidden" not in outcome.err


@pytest.mark.parametrize("command", ["generate", "refresh", "validate"])
def test_personal_data_and_tokens_in_argv_are_refused(cli: Cli, command: str) -> None:
    outcome = cli("token", command, "hidden@example.com")
    assert (outcome.status, outcome.out) == (2, "")
    assert "hidden" not in outcome.err
    assert "is not taken from the command line, where every user of this host can read it; use stdin" in outcome.err


def test_a_terminal_shows_a_prompt(cli: Cli) -> None:
    leader, follower = pty.openpty()
    os.write(leader, ADDRESS.encode() + b"\n\x04")  # Ctrl-D
    with open(follower) as terminal:  # noqa: PTH123 - a descriptor has no path
        outcome = cli("token", "generate", stdin=terminal)
    os.close(leader)
    assert (outcome.status, outcome.err) == (0, "reading the terminal; Ctrl-D ends the input\n")


def test_missing_settings_are_status_2(cli: Cli) -> None:
    outcome = cli("token", "generate", stdin=ADDRESS, operator_url="")
    assert (outcome.status, outcome.complaint) == (2, "BIDSTREAM_OPERATOR_URL: missing; e.g. https://prod.euid.eu")


def test_an_operator_that_refuses_is_status_1(cli: Cli, state: OperatorState) -> None:
    state.faults.inject(Fault.UNAUTHORIZED, path=GENERATE)
    outcome = cli("token", "generate", stdin=ADDRESS)
    assert (outcome.status, outcome.complaint[:21]) == (1, "operator answered 401")
