from collections.abc import AsyncIterator
from typing import Any

import orjson
import pybase64
import pytest

from bidstream_svc.core.crypto import open_gcm
from bidstream_svc.core.decrypt import decrypt
from bidstream_svc.core.identity import IdentityScope, hash_identity
from bidstream_svc.core.key_response import parse_key_response
from bidstream_svc.core.status import DecryptionStatus
from bidstream_svc.devoperator import DevOperator, OperatorState
from bidstream_svc.devoperator.key_endpoints import bidstream_keys
from bidstream_svc.devoperator.refresh_tokens import open_refresh_token
from tests.support.consent import INSUFFICIENT, SUFFICIENT
from tests.support.operator import Clock, ask, post, running_operator

GENERATE, REFRESH, VALIDATE = "/v2/token/generate", "/v2/token/refresh", "/v2/token/validate"
EMAIL, PHONE = "someone@example.com", "+12345678901"


@pytest.fixture
async def operator() -> AsyncIterator[DevOperator]:
    async with running_operator(OperatorState(seed=1, now_ms=Clock(1_700_000_000_000))) as running:
        yield running


def opened(operator: DevOperator, token: str) -> tuple[str | None, int | None]:
    keys = parse_key_response(orjson.dumps(bidstream_keys(operator.state, {})))
    status, raw_uid, established_ms, _ = decrypt(token, None, keys, operator.state.now_ms())
    assert status is DecryptionStatus.SUCCESS
    return raw_uid, established_ms


async def refresh(operator: DevOperator, tokens: dict[str, Any], api_key: str | None = None) -> tuple[int, Any]:
    response, content = await post(operator, REFRESH, tokens["refresh_token"].encode(), api_key=api_key)
    if response.status != 200:
        return response.status, orjson.loads(content)
    key = pybase64.b64decode(tokens["refresh_response_key"])
    return 200, orjson.loads(open_gcm(key, pybase64.b64decode(content)))


@pytest.mark.parametrize(
    ("parameters", "identity"),
    [
        (
            {"email": " SOMEONE@example.com", "tcf_consent_string": "CPhJRpMPhJRpMABAMBFRACBoALAAAEJ"},
            EMAIL,
        ),
        ({"email_hash": hash_identity(EMAIL), "optout_check": 1, "unknown": None}, EMAIL),
        ({"phone": PHONE, "email": None}, PHONE),
        ({"phone_hash": hash_identity(PHONE)}, PHONE),
    ],
)
async def test_generate(operator: DevOperator, parameters: dict[str, object], identity: str) -> None:
    tokens = (await ask(operator, GENERATE, parameters)).body
    assert opened(operator, tokens["advertising_token"]) == (operator.state.raw_uid(identity), 1_700_000_000_000)
    assert tokens["identity_expires"] == 1_700_000_000_000 + 4 * 3_600_000
    assert tokens["refresh_from"] == 1_700_000_000_000 + 3_600_000
    assert tokens["refresh_expires"] == 1_700_000_000_000 + 30 * 86_400_000
    assert len(tokens["refresh_token"]) == 388
    assert len(pybase64.b64decode(tokens["refresh_token"], validate=True)) == 291
    assert len(pybase64.b64decode(tokens["refresh_response_key"], validate=True)) == 32


@pytest.mark.parametrize(("version", "prefix"), [(2, "Ag"), (3, "A3"), (4, "A4")])
async def test_generate_in_every_version(version: int, prefix: str) -> None:
    async with running_operator(OperatorState(seed=1, token_version=version)) as operator:
        token = (await ask(operator, GENERATE, {"email": EMAIL})).body["advertising_token"]
        assert token.startswith(prefix)
        assert opened(operator, token)[0] == operator.state.raw_uid(EMAIL)


@pytest.mark.parametrize(
    "parameters",
    [
        None,
        {},
        {"email": None},
        {"email": EMAIL, "phone": PHONE},
        {"email": "nobody"},
        {"email": [EMAIL]},
        {"phone": "12345678901"},
        {"email_hash": EMAIL},
    ],
)
async def test_generate_refuses(operator: DevOperator, parameters: dict[str, object] | None) -> None:
    answer = await ask(operator, GENERATE, parameters)
    assert answer.http_status == 400
    assert answer.json["status"] == "client_error"
    assert EMAIL not in answer.json["message"]


async def test_opted_out_users_get_no_token(operator: DevOperator) -> None:
    operator.state.opt_out(PHONE)
    for parameters in (
        {"email": "OptOut@example.com"},
        {"phone": "+00000000000"},
        {"phone_hash": hash_identity("+00000000000")},
        {"phone": PHONE},
    ):
        assert await ask(operator, GENERATE, parameters) == (200, {"status": "optout"})


