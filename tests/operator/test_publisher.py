"""A publisher's calls against the embedded operator over a real socket."""

import dataclasses
import json

import pytest

from bidstream_svc.core.decrypt import decrypt
from bidstream_svc.core.errors import (
    IdentityError,
    InsufficientUserConsentError,
    OperatorAnswerError,
    OperatorHttpError,
    OperatorUnauthorizedError,
)
from bidstream_svc.core.identity import Identity, IdentityKind, IdentityScope, hash_identity
from bidstream_svc.core.status import DecryptionStatus
from bidstream_svc.devoperator import OperatorState
from bidstream_svc.operator import Credentials, IdentityTokens, OperatorTransport, PublisherClient, fetch_keys
from tests.operator.support import ONCE, transport_to
from tests.support.consent import INSUFFICIENT, SUFFICIENT
from tests.support.operator import Clock, running_operator
from tests.support.recorder import recorded_json

EMAIL = "validate@example.com"
EMAIL_HASH = "ntI244ZRTXwAwpki6/M5cyBYW7h/Wq576lnN3l9+W/c="  # given in the reference of /token/validate
PHONE = "+12345678901"


@pytest.mark.parametrize("scope", list(IdentityScope))
@pytest.mark.parametrize(
    ("identity", "named"),
    [
        (Identity.from_email(" Some.One@Example.com "), "some.one@example.com"),
        (Identity.from_email_hash(hash_identity("someone@example.com")), "someone@example.com"),
        (Identity.from_unhashed_email("someone@example.com"), "someone@example.com"),
        (Identity.from_phone(PHONE), PHONE),
        (Identity.from_phone_hash(hash_identity(PHONE)), PHONE),
        (Identity.from_unhashed_phone(PHONE), PHONE),
    ],
)
async def test_generated_token_holds_the_raw_uid(identity: Identity, named: str, scope: IdentityScope) -> None:
    state = OperatorState(seed=1, scope=scope)
    async with running_operator(state) as operator, transport_to(operator) as transport:
        tokens = await PublisherClient(transport).generate_token(identity)
        keys = (await fetch_keys(transport)).snapshot
    assert tokens is not None
    verdict = decrypt(tokens.advertising_token, None, keys, state.now_ms())
    assert verdict[:2] == (DecryptionStatus.SUCCESS, state.raw_uid(named))


async def test_request_says_what_it_was_asked_to() -> None:
    tokens = b'{"status":"success","body":{"advertising_token":"A"}}'
    async with recorded_json(tokens) as (recorder, transport):
        publisher = PublisherClient(transport)
        await publisher.generate_token(Identity.from_email(EMAIL), tcf_consent_string="CPhJRpMPhJRpM")
        await publisher.generate_token(Identity.from_phone(PHONE), optout_check=False)
        await publisher.generate_token(Identity.from_unhashed_email(EMAIL))
    assert recorder.paths == ["/v2/token/generate"] * 3
    assert recorder.payloads == [
        {"email_hash": EMAIL_HASH, "tcf_consent_string": "CPhJRpMPhJRpM", "optout_check": 1},
        {"phone_hash": hash_identity(PHONE)},
        {"email": EMAIL, "optout_check": 1},
    ]


async def test_opted_out_user_gets_no_tokens() -> None:
    async with running_operator() as operator, transport_to(operator) as transport:
        assert await PublisherClient(transport).generate_token(Identity.from_email("optout@example.com")) is None


async def test_consent_that_is_not_sufficient_has_an_error_of_its_own() -> None:
    state = OperatorState(seed=1, scope=IdentityScope.EUID)
    async with running_operator(state) as operator, transport_to(operator) as transport:
        publisher = PublisherClient(transport)
        identity = Identity.from_email(EMAIL)
        assert await publisher.generate_token(identity, tcf_consent_string=SUFFICIENT) is not None
        with pytest.raises(InsufficientUserConsentError, match="insufficient_user_consent") as caught:
            await publisher.generate_token(identity, tcf_consent_string=INSUFFICIENT)
        assert isinstance(caught.value, ValueError)  # as the published SDK raises
        assert caught.value.api_status == "insufficient_user_consent"
        with pytest.raises(OperatorHttpError, match="User consent is invalid"):
            await publisher.generate_token(identity, tcf_consent_string="junk")


@pytest.mark.parametrize("version", [2, 3, 4])
async def test_refresh_gives_new_tokens_for_the_same_user(version: int) -> None:
    clock = Clock()
    state = OperatorState(seed=1, now_ms=clock, token_version=version)
    async with running_operator(state) as operator, transport_to(operator) as transport:
        publisher = PublisherClient(transport)
        tokens = await publisher.generate_token(Identity.from_email("someone@example.com"))
        assert tokens is not None
        clock.advance(seconds=30)
        fresh = await publisher.refresh_token(IdentityTokens.from_json(tokens.json))
        keys = (await fetch_keys(transport)).snapshot
    assert fresh is not None
    assert fresh.identity_expires_ms == (tokens.identity_expires_ms or 0) + 30_000
    assert fresh.advertising_token != tokens.advertising_token
    assert decrypt(fresh.advertising_token, None, keys, clock())[1] == state.raw_uid("someone@example.com")


