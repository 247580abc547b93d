import json
from datetime import UTC, datetime
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bidstream_svc.core.errors import BidRequestError, ConfigurationError
from bidstream_svc.devoperator import DevOperator, Fault
from bidstream_svc.operator import RetryPolicy
from bidstream_svc.sdk import BidstreamClient, DecryptedToken, DecryptionStatus, EncryptionStatus, SharingClient
from bidstream_svc.sdk.times import from_unix_ms, to_unix_ms
from tests.support.operator import operator_in_thread

SECRET = "bWFkZS11cCBjbGllbnQgc2VjcmV0LCAzMiBieXRlcyE="


@pytest.fixture
def operator() -> Any:
    with operator_in_thread() as operator:
        yield operator


@pytest.fixture
def client(operator: DevOperator) -> Any:
    with BidstreamClient(operator.url, operator.state.api_key, operator.state.client_secret) as client:
        yield client


def test_before_the_first_refresh(client: BidstreamClient) -> None:
    decrypted = client.decrypt_token_into_raw_uid("token", None)
    assert decrypted == DecryptedToken(DecryptionStatus.NOT_INITIALIZED, None, None)
    assert decrypted.success is False


@pytest.mark.parametrize("version", [2, 3, 4])
def test_token_of_each_version(client: BidstreamClient, operator: DevOperator, version: int) -> None:
    assert client.refresh().success
    token = operator.state.mint_token(version, established_ms=1_700_000_000_123)
    decrypted = client.decrypt_token_into_raw_uid(token, None)
    assert decrypted.success is True
    assert decrypted.uid == operator.state.raw_uid("someone@example.com")
    assert decrypted.established == datetime(2023, 11, 14, 22, 13, 20, 123_000, tzinfo=UTC)
    assert "uid" not in repr(decrypted)


def test_bid_request(client: BidstreamClient, operator: DevOperator) -> None:
    def entry(source: str, token: str) -> dict[str, object]:
        return {"source": source, "uids": [{"id": token}]}

    token = operator.state.mint_token(client_side=True)
    eids = [entry("uidapi.com", token), entry("euid.eu", token)]
    body = json.dumps({"id": "r1", "site": {"domain": "example.com"}, "user": {"eids": eids}}).encode()
    before = client.decrypt_bid_request(body)
    assert [found.status for found in before.ids] == [DecryptionStatus.NOT_INITIALIZED] * 2
    assert client.refresh().success
    found, other = client.decrypt_bid_request(body).ids
    assert (found.uid, found.matched) == (operator.state.raw_uid("someone@example.com"), "site.domain")
    assert other.status is DecryptionStatus.NOT_INITIALIZED
    with pytest.raises(BidRequestError):
        client.decrypt_bid_request(b"[]")


@pytest.mark.parametrize(
    ("established_ms", "established"),
    [
        (0, datetime(1970, 1, 1, tzinfo=UTC)),
        (-1, datetime(1969, 12, 31, 23, 59, 59, 999_000, tzinfo=UTC)),
        (2**63 - 1, datetime.max.replace(tzinfo=UTC)),
        (-(2**63), datetime.min.replace(tzinfo=UTC)),
        (253_402_300_799_999, datetime(9999, 12, 31, 23, 59, 59, 999_000, tzinfo=UTC)),
        (253_402_300_800_000, datetime.max.replace(tzinfo=UTC)),
    ],
)
def test_absurd_times_do_not_raise(
    client: BidstreamClient, operator: DevOperator, established_ms: int, established: datetime
) -> None:
    client.refresh()
    token = operator.state.mint_token(established_ms=established_ms)
    assert client.decrypt_token_into_raw_uid(token, None).established == established


@given(st.integers(-62_135_596_800_000, 253_402_300_799_999))
def test_times_are_exact_to_the_millisecond(time_ms: int) -> None:
    assert to_unix_ms(from_unix_ms(time_ms)) == time_ms


@pytest.mark.parametrize("token", [None, 7, b"bytes", "", "\ud800", "A" * 100_000])
def test_no_token_raises(client: BidstreamClient, token: Any) -> None:
    client.refresh()
    assert client.decrypt_token_into_raw_uid(token, None).status is not DecryptionStatus.SUCCESS


def test_refresh_tells_whether_keys_came(client: BidstreamClient) -> None:
    refreshed = client.refresh()
    assert refreshed.success is True
    assert refreshed.reason is None
    assert refreshed.keys is not None
    assert len(refreshed.keys.keys) == 4


@pytest.mark.parametrize(
    ("fault", "reason"),
    [
        (Fault.UNAUTHORIZED, "401"),
        (Fault.WRONG_NONCE, "nonce does not match"),
        (Fault.NOT_JSON, "key response"),
        (Fault.HTML_PAGE, "HTML page"),
    ],
)
def test_refresh_that_fails_says_why_and_leaves_the_keys(
    client: BidstreamClient, operator: DevOperator, fault: Fault, reason: str
) -> None:
    client.refresh()
    token = operator.state.mint_token()
    operator.state.faults.inject(fault)
    refreshed = client.refresh()
    assert (refreshed.success, refreshed.keys) == (False, None)
    assert reason in (refreshed.reason or "")
    assert client.decrypt_token_into_raw_uid(token, None).success


def test_refresh_without_an_operator_fails_and_a_later_one_succeeds(operator: DevOperator) -> None:
    with operator_in_thread(operator.state) as gone:
        url = gone.url
    retry = RetryPolicy(attempts=2, wait_initial_s=0.001, wait_jitter_s=0)
    with BidstreamClient(url, operator.state.api_key, operator.state.client_secret, retry=retry) as client:
        refreshed = client.refresh()
        assert not refreshed.success
        assert "Connection refused" in (refreshed.reason or "")
        with operator_in_thread(operator.state, port=int(url.rpartition(":")[2])):
            assert client.refresh().success


def test_sharing(operator: DevOperator) -> None:
    state = operator.state
    with SharingClient(operator.url, state.api_key, state.client_secret) as client:
        uid = state.raw_uid("someone@example.com")
        before = client.encrypt_raw_uid_into_token(uid)
        assert (before.success, before.status, before.encrypted_data) == (False, EncryptionStatus.NOT_INITIALIZED, None)
        assert client.refresh().success
        shared = client.encrypt_raw_uid_into_token(uid)
        assert shared.success is True
        assert shared.encrypted_data is not None
        assert shared.encrypted_data not in repr(shared)
        assert client.decrypt_token_into_raw_uid(shared.encrypted_data).uid == uid


@pytest.mark.parametrize(
    ("arguments", "problem"),
    [
        (("https://prod.euid.eu", "key", "c2hvcnQ="), "client secret is 5 bytes"),
        (("https://prod.euid.eu", "key", "?"), "not base64"),
        (("https://prod.euid.eu", "", SECRET), "API key"),
        (("http://prod.euid.eu", "key", SECRET), "use https"),
    ],
)
def test_wrong_configuration_is_told_at_once(arguments: tuple[str, str, str], problem: str) -> None:
    with pytest.raises(ConfigurationError, match=problem):
        BidstreamClient(*arguments)


def test_plain_http_to_another_machine_can_be_allowed() -> None:
    client = BidstreamClient("http://10.0.0.1", "key", SECRET, allow_insecure=True)
    assert repr(client) == "BidstreamClient('http://10.0.0.1')"


def test_repr_shows_no_secret() -> None:
    client = BidstreamClient("https://prod.euid.eu/", "key-of-somebody", SECRET)
    assert repr(client) == "BidstreamClient('https://prod.euid.eu')"