async def test_a_refresh_token_refreshes_again_and_again(operator: DevOperator) -> None:
    clock = operator.state.now_ms
    assert isinstance(clock, Clock)
    tokens = (await ask(operator, GENERATE, {"email": EMAIL})).body
    for hours in (1, 2):
        clock.advance(seconds=3600)
        status, answer = await refresh(operator, tokens)
        assert (status, answer["status"]) == (200, "success")
        assert set(answer["body"]) == set(tokens)
        assert all(answer["body"][name] != tokens[name] for name in tokens)
        tokens = answer["body"]
        assert tokens["refresh_expires"] == 1_700_000_000_000 + 30 * 86_400_000 + hours * 3_600_000
        assert opened(operator, tokens["advertising_token"]) == (operator.state.raw_uid(EMAIL), 1_700_000_000_000)


async def test_a_refresh_after_the_salt_was_rotated_gives_the_new_uid(operator: DevOperator) -> None:
    tokens = (await ask(operator, GENERATE, {"phone": PHONE})).body
    before, _ = opened(operator, tokens["advertising_token"])
    operator.state.rotate_salts(PHONE)
    _, answer = await refresh(operator, tokens)
    after, _ = opened(operator, answer["body"]["advertising_token"])
    assert after == operator.state.raw_uid(PHONE) != before


async def test_a_refresh_after_an_opt_out_answers_optout(operator: DevOperator) -> None:
    well_known = (await ask(operator, GENERATE, {"email": "refresh-optout@example.com"})).body
    phone = (await ask(operator, GENERATE, {"phone": "+00000000002"})).body
    other = (await ask(operator, GENERATE, {"email": EMAIL})).body
    operator.state.opt_out(EMAIL)
    for tokens in (well_known, phone, other):
        assert await refresh(operator, tokens) == (200, {"status": "optout"})


async def test_a_refresh_token_expires(operator: DevOperator) -> None:
    clock = operator.state.now_ms
    assert isinstance(clock, Clock)
    tokens = (await ask(operator, GENERATE, {"email": EMAIL})).body
    clock.advance(days=30)
    assert (await refresh(operator, tokens))[0] == 200
    clock.advance(seconds=0.001)
    status, answer = await refresh(operator, tokens)
    assert (status, answer["status"]) == (400, "expired_token")
    assert await refresh(operator, tokens, api_key="") == GENERIC


GENERIC = (400, {"status": "error", "message": "Error refreshing token"})


@pytest.mark.parametrize("text", ["", "not base64!", "AAAA", "A" * 388 + "\n"])
async def test_an_invalid_refresh_token_is_refused(operator: DevOperator, text: str) -> None:
    status, answer = await refresh(operator, {"refresh_token": text})
    assert (status, answer["status"]) == (400, "invalid_token")
    for api_key in ("", "unknown"):
        assert await refresh(operator, {"refresh_token": text}, api_key) == GENERIC


@pytest.mark.parametrize("api_key", ["", None])
async def test_text_of_the_length_of_a_refresh_token_is_a_client_error(
    operator: DevOperator, api_key: str | None
) -> None:
    good = (await ask(operator, GENERATE, {"email": EMAIL})).body["refresh_token"]
    for text, message in (
        ("A" * 388, "Invalid key: Generator of this token (Key ID: 0) does not exist."),
        ("!" * 388, "Invalid body: Body is not valid base64."),
        (good[:-8] + "AAAAAAAA", "Invalid data: Check encryption method and encryption key."),
    ):
        refused = await refresh(operator, {"refresh_token": text}, api_key)
        assert refused == (400, {"status": "client_error", "message": message})


async def test_a_refresh_may_be_answered_without_base64(operator: DevOperator) -> None:
    tokens = (await ask(operator, GENERATE, {"email": EMAIL})).body
    headers = {"Content-Type": "application/octet-stream"}
    response, content = await post(operator, REFRESH, tokens["refresh_token"].encode(), headers=headers)
    assert response.content_type == "application/octet-stream"
    answer = orjson.loads(open_gcm(pybase64.b64decode(tokens["refresh_response_key"]), content))
    assert answer["status"] == "success"


async def test_a_refresh_needs_no_api_key(operator: DevOperator) -> None:
    tokens = (await ask(operator, GENERATE, {"email": EMAIL})).body
    assert (await refresh(operator, tokens, api_key=""))[0] == 200


async def test_a_changed_refresh_token_is_refused(operator: DevOperator) -> None:
    text = (await ask(operator, GENERATE, {"email": EMAIL})).body["refresh_token"]
    changed = text[:100] + ("A" if text[100] != "A" else "B") + text[101:]
    assert (await refresh(operator, {"refresh_token": changed}))[0] == 400


