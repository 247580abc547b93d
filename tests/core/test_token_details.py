"""Fields of a token, valid or not: read as far as the keys go, and never with an exception."""

from typing import Any

import orjson
import pytest
from hypothesis import given
from hypothesis import strategies as st

from bidstream_svc.core.decrypt import OpenNatively
from bidstream_svc.core.identity import IdentityScope, IdentityType
from bidstream_svc.core.kernel import IS_NATIVE, build_kernel
from bidstream_svc.core.key_response import parse_key_response
from bidstream_svc.core.keys import KeySnapshot
from bidstream_svc.core.token_details import TokenDetails, read_details, read_site_id
from bidstream_svc.devoperator import OperatorState
from bidstream_svc.devoperator.key_endpoints import bidstream_keys

NOW_MS = 1_700_000_000_000
EMAIL, PHONE = "someone@example.com", "+12345678901"


def make_state(scope: IdentityScope = IdentityScope.UID2) -> OperatorState:
    return OperatorState(seed=1, scope=scope, now_ms=lambda: NOW_MS)


def keys_of(state: OperatorState) -> KeySnapshot:
    return parse_key_response(orjson.dumps(bidstream_keys(state, {})))


STATE = make_state()
KEYS = keys_of(STATE)


@pytest.mark.parametrize("scope", list(IdentityScope))
@pytest.mark.parametrize("version", [2, 3, 4])
@pytest.mark.parametrize("lifetime_s", [3600, -3600, 10**9])
@pytest.mark.parametrize("client_side", [False, True])
def test_fields(scope: IdentityScope, version: int, lifetime_s: int, client_side: bool) -> None:  # noqa: FBT001 - a parameter of the test
    state = make_state(scope)
    for identity, identity_type in ((EMAIL, IdentityType.EMAIL), (PHONE, IdentityType.PHONE)):
        token = state.mint_token(
            version, identity=identity, site_id=102, lifetime_s=lifetime_s, client_side=client_side
        )
        assert read_details(token, keys_of(state)) == TokenDetails(
            version,
            None if version == 2 else identity_type,
            NOW_MS + lifetime_s * 1000,
            state.keys.current(state.keyset_of(102), state.now_s()).key_id,
            102,
            client_side,
        )


@pytest.mark.parametrize("version", [2, 3, 4])
def test_a_site_layer_that_cannot_be_decrypted(version: int) -> None:
    key = STATE.make_unlisted_key()
    details = read_details(STATE.mint_token(version, site_key=key), KEYS)
    assert details is not None
    assert (details.site_key_id, details.expires_ms) == (key.key_id, NOW_MS + 4 * 3_600_000)
    assert (details.site_id, details.is_client_side_generated) == (None, None)


@pytest.mark.parametrize("version", [2, 3, 4])
def test_a_master_layer_that_cannot_be_decrypted(version: int) -> None:
    assert read_details(STATE.mint_token(version, master_key=STATE.make_unlisted_key()), KEYS) is None


@pytest.mark.parametrize("token", [None, 7, b"bytes", "", "A", "AAAA", "A5AA", "Ag==", "A3AA", "A4AA", "\ud800", "a b"])
def test_what_is_no_token(token: object) -> None:
    assert read_details(token, KEYS) is None


def test_without_keys() -> None:
    assert read_details(STATE.mint_token(), None) is None


@given(st.sampled_from([2, 3, 4]), st.data())
def test_nothing_raises_and_nothing_is_made_up(version: int, data: Any) -> None:
    token = STATE.mint_token(version)
    whole = read_details(token, KEYS)
    cut = data.draw(st.integers(0, len(token)))
    changed = (
        token[:cut] + data.draw(st.text("ABCabc019+/-_=", max_size=3)) + token[cut + data.draw(st.integers(0, 3)) :]
    )
    read = read_details(changed, KEYS)
    if version == 2 or read is None:  # nothing is authenticated in version 2
        return
    assert whole is not None
    # The first byte, with the identity type, is not authenticated either.
    assert read._replace(identity_type=None) == whole._replace(identity_type=None)


OPEN = build_kernel(KEYS).open if IS_NATIVE else None


@pytest.mark.parametrize("open_natively", [None, OPEN])
@pytest.mark.parametrize("version", [2, 3, 4])
@pytest.mark.parametrize("lifetime_s", [3600, -3600])
def test_the_site_of_a_token(version: int, lifetime_s: int, open_natively: OpenNatively | None) -> None:
    token = STATE.mint_token(version, site_id=102, lifetime_s=lifetime_s)
    assert read_site_id(token, KEYS, open_natively) == 102
    # It is the kernel that is asked, where there is one.
    assert read_site_id(token, None, open_natively) == (None if open_natively is None else 102)
    for unreadable in (
        "no token",
        STATE.mint_token(version, site_key=STATE.make_unlisted_key()),
        STATE.mint_token(version, master_key=STATE.make_unlisted_key()),
    ):
        assert read_site_id(unreadable, KEYS, open_natively) is None
