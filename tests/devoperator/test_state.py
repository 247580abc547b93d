import orjson
import pybase64
import pytest

from bidstream_svc.core.decrypt import decrypt
from bidstream_svc.core.errors import IdentityError
from bidstream_svc.core.identity import IdentityScope, hash_identity
from bidstream_svc.core.key_response import parse_key_response
from bidstream_svc.core.keys import KeySnapshot
from bidstream_svc.core.status import DecryptionStatus
from bidstream_svc.devoperator import Lifetimes, OperatorSite, OperatorState
from bidstream_svc.devoperator.key_endpoints import bidstream_keys
from bidstream_svc.devoperator.key_ring import MASTER_KEYSET_ID
from bidstream_svc.devoperator.well_known import identity_of, parse_identifier
from tests.support.operator import Clock

EMAIL = "someone@example.com"
PHONE = "+12345678901"


def snapshot(state: OperatorState) -> KeySnapshot:
    return parse_key_response(orjson.dumps(bidstream_keys(state, {})))


def status(state: OperatorState, token: str, domain: str | None = None) -> DecryptionStatus:
    return decrypt(token, domain, snapshot(state), state.now_ms())[0]


def everything_seeded(state: OperatorState) -> object:
    return (
        state.api_key,
        state.client_secret,
        state.refresh_token_key,
        [(client.api_key, client.client_secret) for client in state.clients.with_one_role.values()],
        state.client_side.public_key,
        state.keys.listed(state.now_s()),
        [(bucket.bucket_id, bucket.salt.secret) for bucket in state.salts.buckets],
        state.raw_uid(EMAIL),
        state.raw_uid(PHONE),
    )


def test_a_seed_repeats_everything_through_every_rotation() -> None:
    clock = Clock()
    one, two = (OperatorState(seed=7, now_ms=clock) for _ in range(2))
    assert everything_seeded(one) == everything_seeded(two)
    one.rotate_salts()
    one.make_unlisted_key()
    one.mint_token()
    one.rotate_keys()
    one.rotate_credentials()
    two.rotate_credentials()
    two.rotate_keys()
    two.rotate_salts()
    assert everything_seeded(one) == everything_seeded(two)


def test_without_a_seed_and_with_another_one_everything_differs() -> None:
    states = [OperatorState(seed=seed, now_ms=Clock(0)) for seed in (1, 2, None, None)]
    assert len({state.api_key for state in states}) == 4
    assert len({state.client_secret for state in states}) == 4
    assert len({state.raw_uid(EMAIL) for state in states}) == 4
    assert len({state.keys.current(MASTER_KEYSET_ID, state.now_s()).secret for state in states}) == 4


def test_credentials_have_the_shapes_clients_expect() -> None:
    state = OperatorState(seed=1)
    assert len(pybase64.b64decode(state.client_secret, validate=True)) == 32
    assert state.api_key.startswith("UID2-C-L-101-")
    assert OperatorState(seed=1, scope=IdentityScope.EUID).api_key.startswith("EUID-")


@pytest.mark.parametrize(
    ("scope", "identity", "first_letter"),
    [
        (IdentityScope.UID2, EMAIL, "A"),
        (IdentityScope.UID2, PHONE, "B"),
        (IdentityScope.EUID, EMAIL, "E"),
        (IdentityScope.EUID, PHONE, "F"),
    ],
)
def test_a_raw_uid_of_33_bytes_says_scope_and_identity_type(
    scope: IdentityScope, identity: str, first_letter: str
) -> None:
    state = OperatorState(scope=scope)
    state.rotate_salts()
    raw_uid = state.raw_uid(identity)
    assert raw_uid[0] == first_letter
    assert len(pybase64.b64decode(raw_uid, validate=True)) == 33


