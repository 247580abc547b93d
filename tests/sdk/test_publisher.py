import json
import time
from datetime import UTC, datetime, timedelta, timezone
from typing import Any

import pytest
from uid2_client.identity_tokens import IdentityTokens as PublishedIdentityTokens

from bidstream_svc.core.errors import IdentityError, OperatorAnswerError, OperatorError
from bidstream_svc.core.identity import hash_identity
from bidstream_svc.devoperator import DevOperator
from bidstream_svc.sdk import BidstreamClient, IdentityTokens, TokenGenerateInput, Uid2PublisherClient
from tests.support.operator import operator_in_thread

NOW = datetime(2026, 1, 2, 3, 4, 5, 678_000, tzinfo=UTC)
NOW_MS = 1_767_323_045_678
PHONE = "+12345678901"
HOUR_MS = 3_600_000


@pytest.fixture(scope="module")
def operator() -> Any:
    with operator_in_thread() as operator:
        yield operator


@pytest.fixture
def client(operator: DevOperator) -> Any:
    with Uid2PublisherClient(operator.url, operator.state.api_key, operator.state.client_secret) as client:
        yield client


def tokens(**fields: object) -> str:
    full = {"advertising_token": "A", "refresh_token": "R", "refresh_response_key": "K"}
    times = {"identity_expires": NOW_MS + 2, "refresh_expires": NOW_MS + 4, "refresh_from": NOW_MS + 1}
    return json.dumps(full | times | fields)


def read(json_string: str) -> IdentityTokens:
    identity = IdentityTokens.from_json_string(json_string)
    assert identity is not None
    return identity


@pytest.mark.parametrize(
    ("wanted", "named"),
    [
        (TokenGenerateInput.from_email("Some.One@Example.com"), "some.one@example.com"),
        (TokenGenerateInput.from_email("some.one@example.com").do_not_hash(), "some.one@example.com"),
        (TokenGenerateInput.from_hashed_email(hash_identity("some.one@example.com")), "some.one@example.com"),
        (TokenGenerateInput.from_phone(PHONE), PHONE),
        (TokenGenerateInput.from_phone(PHONE).do_not_hash(), PHONE),
        (TokenGenerateInput.from_hashed_phone(hash_identity(PHONE)), PHONE),
        (TokenGenerateInput.from_phone(PHONE).with_transparency_and_consent_string("CPhJRpMPhJRpM"), PHONE),
    ],
)
def test_token_for_each_kind_of_input(
    client: Uid2PublisherClient, operator: DevOperator, wanted: TokenGenerateInput, named: str
) -> None:
    response = client.generate_token(wanted.do_not_generate_tokens_for_opted_out())
    assert (response.status, response.is_success(), response.is_optout()) == ("success", True, False)
    identity = response.get_identity()
    assert identity is not None
    with BidstreamClient(operator.url, operator.state.api_key, operator.state.client_secret) as bidder:
        assert bidder.refresh().success
        decrypted = bidder.decrypt_token_into_raw_uid(identity.get_advertising_token(), None)
    assert decrypted.uid == operator.state.raw_uid(named)


@pytest.mark.parametrize(
    "wanted",
    [
        TokenGenerateInput.from_email("no-address.example.com"),
        TokenGenerateInput.from_email("no-address.example.com").do_not_hash(),
        TokenGenerateInput.from_phone("(234) 567-8901"),
        TokenGenerateInput.from_hashed_email("someone@example.com"),
        TokenGenerateInput.from_hashed_phone(PHONE),
    ],
)
def test_malformed_input_is_a_value_error_that_does_not_repeat_it(
    client: Uid2PublisherClient, operator: DevOperator, wanted: TokenGenerateInput
) -> None:
    before = operator.state.calls.total()
    with pytest.raises(ValueError, match="not ") as caught:
        client.generate_token(wanted)
    assert isinstance(caught.value, IdentityError)
    assert not {"example", "567", "234"} & set(str(caught.value).replace("-", ".").split("."))
    assert operator.state.calls.total() == before


def test_opted_out_user(client: Uid2PublisherClient) -> None:
    response = client.generate_token(TokenGenerateInput.from_email("optout@example.com"))
    assert (response.status, response.is_success(), response.is_optout()) == ("optout", False, True)
    assert response.get_identity() is None
    assert response.get_identity_json_string() is None