async def test_refresh_after_opt_out_gives_none() -> None:
    async with running_operator() as operator, transport_to(operator) as transport:
        publisher = PublisherClient(transport)
        tokens = await publisher.generate_token(Identity.from_email("refresh-optout@example.com"))
        assert tokens is not None
        assert await publisher.refresh_token(tokens) is None


async def test_refresh_of_expired_and_invalid_tokens() -> None:
    clock = Clock()
    async with running_operator(OperatorState(seed=1, now_ms=clock)) as operator, transport_to(operator) as transport:
        publisher = PublisherClient(transport)
        tokens = await publisher.generate_token(Identity.from_email("someone@example.com"))
        assert tokens is not None
        clock.advance(days=31)
        with pytest.raises(OperatorHttpError, match="Expired Token presented") as caught:
            await publisher.refresh_token(tokens)
        assert caught.value.api_status == "expired_token"
        with pytest.raises(OperatorHttpError, match="Invalid Token presented") as caught:
            await publisher.refresh_token(dataclasses.replace(tokens, refresh_token="AAAA"))
        assert caught.value.api_status == "invalid_token"
        with pytest.raises(OperatorAnswerError, match="no refresh token"):
            await publisher.refresh_token(dataclasses.replace(tokens, refresh_token=None))
        with pytest.raises(OperatorAnswerError, match="refresh_response_key is not base64"):
            await publisher.refresh_token(dataclasses.replace(tokens, refresh_response_key="?"))


class TestValidateFlow:
    """Section "Using POST /token/validate to Test" of its reference document, step by step."""

    @pytest.mark.parametrize("identity", [Identity.from_unhashed_email(EMAIL), Identity.from_email_hash(EMAIL_HASH)])
    async def test_token_of_the_test_address_is_valid(self, identity: Identity) -> None:
        async with running_operator() as operator, transport_to(operator) as transport:
            publisher = PublisherClient(transport)
            tokens = await publisher.generate_token(identity)
            assert tokens is not None
            assert await publisher.validate_token(tokens.advertising_token, identity) is True
            other = Identity.from_email("other@example.com")
            assert await publisher.validate_token(tokens.advertising_token, other) is False

    @pytest.mark.parametrize(
        "identity", [Identity.from_email("other@example.com"), Identity.from_unhashed_phone(PHONE)]
    )
    async def test_any_user_of_the_own_site(self, identity: Identity) -> None:
        async with running_operator() as operator, transport_to(operator) as transport:
            publisher = PublisherClient(transport)
            tokens = await publisher.generate_token(identity)
            assert tokens is not None
            assert await publisher.validate_token(tokens.advertising_token, identity) is True
            assert await publisher.validate_token(tokens.advertising_token, Identity.from_email(EMAIL)) is False

    async def test_other_tokens_are_400_with_the_operators_message(self) -> None:
        async with running_operator() as operator, transport_to(operator) as transport:
            publisher = PublisherClient(transport)
            foreign = operator.state.mint_token(identity=EMAIL, site_id=102)
            for token, message in ((foreign, "Unauthorised to validate token"), ("no token", "Invalid token")):
                with pytest.raises(OperatorHttpError, match=message) as caught:
                    await publisher.validate_token(token, Identity.from_email(EMAIL))
                assert (caught.value.http_status, caught.value.api_status) == (400, "client_error")

    async def test_bad_bearer_is_401(self) -> None:
        async with (
            running_operator() as operator,
            OperatorTransport(operator.url, Credentials("wrong", bytes(32)), retry=ONCE) as transport,
        ):
            with pytest.raises(OperatorUnauthorizedError, match="401") as caught:
                await PublisherClient(transport).validate_token("token", Identity.from_email(EMAIL))
        assert caught.value.api_status == "unauthorized"


@pytest.mark.parametrize(
    ("answer", "problem"),
    [
        (b'{"status":"error"}', r"unknown status \(error\)"),
        (b'{"status":"someone@example.com"}', r"unknown status \(\[removed\]\)"),
        (b'{"body":{}}', "status"),
        (b'{"status":"success"}', "Expected `object`"),
        (b'{"status":"success","body":{"refresh_token":"x"}}', "advertising_token"),
        (b'{"status":"success","body":{"advertising_token":7}}', "advertising_token"),
        (b'{"status":"success","body":{"advertising_token":""}}', "advertising_token"),
        (rb'{"status":"success","body":{"advertising_token":"\ud83d"}}', "not JSON"),
        (b'{"status":"success","body":{"advertising_token":"x","refresh_from":"soon"}}', "refresh_from"),
        (b"true", "Expected `object`"),
        (b"<html>", "malformed"),
    ],
)
async def test_answer_of_another_shape(answer: bytes, problem: str) -> None:
    async with recorded_json(answer) as (_, transport):
        with pytest.raises(OperatorAnswerError, match=problem):
            await PublisherClient(transport).generate_token(Identity.from_email(EMAIL))


