from collections.abc import AsyncIterator
from datetime import UTC, datetime, timedelta

import pytest

from bidstream_svc.core.identity import hash_identity
from bidstream_svc.devoperator import DevOperator, OperatorState
from bidstream_svc.devoperator.salts import BUCKET_COUNT
from tests.support.operator import Clock, ask, running_operator

MAP, MAP_V3, BUCKETS, OPTOUT = "/v2/identity/map", "/v3/identity/map", "/v2/identity/buckets", "/v2/optout/status"
EMAIL, PHONE = "someone@example.com", "+12345678901"
NOW_S = 1_700_000_000


@pytest.fixture
async def operator() -> AsyncIterator[DevOperator]:
    async with running_operator(OperatorState(seed=1, now_ms=Clock(NOW_S * 1000))) as running:
        yield running


@pytest.mark.parametrize(
    ("field", "identifier", "identity"),
    [
        ("email", "Someone@Example.com", EMAIL),
        ("email_hash", hash_identity(EMAIL), EMAIL),
        ("phone", PHONE, PHONE),
        ("phone_hash", hash_identity(PHONE), PHONE),
    ],
)
async def test_map(operator: DevOperator, field: str, identifier: str, identity: str) -> None:
    body = (await ask(operator, MAP, {field: [identifier, "invalid", 7, None], "unknown": 1})).body
    (mapped,) = body["mapped"]
    assert mapped["identifier"] == identifier
    assert mapped["advertising_id"] == operator.state.raw_uid(identity)
    assert mapped["bucket_id"] in {bucket.bucket_id for bucket in operator.state.salts.buckets}
    assert body["unmapped"] == [{"identifier": bad, "reason": "invalid identifier"} for bad in ("invalid", 7, None)]


async def test_map_of_opted_out_users(operator: DevOperator) -> None:
    operator.state.opt_out(PHONE)
    emails = (await ask(operator, MAP, {"email": ["optout@example.com", "refresh-optout@example.com"]})).body
    assert emails["unmapped"] == [{"identifier": "optout@example.com", "reason": "optout"}]
    assert [mapped["identifier"] for mapped in emails["mapped"]] == ["refresh-optout@example.com"]
    phones = (await ask(operator, MAP, {"phone": [PHONE]})).body
    assert phones == {"mapped": [], "unmapped": [{"identifier": PHONE, "reason": "optout"}]}


async def test_map_has_no_unmapped_where_everything_maps(operator: DevOperator) -> None:
    assert set((await ask(operator, MAP, {"email": [EMAIL], "phone": None})).body) == {"mapped"}
    assert (await ask(operator, MAP, {"email": []})).body == {"mapped": []}


async def test_map_v3_answers_each_list_in_order(operator: DevOperator) -> None:
    request = {
        "email": [EMAIL, "nobody", "optout@example.com", 7],
        "email_hash": [hash_identity(EMAIL)],
        "phone": ["12345678901", PHONE],
        "phone_hash": [],
    }
    body = (await ask(operator, MAP_V3, request, binary=True)).body
    email, phone = operator.state.raw_uid(EMAIL), operator.state.raw_uid(PHONE)
    refresh_from_s = NOW_S + 364 * 86_400
    assert body == {
        "email": [
            {"u": email, "p": None, "r": refresh_from_s},
            {"e": "invalid identifier"},
            {"e": "optout"},
            {"e": "invalid identifier"},
        ],
        "email_hash": [{"u": email, "p": None, "r": refresh_from_s}],
        "phone": [{"e": "invalid identifier"}, {"u": phone, "p": None, "r": refresh_from_s}],
        "phone_hash": [],
    }


async def test_map_v3_gives_the_previous_uid_after_a_rotation(operator: DevOperator) -> None:
    clock = operator.state.now_ms
    assert isinstance(clock, Clock)
    before = operator.state.raw_uid(EMAIL)
    operator.state.rotate_salts()
    (mapped,) = (await ask(operator, MAP_V3, {"email": [EMAIL]})).body["email"]
    assert mapped == {"u": operator.state.raw_uid(EMAIL), "p": before, "r": NOW_S + 365 * 86_400}
    clock.advance(days=365)
    (mapped,) = (await ask(operator, MAP_V3, {"email": [EMAIL]})).body["email"]
    assert mapped == {"u": operator.state.raw_uid(EMAIL), "p": None, "r": NOW_S + 366 * 86_400}