def test_raw_uids_have_32_or_33_bytes_and_33_after_a_rotation() -> None:
    state = OperatorState(seed=1)
    people = [f"{number}@example.com" for number in range(100)]

    def lengths() -> set[int]:
        return {len(pybase64.b64decode(state.raw_uid(person), validate=True)) for person in people}

    assert lengths() == {32, 33}
    state.rotate_salts()
    assert lengths() == {33}
    previous = {state.salts.previous_raw_uid(identity_of(person), state.now_ms()) for person in people}
    assert {len(pybase64.b64decode(uid or "")) for uid in previous} == {32, 33}
    assert all(len(state.raw_uid(person)) == 44 for person in people)


def test_every_spelling_of_an_identity_has_one_uid() -> None:
    state = OperatorState(seed=1)
    assert state.raw_uid(" SomeOne@Example.com ") == state.raw_uid(EMAIL)
    assert state.salts.raw_uid(parse_identifier("email_hash", hash_identity(EMAIL))) == state.raw_uid(EMAIL)
    assert state.raw_uid(EMAIL) != state.raw_uid("another@example.com")


@pytest.mark.parametrize(
    ("field", "identifier"),
    [("email", "nobody"), ("email", 7), ("phone", "12345678901"), ("email_hash", EMAIL), ("phone_hash", "AAAA")],
)
def test_malformed_identifiers_are_refused(field: str, identifier: object) -> None:
    with pytest.raises(IdentityError) as refusal:
        parse_identifier(field, identifier)
    assert str(identifier) not in str(refusal.value)


def test_rotating_salts_changes_uids_and_keeps_the_previous_for_90_days() -> None:
    clock = Clock()
    state = OperatorState(seed=1, now_ms=clock)
    identity = identity_of(EMAIL)
    before = state.raw_uid(EMAIL)
    assert state.salts.previous_raw_uid(identity, clock()) is None
    state.rotate_salts(EMAIL)
    assert state.raw_uid(EMAIL) != before
    assert state.salts.previous_raw_uid(identity, clock()) == before
    clock.advance(days=90, seconds=-0.001)
    assert state.salts.previous_raw_uid(identity, clock()) == before
    clock.advance(seconds=0.001)
    assert state.salts.previous_raw_uid(identity, clock()) is None


def test_rotating_one_bucket_leaves_the_others() -> None:
    state = OperatorState(seed=1)
    before = {bucket.bucket_id: bucket.salt for bucket in state.salts.buckets}
    state.rotate_salts(EMAIL)
    changed = [bucket for bucket in state.salts.buckets if bucket.salt != before[bucket.bucket_id]]
    assert changed == [state.salts.bucket_of(identity_of(EMAIL))]
    state.rotate_salts()
    assert all(bucket.salt != before[bucket.bucket_id] for bucket in state.salts.buckets)