def test_identity_survives_the_session(client: Uid2PublisherClient) -> None:
    json_string = client.generate_token(TokenGenerateInput.from_email("a@example.com")).get_identity_json_string()
    identity = IdentityTokens.from_json_string(json_string)
    assert identity is not None
    assert identity.get_json_string() == json_string
    assert IdentityTokens.from_json(json.loads(identity.get_json_string())).tokens == identity.tokens.from_json(
        json.dumps(json.loads(identity.get_json_string()), separators=(",", ":"))
    )
    refreshed = client.refresh_token(identity)
    assert refreshed.is_success()
    assert refreshed.get_identity_json_string() != json_string


def test_refresh_with_an_invalid_refresh_token(client: Uid2PublisherClient) -> None:
    with pytest.raises(OperatorError, match="400"):
        client.refresh_token(read(tokens(refresh_response_key="AAAAAAAAAAAAAAAAAAAAAA==")))


def test_getters() -> None:
    identity = read(tokens())
    assert identity.get_advertising_token() == "A"
    assert identity.get_refresh_token() == "R"
    assert identity.get_refresh_response_key() == "K"
    assert identity.get_identity_expires() == NOW_MS + 2
    assert identity.get_refresh_expires() == NOW_MS + 4
    assert identity.get_refresh_from() == NOW_MS + 1
    assert identity.get_json_string() == tokens()


def after(ms: int) -> datetime:
    return (NOW + timedelta(milliseconds=ms)).astimezone(timezone(timedelta(hours=-7)))


def test_times_are_compared_in_milliseconds() -> None:
    identity = read(tokens())
    assert [identity.is_due_for_refresh(after(ms)) for ms in (1, 2)] == [False, True]
    assert [identity.has_identity_expired(after(ms)) for ms in (2, 3)] == [False, True]
    assert [identity.is_refreshable(after(ms)) for ms in (4, 5)] == [True, False]


@pytest.mark.parametrize("kind", [IdentityTokens, PublishedIdentityTokens])
def test_published_client_compares_seconds_with_milliseconds_and_ours_does_not(kind: Any) -> None:
    """Tokens that ended an hour ago, by the real clock: there, none of it shows for another fifty thousand years."""
    ended_ms = time.time_ns() // 1_000_000 - HOUR_MS
    ended = tokens(identity_expires=ended_ms, refresh_expires=ended_ms, refresh_from=ended_ms)
    identity = kind.from_json_string(ended)
    is_right = kind is IdentityTokens
    assert identity.has_identity_expired(datetime.now(UTC)) is is_right
    assert identity.is_due_for_refresh() is is_right
    assert identity.is_refreshable() is not is_right


def test_without_a_time_the_present_one_counts() -> None:
    ends_ms = time.time_ns() // 1_000_000 + HOUR_MS
    identity = read(tokens(identity_expires=ends_ms, refresh_expires=ends_ms, refresh_from=ends_ms))
    assert not identity.has_identity_expired()
    assert not identity.is_due_for_refresh()
    assert identity.is_refreshable()


@pytest.mark.parametrize("json_string", [None, "", "no json", "null", "[]", "{}", '{"advertising_token": 1}'])
def test_session_without_a_usable_identity(json_string: str | None) -> None:
    assert IdentityTokens.from_json_string(json_string) is None


def test_invalid_identity_object() -> None:
    with pytest.raises(OperatorAnswerError, match="advertising_token"):
        IdentityTokens.from_json({})


def test_reprs_show_nothing_private(client: Uid2PublisherClient, operator: DevOperator) -> None:
    wanted = TokenGenerateInput.from_email("quentin@example.com").with_transparency_and_consent_string("CPhJRp")
    response = client.generate_token(wanted)
    identity = response.get_identity()
    shown = repr([client, wanted, response, identity, client.refresh_token(read(response.get_identity_json_string()))])  # type: ignore[arg-type]
    assert "TokenGenerateInput(Email)" in shown
    assert "IdentityTokens(identity_expires_ms=" in shown
    assert identity is not None
    for private in ("quentin", "CPhJ", identity.get_advertising_token(), operator.state.api_key, "AAAA"):
        assert private not in shown
