"""Whose keys judge a token when there are several programmes."""

from itertools import pairwise

import orjson
import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from bidstream_svc.core.decrypt import FAILURES, decrypt
from bidstream_svc.core.identity import IdentityScope
from bidstream_svc.core.key_response import parse_key_response
from bidstream_svc.core.keys import KeySnapshot
from bidstream_svc.core.programmes import Programme, bind_programmes
from bidstream_svc.core.status import FailureReason
from bidstream_svc.core.token import decode_text
from bidstream_svc.devoperator import OperatorState
from bidstream_svc.devoperator.key_endpoints import bidstream_keys
from tests.core import strategies
from tests.vectors.load import key_snapshot

UID2, EUID = IdentityScope.UID2, IdentityScope.EUID
NOW_MS = 1_800_000_000_000
# The same ids of keys, other secrets.
STATES = {scope: OperatorState(seed=scope, scope=scope, now_ms=lambda: NOW_MS) for scope in IdentityScope}
KEYS = {scope: parse_key_response(orjson.dumps(bidstream_keys(state, {}))) for scope, state in STATES.items()}
BOTH = bind_programmes([Programme(scope, KEYS[scope]) for scope in IdentityScope])
SCOPES = st.sampled_from([None, UID2, EUID])
ANY_TOKEN = strategies.built_tokens() | strategies.layered_tokens() | st.text(max_size=60) | strategies.anything


def reason_of(
    token: object, requested: IdentityScope | None = None, *, uid2: KeySnapshot | None, euid: KeySnapshot | None
) -> tuple[FailureReason | None, IdentityScope | None]:
    bound = bind_programmes([Programme(UID2, uid2), Programme(EUID, euid)])
    verdict, scope = bound(token, None, requested, NOW_MS)
    return verdict[3], scope


def mint(scope: IdentityScope, version: int, **options: float) -> str:
    return STATES[scope].mint_token(version, **options)  # type: ignore[arg-type]


@given(ANY_TOKEN, strategies.domains, strategies.key_names, strategies.nows_ms)
def test_the_only_programme_judges_as_ever(token: object, domain: object, name: str | None, now_ms: int) -> None:
    keys = None if name is None else key_snapshot(name)
    verdict, scope = bind_programmes([Programme(None, keys)])(token, domain, None, now_ms)
    assert verdict == decrypt(token, domain, keys, now_ms)
    assert verdict[3] is not None or (keys is not None and scope is keys.scope)


@given(ANY_TOKEN, strategies.domains, SCOPES, st.tuples(strategies.key_names, strategies.key_names), strategies.nows_ms)
def test_a_verdict_is_always_that_of_one_programme(
    token: object,
    domain: object,
    requested: IdentityScope | None,
    names: tuple[str | None, str | None],
    now_ms: int,
) -> None:
    """These keys have the same secrets in both programmes, so that v2 tokens open with both."""
    snapshots = [None if name is None else key_snapshot(name) for name in names]
    held = {None if keys is None else keys.scope for keys in snapshots} - {None}
    programmes = [Programme(scope, keys) for scope, keys in zip(IdentityScope, snapshots, strict=True)]
    if any(each.keys is not None and each.keys.scope is not each.scope for each in programmes):
        return  # never used; see the refresher
    verdict, scope = bind_programmes(programmes)(token, domain, requested, now_ms)
    verdicts = [decrypt(token, domain, each.keys, now_ms) for each in programmes]
    assert verdict in [*verdicts, FAILURES[FailureReason.IDENTITY_SCOPE]]
    if verdict[3] is None:
        assert scope in held
        assert verdict == verdicts[scope or 0]
        assert requested in {None, scope}


@pytest.mark.parametrize("version", [2, 3, 4])
@pytest.mark.parametrize("scope", IdentityScope)
def test_each_token_is_of_its_programme(version: int, scope: IdentityScope) -> None:
    token, late = mint(scope, version), mint(scope, version, lifetime_s=-1)
    other = EUID if scope is UID2 else UID2
    for requested in (None, scope):
        verdict, told = BOTH(token, None, requested, NOW_MS)
        assert (verdict[3], told) == (None, scope)
        assert verdict == decrypt(token, None, KEYS[scope], NOW_MS)
        assert BOTH(late, None, requested, NOW_MS) == (FAILURES[FailureReason.EXPIRED], scope)
    wrong = BOTH(token, None, other, NOW_MS)
    if version == 2:
        assert wrong[0][3] is not None  # once in 256 times, a wrong key gives valid padding and any fields
    else:
        assert wrong[0][0] == "INVALID_PAYLOAD"
    assert wrong[1] is (other if version == 2 else scope)


