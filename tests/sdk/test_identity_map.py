from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from bidstream_svc.core.errors import IdentityError, OperatorUnauthorizedError
from bidstream_svc.core.identity import hash_identity
from bidstream_svc.devoperator import DevOperator, Fault
from bidstream_svc.operator import UnmappedIdentity
from bidstream_svc.sdk import (
    IdentityMapClient,
    IdentityMapInput,
    IdentityMapV3Client,
    IdentityMapV3Input,
    UnmappedIdentityReason,
    UnmappedIdentityV3,
)
from tests.support.operator import operator_in_thread

EMAIL, PHONE = "Quentin@Example.com", "+12345678901"
EMAIL_HASH, PHONE_HASH = hash_identity("quentin@example.com"), hash_identity(PHONE)


@pytest.fixture
def operator() -> Any:
    with operator_in_thread() as operator:
        yield operator


@pytest.fixture
def client(operator: DevOperator) -> Any:
    with IdentityMapClient(operator.url, operator.state.api_key, operator.state.client_secret) as client:
        yield client


@pytest.fixture
def client_v3(operator: DevOperator) -> Any:
    with IdentityMapV3Client(operator.url, operator.state.api_key, operator.state.client_secret) as client:
        yield client


@pytest.mark.parametrize(
    ("wanted", "given", "named"),
    [
        (IdentityMapInput.from_emails([EMAIL]), EMAIL, "quentin@example.com"),
        (IdentityMapInput.from_phones([PHONE]), PHONE, PHONE),
        (IdentityMapInput.from_hashed_emails([EMAIL_HASH]), EMAIL_HASH, "quentin@example.com"),
        (IdentityMapInput.from_hashed_phones([PHONE_HASH]), PHONE_HASH, PHONE),
    ],
)
def test_v2_answers_under_what_was_given(
    client: IdentityMapClient, operator: DevOperator, wanted: IdentityMapInput, given: str, named: str
) -> None:
    response = client.generate_identity_map(wanted)
    assert response.is_success()
    assert response.status == "success"
    assert response.unmapped_identities == {}
    mapped = response.mapped_identities[given]
    assert mapped.get_raw_uid() == operator.state.raw_uid(named)
    assert len(mapped.get_bucket_id() or "") == 12


def test_v2_spellings_of_one_address_and_reasons(client: IdentityMapClient) -> None:
    spellings = ["quentin@gmail.com", "Q.uentin+x@gmail.com"]
    response = client.generate_identity_map(IdentityMapInput.from_emails([*spellings, "optout@example.com"]))
    one, other = (response.mapped_identities[spelling].get_raw_uid() for spelling in spellings)
    assert one == other
    assert response.unmapped_identities["optout@example.com"].get_reason() == "optout"
    hashes = client.generate_identity_map(IdentityMapInput.from_hashed_emails(["no hash", "\ud800", EMAIL_HASH]))
    assert hashes.unmapped_identities["no hash"].get_reason() == "invalid identifier"
    assert hashes.unmapped_identities["\ud800"].get_reason() == "invalid identifier"
    assert set(hashes.mapped_identities) == {EMAIL_HASH}


def test_list_of_any_length(client: IdentityMapClient, operator: DevOperator) -> None:
    response = client.generate_identity_map(IdentityMapInput.from_emails([f"u{n}@example.com" for n in range(5001)]))
    assert len(response.mapped_identities) == 5001
    assert operator.state.calls["/v2/identity/map"] == 2


def test_buckets(client: IdentityMapClient, operator: DevOperator) -> None:
    mapped = client.generate_identity_map(IdentityMapInput.from_emails([EMAIL])).mapped_identities[EMAIL]
    operator.state.rotate_salts(EMAIL)
    response = client.get_identity_buckets(datetime.now(UTC) - timedelta(hours=1))
    assert response.is_success()
    assert response.status == "success"
    assert [bucket.get_bucket_id() for bucket in response.buckets] == [mapped.get_bucket_id()]
    updated = datetime.fromisoformat(response.buckets[0].get_last_updated())
    assert abs(updated.replace(tzinfo=UTC) - datetime.now(UTC)) < timedelta(minutes=1)


