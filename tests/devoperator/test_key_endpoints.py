import orjson
import pybase64
import pytest

from bidstream_svc.core.identity import IdentityScope
from bidstream_svc.core.key_response import parse_key_response
from bidstream_svc.core.keys import KeyPurpose
from bidstream_svc.devoperator import Lifetimes, OperatorSite, OperatorState
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
        {"id": 102, "domain_names": ["com.example.app", "123456789"]},
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
    by_keyset = {key["keyset_id"]: key["id"] for key in body["keys"]}
    assert len(by_keyset) == 4
    assert {body["master_keyset_id"], body["default_keyset_id"]} <= set(by_keyset)
    assert body["master_keyset_id"] != body["default_keyset_id"]


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
    assert [key["keyset_id"] for key in after[len(before) :]] == [key["keyset_id"] for key in before]
    assert after == sorted(after, key=lambda key: key["activates"])