def test_a_bucket_is_due_a_year_after_its_rotation_and_then_at_the_next_midnight() -> None:
    clock = Clock()
    state = OperatorState(seed=1, now_ms=clock)
    state.rotate_salts(EMAIL)
    bucket = state.salts.bucket_of(identity_of(EMAIL))
    due_ms = clock() + 365 * 86_400_000
    assert bucket.refresh_from_ms(clock()) == due_ms
    assert bucket.refresh_from_ms(due_ms) == due_ms
    next_midnight_ms = (due_ms // 86_400_000 + 1) * 86_400_000
    assert bucket.refresh_from_ms(due_ms + 1) == next_midnight_ms


def test_rotated_keys_stay_until_they_expire() -> None:
    clock = Clock()
    state = OperatorState(seed=1, now_ms=clock, lifetimes=Lifetimes(key_s=10_000, token_s=100_000))
    token = state.mint_token()
    first_ids = {key.key_id for key in state.keys.listed(state.now_s())}
    assert len(first_ids) == 1 + len(state.sites)
    clock.advance(seconds=5000)
    state.rotate_keys()
    assert {key.key_id for key in state.keys.listed(state.now_s())} > first_ids
    assert status(state, token) is DecryptionStatus.SUCCESS
    assert status(state, state.mint_token()) is DecryptionStatus.SUCCESS
    clock.advance(seconds=5000)
    assert not {key.key_id for key in state.keys.listed(state.now_s())} & first_ids
    assert status(state, token) is DecryptionStatus.NOT_AUTHORIZED_FOR_KEY


def test_expiring_keys_empties_the_list_until_the_next_rotation() -> None:
    state = OperatorState(seed=1)
    token = state.mint_token()
    state.expire_keys()
    assert state.keys.listed(state.now_s()) == []
    assert status(state, token) is DecryptionStatus.KEYS_NOT_SYNCED
    state.rotate_keys()
    assert status(state, token) is DecryptionStatus.NOT_AUTHORIZED_FOR_KEY
    assert status(state, state.mint_token()) is DecryptionStatus.SUCCESS


@pytest.mark.parametrize("version", [2, 3, 4])
@pytest.mark.parametrize("scope", list(IdentityScope))
@pytest.mark.parametrize("identity", [EMAIL, PHONE])
def test_a_minted_token_has_the_requested_content(version: int, scope: IdentityScope, identity: str) -> None:
    state = OperatorState(scope=scope, seed=1)
    token = state.mint_token(version, identity=identity, established_ms=1_234_567_890_123)
    verdict = decrypt(token, None, snapshot(state), state.now_ms())
    assert verdict == (DecryptionStatus.SUCCESS, state.raw_uid(identity), 1_234_567_890_123, None)


@pytest.mark.parametrize("version", [2, 3, 4])
def test_tokens_with_every_fault_can_be_minted(version: int) -> None:
    state = OperatorState(seed=1)
    now_ms = state.now_ms()

    def verdict(domain: str | None = None, **options: object) -> DecryptionStatus:
        return status(state, state.mint_token(version, **options), domain)  # type: ignore[arg-type]

    assert verdict(master_key=state.make_unlisted_key()) is DecryptionStatus.NOT_AUTHORIZED_FOR_KEY
    assert verdict(site_key=state.make_unlisted_key()) is DecryptionStatus.NOT_AUTHORIZED_FOR_KEY
    assert verdict(generated_ms=now_ms - 7_200_000, lifetime_s=3600) is DecryptionStatus.EXPIRED_TOKEN
    assert verdict(lifetime_s=-1) is DecryptionStatus.EXPIRED_TOKEN
    assert verdict(lifetime_s=4 * 86_400) is DecryptionStatus.INVALID_TOKEN_LIFETIME
    assert verdict(client_side=True, domain="example.com") is DecryptionStatus.SUCCESS
    assert verdict(client_side=True, domain="elsewhere.com") is DecryptionStatus.DOMAIN_NAME_CHECK_FAILED
    assert verdict(client_side=True, domain="com.example.app", site_id=102) is DecryptionStatus.SUCCESS
    assert verdict(client_side=True, domain="example.com", site_id=103) is DecryptionStatus.DOMAIN_NAME_CHECK_FAILED


def test_unlisted_keys_have_ids_of_their_own() -> None:
    state = OperatorState(seed=1)
    one, two = state.make_unlisted_key(), state.make_unlisted_key()
    assert one.key_id != two.key_id
    assert not {one.key_id, two.key_id} & {key.key_id for key in state.keys.listed(state.now_s())}


def test_sites_of_ones_own() -> None:
    state = OperatorState(seed=1, sites=[OperatorSite(7, ("seven.example",)), OperatorSite(8)])
    assert state.caller_site_id == 7
    assert status(state, state.mint_token(client_side=True), "seven.example") is DecryptionStatus.SUCCESS
    with pytest.raises(KeyError):
        state.mint_token(site_id=9)


def test_no_repr_shows_a_secret() -> None:
    state = OperatorState(seed=1)
    identity = identity_of(EMAIL)
    key = state.keys.current(MASTER_KEYSET_ID, state.now_s())
    bucket = state.salts.bucket_of(identity)
    shown = repr([state, state.keys, state.salts, key, bucket, identity, state.faults, state.clients.main])
    shown += repr([state.clients.with_one_role, state.client_side])
    for secret in (
        key.secret,
        bucket.salt.secret,
        pybase64.b64decode(identity.value),
        state.api_key.encode(),
        state.client_secret.encode(),
    ):
        assert repr(secret)[2:-1] not in shown
