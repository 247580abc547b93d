"""The published SDK, uid2-client, works against the embedded operator over HTTP."""

import json
from collections.abc import Callable, Iterator
from datetime import UTC, datetime, timedelta
from urllib.error import HTTPError

import pytest
from uid2_client import (
    BidstreamClient,
    DecryptionStatus,
    IdentityMapClient,
    IdentityMapInput,
    IdentityMapV3Client,
    IdentityMapV3Input,
    SharingClient,
    TokenGenerateInput,
    Uid2PublisherClient,
    UnmappedIdentityReason,
)
from uid2_client.identity_tokens import IdentityTokens
from uid2_client.identity_type import IdentityType

from bidstream_svc.core.identity import IdentityScope, hash_identity
from bidstream_svc.devoperator import DevOperator, Fault, OperatorState, Role
from bidstream_svc.devoperator.salts import BUCKET_COUNT
from tests.support.consent import INSUFFICIENT, SUFFICIENT
from tests.support.operator import operator_in_thread

EMAIL, PHONE = "someone@example.com", "+12345678901"


@pytest.fixture(params=list(IdentityScope), ids=lambda scope: scope.name)
def operator(request: pytest.FixtureRequest) -> Iterator[DevOperator]:
    with operator_in_thread(OperatorState(seed=1, scope=request.param)) as running:
        yield running


def credentials(operator: DevOperator) -> tuple[str, str, str]:
    return operator.url, operator.state.api_key, operator.state.client_secret


@pytest.fixture
def bidstream(operator: DevOperator) -> BidstreamClient:
    client = BidstreamClient(*credentials(operator))
    assert client.refresh().success
    return client


@pytest.fixture
def publisher(operator: DevOperator) -> Uid2PublisherClient:
    return Uid2PublisherClient(*credentials(operator))


@pytest.mark.parametrize("version", [2, 3, 4])
@pytest.mark.parametrize("identity", [EMAIL, PHONE])
def test_bidstream_client_decrypts(
    operator: DevOperator, bidstream: BidstreamClient, version: int, identity: str
) -> None:
    token = operator.state.mint_token(version, identity=identity, established_ms=1_700_000_000_000)
    decrypted = bidstream.decrypt_token_into_raw_uid(token, None)
    assert decrypted.status is DecryptionStatus.SUCCESS
    assert decrypted.uid == operator.state.raw_uid(identity)
    assert decrypted.established == datetime.fromtimestamp(1_700_000_000, UTC)
    assert decrypted.site_id == operator.state.caller_site_id
    assert decrypted.identity_scope == operator.state.scope
    if version > 2:
        assert decrypted.identity_type is (IdentityType.Email if identity == EMAIL else IdentityType.Phone)


def test_bidstream_client_sees_what_is_wrong_with_a_token(operator: DevOperator, bidstream: BidstreamClient) -> None:
    state = operator.state
    for token, status in (
        (state.mint_token(lifetime_s=-1), DecryptionStatus.EXPIRED_TOKEN),
        (state.mint_token(lifetime_s=4 * 86_400), DecryptionStatus.INVALID_TOKEN_LIFETIME),
        (state.mint_token(site_key=state.make_unlisted_key()), DecryptionStatus.NOT_AUTHORIZED_FOR_KEY),
        (state.mint_token(master_key=state.make_unlisted_key()), DecryptionStatus.NOT_AUTHORIZED_FOR_MASTER_KEY),
    ):
        assert bidstream.decrypt_token_into_raw_uid(token, None).status is status


def test_bidstream_client_follows_a_rotation(operator: DevOperator, bidstream: BidstreamClient) -> None:
    old = operator.state.mint_token()
    operator.state.rotate_keys()
    new = operator.state.mint_token()
    assert not bidstream.decrypt_token_into_raw_uid(new, None).success
    assert bidstream.refresh().success
    assert bidstream.decrypt_token_into_raw_uid(new, None).success
    assert bidstream.decrypt_token_into_raw_uid(old, None).success