def test_v3_mixture(client_v3: IdentityMapV3Client, operator: DevOperator) -> None:
    operator.state.rotate_salts(EMAIL)
    wanted = (
        IdentityMapV3Input.from_emails([EMAIL])
        .with_email("optout@example.com")
        .with_phone(PHONE)
        .with_hashed_email(EMAIL_HASH)
        .with_hashed_phone(PHONE_HASH)
        .with_hashed_phones(["no hash", "\ud800"])
    )
    response = client_v3.generate_identity_map(wanted)
    assert response.is_success()
    assert response.status == "success"
    assert list(response.mapped_identities) == [EMAIL, PHONE, EMAIL_HASH, PHONE_HASH]
    mapped = response.mapped_identities[EMAIL]
    assert mapped.current_raw_uid == operator.state.raw_uid(EMAIL)
    assert mapped.previous_raw_uid not in {None, mapped.current_raw_uid}
    assert response.mapped_identities[PHONE].current_raw_uid == operator.state.raw_uid(PHONE)
    assert mapped.refresh_from > datetime.now(UTC)
    reasons = {given: unmapped.reason for given, unmapped in response.unmapped_identities.items()}
    assert reasons == {
        "optout@example.com": UnmappedIdentityReason.OPTOUT,
        "no hash": UnmappedIdentityReason.INVALID_IDENTIFIER,
        "\ud800": UnmappedIdentityReason.INVALID_IDENTIFIER,
    }
    assert response.unmapped_identities["no hash"].raw_reason == "invalid identifier"


@pytest.mark.parametrize(
    ("wanted", "given"),
    [
        (IdentityMapV3Input.from_phones([PHONE]), PHONE),
        (IdentityMapV3Input.from_hashed_emails([EMAIL_HASH]), EMAIL_HASH),
        (IdentityMapV3Input.from_hashed_phones([PHONE_HASH]), PHONE_HASH),
        (IdentityMapV3Input().with_emails([EMAIL]), EMAIL),
    ],
)
def test_v3_each_kind(client_v3: IdentityMapV3Client, wanted: IdentityMapV3Input, given: str) -> None:
    assert list(client_v3.generate_identity_map(wanted).mapped_identities) == [given]


def test_reason_that_is_new_to_us() -> None:
    unmapped = UnmappedIdentityV3(UnmappedIdentity("on holiday"))
    assert (unmapped.reason, unmapped.raw_reason) == (UnmappedIdentityReason.UNKNOWN, "on holiday")


@pytest.mark.parametrize("build", [IdentityMapInput.from_emails, IdentityMapV3Input.from_emails])
def test_malformed_address_is_a_value_error_that_does_not_repeat_it(build: Any) -> None:
    with pytest.raises(ValueError, match="not an e-mail address") as caught:
        build(["fine@example.com", "quentin-at-example.com"])
    assert isinstance(caught.value, IdentityError)
    assert "quentin" not in str(caught.value)


@pytest.mark.parametrize("build", [IdentityMapInput.from_phones, IdentityMapV3Input.from_phones])
def test_malformed_number_is_a_value_error_that_does_not_repeat_it(build: Any) -> None:
    with pytest.raises(ValueError, match=r"not in E\.164") as caught:
        build(["2345678901"])
    assert "2345" not in str(caught.value)


def test_what_fails_raises(client: IdentityMapClient, client_v3: IdentityMapV3Client, operator: DevOperator) -> None:
    operator.state.faults.inject(Fault.UNAUTHORIZED, times=2)
    with pytest.raises(OperatorUnauthorizedError):
        client.generate_identity_map(IdentityMapInput.from_emails([EMAIL]))
    with pytest.raises(OperatorUnauthorizedError):
        client_v3.generate_identity_map(IdentityMapV3Input.from_emails([EMAIL]))


def test_reprs_show_nothing_private(client: IdentityMapClient, client_v3: IdentityMapV3Client) -> None:
    wanted, wanted_v3 = IdentityMapInput.from_emails([EMAIL]), IdentityMapV3Input.from_emails([EMAIL])
    response, response_v3 = client.generate_identity_map(wanted), client_v3.generate_identity_map(wanted_v3)
    mapped, mapped_v3 = response.mapped_identities[EMAIL], response_v3.mapped_identities[EMAIL]
    shown = repr([client, client_v3, wanted, wanted_v3, response, response_v3, mapped, mapped_v3]).lower()
    assert "identitymapinput(1 identities)" in shown
    assert "identitymapresponse(1 mapped, 0 unmapped)" in shown
    for private in ("quentin", EMAIL_HASH.lower(), mapped.get_raw_uid().lower()):
        assert private not in shown