async def test_a_refresh_token_survives_a_restart_with_the_same_seed(operator: DevOperator) -> None:
    tokens = (await ask(operator, GENERATE, {"email": EMAIL})).body
    state = OperatorState(seed=1, now_ms=operator.state.now_ms)
    async with running_operator(state) as restarted:
        assert (await refresh(restarted, tokens))[0] == 200


async def test_refresh_tokens_do_not_reveal_the_identity(operator: DevOperator) -> None:
    text = (await ask(operator, GENERATE, {"email": EMAIL})).body["refresh_token"]
    token = open_refresh_token(operator.state.refresh_token_key, text.encode())
    assert pybase64.b64decode(token.identity.value) not in pybase64.b64decode(text)
    assert token.response_key not in pybase64.b64decode(text)
    assert repr(token.response_key)[2:-1] not in repr(token)


@pytest.mark.parametrize(
    "parameters",
    [{"email": "Validate@example.com "}, {"email_hash": "ntI244ZRTXwAwpki6/M5cyBYW7h/Wq576lnN3l9+W/c="}],
)
async def test_validate_says_true_for_the_address_of_the_reference_document(
    operator: DevOperator, parameters: dict[str, object]
) -> None:
    token = (await ask(operator, GENERATE, parameters)).body["advertising_token"]
    assert (await ask(operator, VALIDATE, parameters | {"token": token})).body is True


async def test_validate_compares_any_users(operator: DevOperator) -> None:
    tokens = {person: (await ask(operator, GENERATE, user)).body["advertising_token"] for person, user in USERS.items()}
    for person, token in tokens.items():
        for other, user in USERS.items():
            assert (await ask(operator, VALIDATE, user | {"token": token})).body is (person == other)


USERS: dict[str, dict[str, object]] = {
    "validate": {"email": "validate@example.com"},
    "someone": {"email_hash": hash_identity(EMAIL)},
    "phone": {"phone": PHONE},
    "other phone": {"phone_hash": hash_identity("+19999999999")},
}


@pytest.mark.parametrize("version", [2, 3, 4])
@pytest.mark.parametrize(
    "content",
    [{"client_side": True}, {"lifetime_s": -1}, {"lifetime_s": 400 * 86_400}, {"generated_ms": 1_800_000_000_000}],
)
async def test_validate_accepts_tokens_whatever_their_times(
    operator: DevOperator, version: int, content: dict[str, Any]
) -> None:
    token = operator.state.mint_token(version, identity=PHONE, **content)
    assert (await ask(operator, VALIDATE, {"token": token, "phone": PHONE})).body is True
    assert (await ask(operator, VALIDATE, {"token": token, "email": EMAIL})).body is False


@pytest.mark.parametrize(
    "parameters",
    [
        {},
        {"token": "AgAA"},
        {"email": "validate@example.com"},
        {"token": 7, "email": "validate@example.com"},
        {"token": "AgAA", "email": "validate@example.com", "email_hash": "AAAA"},
        {"token": "AgAA", "phone": PHONE},
        {"token": "AgAA", "email": "nobody"},
    ],
)
async def test_validate_refuses(operator: DevOperator, parameters: dict[str, object]) -> None:
    answer = await ask(operator, VALIDATE, parameters)
    assert (answer.http_status, answer.json["status"]) == (400, "client_error")


@pytest.mark.parametrize("version", [2, 3, 4])
async def test_validate_refuses_tokens_of_other_sites_and_broken_ones(operator: DevOperator, version: int) -> None:
    state = operator.state
    own = state.mint_token(version, identity=EMAIL)
    for token, message in (
        (state.mint_token(version, identity=EMAIL, site_id=102), "Unauthorised to validate token"),
        (state.mint_token(version, identity=EMAIL, master_key=state.make_unlisted_key()), "Invalid token"),
        (own[:40] + own[44:], "Invalid token"),
        (own[: len(own) // 2], "Invalid token"),
    ):
        answer = await ask(operator, VALIDATE, {"token": token, "email": EMAIL})
        assert (answer.http_status, answer.json["message"]) == (400, message)


async def test_euid_judges_consent(operator: DevOperator) -> None:
    async with running_operator(OperatorState(seed=1, scope=IdentityScope.EUID)) as euid:
        for consent, http_status, status in (
            (SUFFICIENT, 200, "success"),
            (INSUFFICIENT, 200, "insufficient_user_consent"),
            ("junk", 400, "client_error"),
            ("", 400, "client_error"),
            (None, 400, "client_error"),
            (7, 400, "client_error"),
        ):
            parameters = {"email": EMAIL, "tcf_consent_string": consent}
            answer = await ask(euid, GENERATE, parameters)
            assert (answer.http_status, answer.json["status"]) == (http_status, status)
            assert (await ask(operator, GENERATE, parameters)).json["status"] == "success"