@pytest.mark.parametrize("fault", [Fault.UNAUTHORIZED, Fault.WRONG_NONCE, Fault.WRONG_SECRET, Fault.GARBAGE_BODY])
def test_bidstream_client_notices_faults(operator: DevOperator, bidstream: BidstreamClient, fault: Fault) -> None:
    operator.state.faults.inject(fault)
    assert not bidstream.refresh().success
    assert bidstream.refresh().success


@pytest.mark.parametrize(
    ("what", "identity"),
    [
        (TokenGenerateInput.from_email(" Someone@example.com"), EMAIL),
        (TokenGenerateInput.from_email(EMAIL).do_not_hash(), EMAIL),
        (TokenGenerateInput.from_hashed_email(hash_identity(EMAIL)), EMAIL),
        (TokenGenerateInput.from_phone(PHONE).with_transparency_and_consent_string(SUFFICIENT), PHONE),
        (TokenGenerateInput.from_hashed_phone(hash_identity(PHONE)), PHONE),
    ],
)
def test_publisher_client_generates_and_refreshes(
    operator: DevOperator,
    publisher: Uid2PublisherClient,
    bidstream: BidstreamClient,
    what: TokenGenerateInput,
    identity: str,
) -> None:
    generated = publisher.generate_token(what)
    assert generated.is_success()
    tokens = IdentityTokens.from_json_string(generated.get_identity_json_string())
    assert set(json.loads(tokens.get_json_string())) == {
        "advertising_token",
        "refresh_token",
        "identity_expires",
        "refresh_expires",
        "refresh_from",
        "refresh_response_key",
    }
    refreshed = publisher.refresh_token(tokens)
    assert refreshed.is_success()
    again = publisher.refresh_token(refreshed.get_identity())
    for identity_tokens in (tokens, refreshed.get_identity(), again.get_identity()):
        decrypted = bidstream.decrypt_token_into_raw_uid(identity_tokens.get_advertising_token(), None)
        assert decrypted.uid == operator.state.raw_uid(identity)


def test_publisher_client_sees_opt_outs(operator: DevOperator, publisher: Uid2PublisherClient) -> None:
    assert publisher.generate_token(TokenGenerateInput.from_email("optout@example.com")).is_optout()
    generated = publisher.generate_token(TokenGenerateInput.from_email("refresh-optout@example.com"))
    assert generated.is_success()
    refreshed = publisher.refresh_token(generated.get_identity())
    assert refreshed.is_optout()
    assert refreshed.get_identity_json_string() is None


def test_publisher_client_sees_opt_outs_of_phone_numbers(operator: DevOperator, publisher: Uid2PublisherClient) -> None:
    for wanted in (
        TokenGenerateInput.from_phone("+00000000000"),
        TokenGenerateInput.from_hashed_phone(hash_identity("+00000000000")),
    ):
        assert publisher.generate_token(wanted).is_optout()
    generated = publisher.generate_token(TokenGenerateInput.from_phone("+00000000002"))
    assert generated.is_success()
    assert publisher.refresh_token(generated.get_identity()).is_optout()
    phones = ["+00000000000", PHONE]
    mapped = IdentityMapClient(*credentials(operator)).generate_identity_map(IdentityMapInput.from_phones(phones))
    assert mapped.unmapped_identities["+00000000000"].get_reason() == "optout"
    mapped_v3 = IdentityMapV3Client(*credentials(operator)).generate_identity_map(
        IdentityMapV3Input.from_phones(phones)
    )
    assert mapped_v3.unmapped_identities["+00000000000"].reason is UnmappedIdentityReason.OPTOUT
    assert set(mapped.mapped_identities) == set(mapped_v3.mapped_identities) == {PHONE}


def test_publisher_client_sees_consent_judged(operator: DevOperator, publisher: Uid2PublisherClient) -> None:
    def wanted(consent: str) -> TokenGenerateInput:
        return TokenGenerateInput.from_email(EMAIL).with_transparency_and_consent_string(consent)

    assert publisher.generate_token(wanted(SUFFICIENT)).is_success()
    if operator.state.scope is IdentityScope.UID2:  # not judged
        assert publisher.generate_token(wanted(INSUFFICIENT)).is_success()
        assert publisher.generate_token(wanted("junk")).is_success()
        return
    with pytest.raises(ValueError, match="insufficient_user_consent"):
        publisher.generate_token(wanted(INSUFFICIENT))
    with pytest.raises(HTTPError) as error:
        publisher.generate_token(wanted("junk"))
    with error.value as response:
        assert json.load(response) == {"status": "client_error", "message": "User consent is invalid"}


