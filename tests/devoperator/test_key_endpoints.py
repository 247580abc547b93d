from dataclasses import replace

import orjson
import pybase64
import pytest

from bidstream_svc.core.decrypt import decrypt
from bidstream_svc.core.identity import IdentityScope
from bidstream_svc.core.key_response import parse_key_response
from bidstream_svc.core.keys import KeyPurpose
from bidstream_svc.core.status import DecryptionStatus
from bidstream_svc.devoperator import Lifetimes, OperatorSite, OperatorState, Role
from bidstream_svc.devoperator.key_endpoints import bidstream_keys
from tests.support.operator import Clock, ask, running_operator


async def test_bidstream_keys() -> None:
    state = OperatorState(seed=1, now_ms=Clock(1_700_000_000_123))
    async with running_operator(state) as operator:
        body = (await ask(operator, "/v2/key/bidstream")).body
    assert body["identity_scope"] == "UID2"
    assert body["max_bidstream_lifetime_seconds"] == 259_200
    assert body["allow_clock_skew_seconds"] == 1800
    assert body["site_data"] == [
        {"id": 101, "domain_names": ["example.com", "example.org"]},
        {"id": 102, "domain_names": ["123456789", "com.example.app"]},
    ]
    assert len(body["keys"]) == 4
    assert "caller_site_id" not in body
    for key in body["keys"]:
        assert set(key) == {"id", "created", "activates", "expires", "secret"}
        assert key["created"] <= key["activates"] < 1_700_000_000 < key["expires"]
        assert len(pybase64.b64decode(key["secret"], validate=True)) == 32


async def test_sharing_keys() -> None:
    async with running_operator() as operator:
        body = (await ask(operator, "/v2/key/sharing")).body
    assert body["caller_site_id"] == 101
    assert body["token_expiry_seconds"] == "2592000"
    assert body["max_sharing_lifetime_seconds"] == 7_776_000
    assert (body["master_keyset_id"], body["default_keyset_id"]) == (9_999_999, 2)
    assert [key.get("keyset_id") for key in body["keys"]] == [9_999_999, 2, None, None]
    assert [site["id"] for site in body["site_data"]] == [101, 102]


async def test_a_sharer_gets_its_own_keys_and_those_shared_with_it() -> None:
    async with running_operator() as operator:
        clients = operator.state.clients
        sharer = (await ask(operator, "/v2/key/sharing", client=clients.with_one_role[Role.SHARER])).body
        bidder = (await ask(operator, "/v2/key/sharing", client=clients.with_one_role[Role.BIDDER])).body
        other = (await ask(operator, "/v2/key/sharing", client=clients.add(102, {Role.SHARER}))).body
    # Site 102 shares with 101, and 103 with no site.
    assert [(key["id"], key.get("keyset_id")) for key in sharer["keys"]] == [(1, 9_999_999), (2, 2), (3, None)]
    assert [key["id"] for key in bidder["keys"]] == [1, 2, 3, 4]
    assert [(key["id"], key.get("keyset_id")) for key in other["keys"]] == [(1, 9_999_999), (3, 3)]
    assert (other["caller_site_id"], other["default_keyset_id"]) == (102, 3)
    assert [site["id"] for site in other["site_data"]] == [102]
    # The limit is for who encrypts.
    assert "max_sharing_lifetime_seconds" in sharer
    assert "max_sharing_lifetime_seconds" not in bidder


async def test_latest_keys_have_the_ids_of_their_sites() -> None:
    async with running_operator() as operator:
        body = (await ask(operator, "/v2/key/latest")).body
    assert [(key["id"], key["site_id"]) for key in body] == [(1, -1), (2, 101), (3, 102), (4, 103)]


async def test_keys_are_listed_before_they_are_active() -> None:
    state = OperatorState(seed=1, now_ms=(clock := Clock()))
    async with running_operator(state) as operator:
        state.rotate_keys(activates_in_s=600)
        keys = (await ask(operator, "/v2/key/sharing")).body["keys"]
        now_s = state.now_s()
        assert [key["created"] <= now_s < key["activates"] for key in keys] == [False] * 4 + [True] * 4
        snapshot = parse_key_response(orjson.dumps(bidstream_keys(state, {})))

        def is_made_with_the_first_keys(token: str) -> bool:
            """Whether the first keys alone decrypt it."""
            first = replace(snapshot, keys={key_id: snapshot.keys[key_id] for key_id in (1, 2, 3, 4)})
            status = decrypt(token, None, first, state.now_ms())[0]
            assert status in {DecryptionStatus.SUCCESS, DecryptionStatus.NOT_AUTHORIZED_FOR_KEY}
            return status is DecryptionStatus.SUCCESS

        assert is_made_with_the_first_keys(state.mint_token())
        clock.advance(seconds=599)
        assert is_made_with_the_first_keys(state.mint_token())
        clock.advance(seconds=1)
        assert not is_made_with_the_first_keys(state.mint_token())
        assert decrypt(state.mint_token(), None, snapshot, state.now_ms())[0] is DecryptionStatus.SUCCESS


@pytest.mark.parametrize("purpose", list(KeyPurpose))
async def test_our_own_parser_reads_them(purpose: KeyPurpose) -> None:
    state = OperatorState(seed=1, scope=IdentityScope.EUID)
    async with running_operator(state) as operator:
        answer = await ask(operator, f"/v2/key/{purpose.value}")
    keys = parse_key_response(orjson.dumps(answer.json), purpose)
    assert keys.scope is IdentityScope.EUID
    assert set(keys.keys) == {1, 2, 3, 4}


async def test_what_is_unlimited_or_off_is_null_or_absent() -> None:
    lifetimes = Lifetimes(max_bidstream_s=None, clock_skew_s=None, max_sharing_s=None)
    async with running_operator(OperatorState(sites=[OperatorSite(1)], lifetimes=lifetimes)) as operator:
        bidstream = (await ask(operator, "/v2/key/bidstream")).body
        sharing = (await ask(operator, "/v2/key/sharing")).body
    assert "site_data" not in bidstream
    assert bidstream["max_bidstream_lifetime_seconds"] is None
    assert bidstream["allow_clock_skew_seconds"] is None
    assert sharing["max_sharing_lifetime_seconds"] is None


async def test_rotation_shows_at_once_with_the_newest_last() -> None:
    state = OperatorState(seed=1)
    async with running_operator(state) as operator:
        before = (await ask(operator, "/v2/key/sharing")).body["keys"]
        state.rotate_keys()
        after = (await ask(operator, "/v2/key/sharing")).body["keys"]
        state.expire_keys()
        assert (await ask(operator, "/v2/key/sharing")).body["keys"] == []
    assert after[: len(before)] == before
    assert [key.get("keyset_id") for key in after[len(before) :]] == [key.get("keyset_id") for key in before]
    assert after == sorted(after, key=lambda key: key["activates"])