@pytest.mark.parametrize("path", [MAP, MAP_V3])
@pytest.mark.parametrize("parameters", [None, {}, {"email": None}, {"email": EMAIL}, {"phone": {"0": PHONE}}])
async def test_maps_refuse(operator: DevOperator, path: str, parameters: dict[str, object] | None) -> None:
    answer = await ask(operator, path, parameters)
    assert (answer.http_status, answer.json["status"]) == (400, "client_error")
    assert EMAIL not in answer.json["message"]


async def test_map_v2_takes_one_list_only(operator: DevOperator) -> None:
    assert (await ask(operator, MAP, {"email": [EMAIL], "phone": [PHONE]})).http_status == 400


async def test_5000_identifiers_are_the_most(operator: DevOperator) -> None:
    hashes = [hash_identity(str(number)) for number in range(5001)]
    assert len((await ask(operator, MAP, {"email_hash": hashes[:5000]})).body["mapped"]) == 5000
    split = {"email_hash": hashes[:2500], "phone_hash": hashes[:2500]}
    assert len((await ask(operator, MAP_V3, split)).body["phone_hash"]) == 2500
    assert (await ask(operator, MAP, {"email_hash": hashes})).http_status == 400
    assert (await ask(operator, MAP_V3, {"email_hash": hashes[:2500], "phone": hashes[:2501]})).http_status == 400
    assert len((await ask(operator, OPTOUT, {"advertising_ids": hashes[:5000]})).body["opted_out"]) == 0
    assert (await ask(operator, OPTOUT, {"advertising_ids": hashes})).http_status == 400


async def test_buckets_since(operator: DevOperator) -> None:
    clock = operator.state.now_ms
    assert isinstance(clock, Clock)
    start = datetime.fromtimestamp(NOW_S, UTC).replace(tzinfo=None)
    all_buckets = (await ask(operator, BUCKETS, {"since_timestamp": "2020-01-01T00:00:00"})).body
    assert len(all_buckets) == BUCKET_COUNT
    assert datetime.fromisoformat(all_buckets[0]["last_updated"]) == start - timedelta(days=1)
    clock.advance(seconds=1.5)
    operator.state.rotate_salts(EMAIL)
    at, after = ((start + timedelta(seconds=1.5, milliseconds=more)).isoformat() for more in (0, 1))
    ((mapped,), (bucket,)) = (
        (await ask(operator, MAP, {"email": [EMAIL]})).body["mapped"],
        (await ask(operator, BUCKETS, {"since_timestamp": at})).body,
    )
    assert bucket == {"bucket_id": mapped["bucket_id"], "last_updated": "2023-11-14T22:13:21.500"}
    assert (await ask(operator, BUCKETS, {"since_timestamp": after})).body == []


@pytest.mark.parametrize(
    "since", [None, 7, "", "yesterday", "2024-01-01", "2024-01-01T00:00:00Z", "2024-01-01T00:00:00+01:00", "T"]
)
async def test_buckets_refuse(operator: DevOperator, since: object) -> None:
    answer = await ask(operator, BUCKETS, {"since_timestamp": since})
    assert (answer.http_status, answer.json["status"]) == (400, "client_error")


async def test_optout_status(operator: DevOperator) -> None:
    clock, state = operator.state.now_ms, operator.state
    assert isinstance(clock, Clock)
    before, well_known = state.raw_uid(EMAIL), state.raw_uid("optout@example.com")
    asked = {"advertising_ids": [before, "unknown", 7, None, well_known]}
    known = {"advertising_id": well_known, "opted_out_since": NOW_S * 1000}
    assert (await ask(operator, OPTOUT, asked)).body == {"opted_out": [known]}
    clock.advance(seconds=5)
    state.opt_out(EMAIL)
    state.rotate_salts(EMAIL)
    asked = {"advertising_ids": [state.raw_uid(EMAIL), before]}
    since_ms = NOW_S * 1000 + 5000
    assert (await ask(operator, OPTOUT, asked)).body == {
        "opted_out": [{"advertising_id": uid, "opted_out_since": since_ms} for uid in asked["advertising_ids"]]
    }


@pytest.mark.parametrize("parameters", [None, {}, {"advertising_ids": "A"}, {"advertising_ids": None}])
async def test_optout_status_refuses(operator: DevOperator, parameters: dict[str, object] | None) -> None:
    answer = await ask(operator, OPTOUT, parameters)
    assert (answer.http_status, answer.json["status"]) == (400, "client_error")