def test_publisher_client_sees_expired_and_invalid_refresh_tokens(
    operator: DevOperator, publisher: Uid2PublisherClient
) -> None:
    tokens = publisher.generate_token(TokenGenerateInput.from_email(EMAIL)).get_identity()
    now_ms = operator.state.now_ms() + 31 * 86_400_000
    operator.state.now_ms = lambda: now_ms
    invalid = IdentityTokens.from_json(json.loads(tokens.get_json_string()) | {"refresh_token": "AAAA"})
    for identity, status in ((tokens, "expired_token"), (invalid, "invalid_token")):
        with pytest.raises(HTTPError) as error:
            publisher.refresh_token(identity)
        with error.value as response:
            assert (response.code, json.load(response)["status"]) == (400, status)


def test_publisher_client_sees_errors(operator: DevOperator, publisher: Uid2PublisherClient) -> None:
    with pytest.raises(HTTPError) as error:
        publisher.generate_token(TokenGenerateInput.from_hashed_email("nonsense"))
    with error.value as response:
        assert (response.code, json.load(response)["status"]) == (400, "client_error")
    stranger = Uid2PublisherClient(operator.url, "wrong", operator.state.client_secret)
    with pytest.raises(HTTPError) as error:
        stranger.generate_token(TokenGenerateInput.from_email(EMAIL))
    with error.value as response:
        assert (response.code, json.load(response)["status"]) == (401, "unauthorized")


def test_identity_map_client(operator: DevOperator) -> None:
    client = IdentityMapClient(*credentials(operator))
    emails = [EMAIL, "optout@example.com", "another@example.com"]
    response = client.generate_identity_map(IdentityMapInput.from_emails(emails))
    assert response.is_success()
    assert set(response.mapped_identities) == {EMAIL, "another@example.com"}
    assert response.mapped_identities[EMAIL].get_raw_uid() == operator.state.raw_uid(EMAIL)
    assert response.unmapped_identities["optout@example.com"].get_reason() == "optout"
    phones = client.generate_identity_map(IdentityMapInput.from_phones([PHONE]))
    assert phones.mapped_identities[PHONE].get_raw_uid() == operator.state.raw_uid(PHONE)
    hashes = client.generate_identity_map(IdentityMapInput.from_hashed_phones(["nonsense"]))
    assert hashes.unmapped_identities["nonsense"].get_reason() == "invalid identifier"


def test_identity_buckets(operator: DevOperator) -> None:
    client = IdentityMapClient(*credentials(operator))
    start = datetime.fromtimestamp(operator.state.now_ms() / 1000, UTC)
    assert len(client.get_identity_buckets(start - timedelta(days=2)).buckets) == BUCKET_COUNT
    assert client.get_identity_buckets(start).buckets == []
    operator.state.rotate_salts(EMAIL)
    (bucket,) = client.get_identity_buckets(start).buckets
    mapped = client.generate_identity_map(IdentityMapInput.from_emails([EMAIL])).mapped_identities[EMAIL]
    assert bucket.get_bucket_id() == mapped.get_bucket_id()
    assert datetime.fromisoformat(bucket.get_last_updated()) >= start.replace(tzinfo=None) - timedelta(milliseconds=1)


def test_identity_map_v3_client(operator: DevOperator) -> None:
    client = IdentityMapV3Client(*credentials(operator))
    before = operator.state.raw_uid(EMAIL)
    operator.state.rotate_salts(EMAIL)
    what = IdentityMapV3Input.from_emails([EMAIL, "optout@example.com"]).with_phone(PHONE)
    response = client.generate_identity_map(what.with_hashed_phone("nonsense"))
    mapped, unmapped = response.mapped_identities, response.unmapped_identities
    assert mapped[EMAIL].current_raw_uid == operator.state.raw_uid(EMAIL) != before
    assert mapped[EMAIL].previous_raw_uid == before
    assert mapped[EMAIL].refresh_from > datetime.now(UTC) + timedelta(days=364)
    assert mapped[PHONE].current_raw_uid == operator.state.raw_uid(PHONE)
    assert mapped[PHONE].previous_raw_uid is None
    assert unmapped["optout@example.com"].reason is UnmappedIdentityReason.OPTOUT
    assert unmapped["nonsense"].reason is UnmappedIdentityReason.INVALID_IDENTIFIER