@pytest.mark.parametrize("version", [2, 3, 4])
def test_the_only_programme_and_the_scope_of_a_request(version: int) -> None:
    bound = bind_programmes([Programme(None, KEYS[EUID])])
    token = mint(EUID, version)
    assert bound(token, None, EUID, NOW_MS)[0][3] is None
    verdict, scope = bound(token, None, UID2, NOW_MS)
    assert (verdict[3], scope) == (FailureReason.IDENTITY_SCOPE, UID2 if version == 2 else EUID)
    assert bound("????", None, UID2, NOW_MS) == (FAILURES[FailureReason.BAD_ENCODING], None)


@pytest.mark.parametrize("version", [3, 4])
def test_a_programme_without_keys_answers_for_its_own_tokens_only(version: int) -> None:
    keys = KEYS[UID2]
    assert reason_of(mint(UID2, version), uid2=keys, euid=None) == (None, UID2)
    assert reason_of(mint(EUID, version), uid2=keys, euid=None) == (FailureReason.NO_KEYS, EUID)
    assert reason_of(mint(EUID, version), UID2, uid2=keys, euid=None) == (FailureReason.NO_KEYS, EUID)
    assert reason_of(mint(EUID, version), uid2=None, euid=KEYS[EUID]) == (None, EUID)


def test_v2_and_programmes_without_keys() -> None:
    token = mint(EUID, 2)
    assert reason_of(token, uid2=None, euid=KEYS[EUID]) == (None, EUID)
    assert reason_of(token, UID2, uid2=None, euid=KEYS[EUID]) == (FailureReason.NO_KEYS, UID2)
    assert reason_of(token, uid2=None, euid=None) == (FailureReason.NO_KEYS, None)
    unknown = STATES[EUID].mint_token(2, master_key=STATES[EUID].make_unlisted_key())
    assert reason_of(unknown, uid2=None, euid=KEYS[EUID]) == (FailureReason.MASTER_KEY_UNKNOWN, None)


def test_expired_keys_of_one_programme() -> None:
    response = orjson.loads(orjson.dumps(bidstream_keys(STATES[UID2], {})))
    for key in response["body"]["keys"]:
        key["expires"] = NOW_MS // 1000
    expired = parse_key_response(orjson.dumps(response))
    late = FailureReason.KEYS_EXPIRED
    assert reason_of(mint(UID2, 4), uid2=expired, euid=KEYS[EUID]) == (late, UID2)
    assert reason_of(mint(UID2, 2), UID2, uid2=expired, euid=KEYS[EUID]) == (late, UID2)
    assert reason_of(mint(EUID, 2), uid2=expired, euid=KEYS[EUID]) == (None, EUID)
    assert reason_of("not a token", uid2=expired, euid=None) == (late, None)
    assert reason_of("not a token", uid2=expired, euid=KEYS[EUID]) == (FailureReason.BAD_ENCODING, None)


def test_a_v2_token_that_opens_by_chance() -> None:
    """A wrong key gives valid padding once in 256 times. Of 3,000 tokens, about 12 do so with the keys of UID2."""
    for token, lifetime in ((mint(EUID, 2, lifetime_s=lifetime), lifetime) for lifetime in [60, -60] * 1500):
        reason = None if lifetime > 0 else FailureReason.EXPIRED
        assert BOTH(token, None, None, NOW_MS)[0][3] is reason, decode_text(token).hex()
        assert BOTH(token, None, None, NOW_MS)[1] is EUID


@given(st.text(alphabet="Ag=-_+/wQ", max_size=12), SCOPES)
@example("Ag==", None)
@example("AgAAAA", UID2)
@example("\ud800gAA", EUID)
def test_short_texts(token: str, requested: IdentityScope | None) -> None:
    verdict, _ = BOTH(token, None, requested, NOW_MS)
    assert verdict[3] is not None


def test_reasons_are_in_the_order_of_the_checks() -> None:
    """`bind_programmes` derives from their order what was opened."""
    order = ["no_keys", "version_unknown", "identity_scope", "master_layer", "site_layer", "domain_missing"]
    assert all(list(FailureReason).index(one) < list(FailureReason).index(other) for one, other in pairwise(order))  # type: ignore[arg-type]