async def test_optional_fields_may_be_missing_or_null_and_unknown_ones_are_kept_in_the_json() -> None:
    body = '{"advertising_token":"A","refresh_token":null,"user_token":"U"}'
    async with recorded_json(b'{"status":"success","body":%b}' % body.encode()) as (_, transport):
        tokens = await PublisherClient(transport).generate_token(Identity.from_email(EMAIL))
    assert tokens == IdentityTokens("A", None, None, None, None, None, body)


@pytest.mark.parametrize("text", [b"\xff", rb"\ud83d", rb"\\\ude00", b"\xed\xa0\x80"], ids=ascii)
async def test_text_that_is_not_unicode_costs_nothing_where_it_is_not_read(text: bytes) -> None:
    answer = b'{"status":"success","message":"%b","body":{"advertising_token":"A","user_token":"%b"}}' % (text, text)
    async with recorded_json(answer) as (_, transport):
        tokens = await PublisherClient(transport).generate_token(Identity.from_email(EMAIL))
    assert tokens is not None
    assert tokens.advertising_token == "A"
    assert IdentityTokens.from_json(tokens.json.encode()) == tokens


NOW_MS = 1_700_000_000_000


def tokens(**fields: object) -> IdentityTokens:
    full = {
        "advertising_token": "A",
        "refresh_token": "R",
        "identity_expires": NOW_MS + 3,
        "refresh_expires": NOW_MS + 9,
    }
    return IdentityTokens.from_json(json.dumps(full | {"refresh_from": NOW_MS + 1} | fields))


def test_times_are_milliseconds_to_the_millisecond() -> None:
    assert not tokens().is_due_for_refresh(NOW_MS + 1)
    assert tokens().is_due_for_refresh(NOW_MS + 2)
    assert not tokens().has_identity_expired(NOW_MS + 3)
    assert tokens().has_identity_expired(NOW_MS + 4)
    assert tokens().is_refreshable(NOW_MS + 9)
    assert not tokens().is_refreshable(NOW_MS + 10)
    assert tokens(refresh_from=NOW_MS + 99).is_due_for_refresh(NOW_MS + 4)  # because it has expired


@pytest.mark.parametrize("missing", [{"refresh_token": None}, {"refresh_token": ""}, {"refresh_expires": None}])
def test_nothing_to_refresh_with(missing: dict[str, object]) -> None:
    assert not tokens(**missing).is_refreshable(NOW_MS)


def test_unknown_times_count_as_expired() -> None:
    assert tokens(refresh_from=None).is_due_for_refresh(0)
    assert tokens(identity_expires=None).has_identity_expired(0)


@pytest.mark.parametrize("json_text", ["", "{}", "[]", "null", "no json", '{"advertising_token":null}', "\ud800"])
def test_invalid_identities(json_text: str) -> None:
    with pytest.raises(OperatorAnswerError):
        IdentityTokens.from_json(json_text)


@pytest.mark.parametrize(
    ("read", "text"),
    [
        (Identity.from_email, "someone-at-example.com"),
        (Identity.from_unhashed_email, "@example.com"),
        (Identity.from_email, "some\ud800one@example.com"),
        (Identity.from_phone, "12345678901"),
        (Identity.from_unhashed_phone, "+1 (234) 567-8901"),
        (Identity.from_email_hash, "someone@example.com"),
        (Identity.from_phone_hash, "ntI244ZRTXwAwpki6/M5cyBYW7h/Wq576lnN3l9+W/c"),
    ],
)
def test_malformed_identity_is_an_error_that_does_not_repeat_it(read: object, text: str) -> None:
    assert callable(read)
    with pytest.raises(IdentityError) as caught:
        read(text)
    assert text not in str(caught.value)
    assert caught.value.__cause__ is None


def test_identity_is_normalised_and_hashed() -> None:
    assert Identity.from_email(" VALIDATE@example.com ") == Identity(IdentityKind.EMAIL_HASH, EMAIL_HASH)
    assert Identity.from_unhashed_email("Some.One+x@gmail.com").value == "someone@gmail.com"


@pytest.mark.parametrize("name", ["identity_expires", "refresh_expires", "refresh_from"])
@pytest.mark.parametrize("written", ["1735689601000.0", '"1735689601000"', "1.735689601e12"])
def test_times_of_tokens_however_they_are_written(name: str, written: str) -> None:
    parsed = IdentityTokens.from_json(f'{{"advertising_token":"A","{name}":{written}}}')
    assert getattr(parsed, f"{name}_ms") == 1735689601000


@pytest.mark.parametrize("written", ["1.5", "true", '"soon"', "1e19", "1e400", "NaN"])
def test_times_of_tokens_that_are_no_integers_are_refused(written: str) -> None:
    with pytest.raises(OperatorAnswerError, match=r"integer of at most|out of range|malformed"):
        IdentityTokens.from_json(f'{{"advertising_token":"A","identity_expires":{written}}}')