@pytest.mark.parametrize("identity", [EMAIL, PHONE])
def test_sharing_client(operator: DevOperator, identity: str) -> None:
    sender, receiver = (SharingClient(*credentials(operator)) for _ in range(2))
    assert sender.refresh().success
    raw_uid = operator.state.raw_uid(identity)
    token = sender.encrypt_raw_uid_into_token(raw_uid).encrypted_data
    operator.state.rotate_keys()
    assert receiver.refresh().success
    for client in (sender, receiver):
        decrypted = client.decrypt_token_into_raw_uid(token)
        assert decrypted.success
        assert decrypted.uid == raw_uid
        assert decrypted.identity_type is (IdentityType.Email if identity == EMAIL else IdentityType.Phone)


def test_sharing_client_needs_a_key_set_it_knows(operator: DevOperator) -> None:
    client = SharingClient(*credentials(operator))
    assert client.refresh().success
    raw_uid = operator.state.raw_uid(EMAIL)
    state = operator.state
    assert client.encrypt_raw_uid_into_token(raw_uid, state.keyset_of(101)).encrypted_data is not None
    for keyset_id in (state.keyset_of(102), 99):  # of another site, and of none
        assert client.encrypt_raw_uid_into_token(raw_uid, keyset_id).encrypted_data is None


CALLS: dict[Role, list[Callable[[str, str, str], object]]] = {
    Role.GENERATOR: [
        lambda *caller: Uid2PublisherClient(*caller).generate_token(TokenGenerateInput.from_email(EMAIL)),
    ],
    Role.MAPPER: [
        lambda *caller: IdentityMapClient(*caller).generate_identity_map(IdentityMapInput.from_emails([EMAIL])),
        lambda *caller: IdentityMapV3Client(*caller).generate_identity_map(IdentityMapV3Input.from_emails([EMAIL])),
        lambda *caller: IdentityMapClient(*caller).get_identity_buckets(datetime(2024, 7, 2, tzinfo=UTC)),
    ],
}


def test_each_client_works_with_its_role_alone_and_with_no_other(operator: DevOperator) -> None:
    clients = operator.state.clients
    for role, key in [*clients.with_one_role.items(), (None, clients.without_role)]:
        caller = operator.url, key.api_key, key.client_secret
        assert BidstreamClient(*caller).refresh().success is (role is Role.BIDDER)
        assert SharingClient(*caller).refresh().success is (role in {Role.BIDDER, Role.SHARER})
        for required, calls in CALLS.items():
            for call in calls:
                if role is required:
                    call(*caller)
                else:
                    with pytest.raises(HTTPError, match="401"):
                        call(*caller)


def test_a_sharer_alone_reads_what_is_shared_with_it(operator: DevOperator) -> None:
    state = operator.state
    state.rotate_keys(activates_in_s=3600)  # the newest keys must not be used yet
    sharer = state.clients.with_one_role[Role.SHARER]
    other = state.clients.add(102, {Role.SHARER})
    receiver, sender = (SharingClient(operator.url, key.api_key, key.client_secret) for key in (sharer, other))
    assert receiver.refresh().success
    assert sender.refresh().success
    raw_uid = state.raw_uid(EMAIL)
    token = sender.encrypt_raw_uid_into_token(raw_uid).encrypted_data
    assert receiver.decrypt_token_into_raw_uid(token).uid == raw_uid  # site 102 shares with 101, but not the reverse
    token = receiver.encrypt_raw_uid_into_token(raw_uid).encrypted_data
    assert sender.decrypt_token_into_raw_uid(token).status is DecryptionStatus.NOT_AUTHORIZED_FOR_KEY
