from collections.abc import AsyncIterator
from datetime import UTC, datetime, timedelta
from io import BytesIO

import orjson
import pytest

from bidstream_svc.core.identity import hash_identity
from bidstream_svc.devoperator import DevOperator, OperatorState
from bidstream_svc.devoperator.salts import BUCKET_COUNT
from tests.support.operator import Clock, ask, post, running_operator

MAP, MAP_V3, BUCKETS, OPTOUT = "/v2/identity/map", "/v3/identity/map", "/v2/identity/buckets", "/v2/optout/status"
LOGOUT = "/v2/token/logout"
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
    body = (await ask(operator, MAP, {field: [identifier, "invalid", 7], "unknown": 1})).body
    (mapped,) = body["mapped"]
    assert mapped["identifier"] == identifier
    assert mapped["advertising_id"] == operator.state.raw_uid(identity)
    assert mapped["bucket_id"] in {bucket.bucket_id for bucket in operator.state.salts.buckets}
    assert body["unmapped"] == [{"identifier": bad, "reason": "invalid identifier"} for bad in ("invalid", "7")]


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
    assert (await ask(operator, MAP, {"email": [], "phone": []})).body == {"mapped": []}


async def test_map_ignores_empty_lists(operator: DevOperator) -> None:
    body = (await ask(operator, MAP, {"email": [], "phone": [PHONE], "phone_hash": [], "email_hash": None})).body
    assert [mapped["identifier"] for mapped in body["mapped"]] == [PHONE]


async def test_a_null_identifier_is_a_server_error_in_v2(operator: DevOperator) -> None:
    answer = await ask(operator, MAP, {"email": [EMAIL, None]})
    assert answer == (500, {"status": "unknown", "message": "Unknown error while mapping identity v2"})


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
    assert len((await ask(operator, MAP_V3, {"email": None})).body) == 4
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


async def test_map_v3_always_answers_four_lists(operator: DevOperator) -> None:
    body = (await ask(operator, MAP_V3, {"phone": [PHONE]})).body
    assert {name: len(answers) for name, answers in body.items()} == {
        "email": 0,
        "email_hash": 0,
        "phone": 1,
        "phone_hash": 0,
    }


async def test_map_v3_gives_the_previous_uid_after_a_rotation(operator: DevOperator) -> None:
    clock = operator.state.now_ms
    assert isinstance(clock, Clock)
    before = operator.state.raw_uid(EMAIL)
    operator.state.rotate_salts()
    (mapped,) = (await ask(operator, MAP_V3, {"email": [EMAIL]})).body["email"]
    assert mapped == {"u": operator.state.raw_uid(EMAIL), "p": before, "r": NOW_S + 365 * 86_400}
    clock.advance(days=365, seconds=1)
    (mapped,) = (await ask(operator, MAP_V3, {"email": [EMAIL]})).body["email"]
    next_midnight_s = (NOW_S // 86_400 + 366) * 86_400
    assert mapped == {"u": operator.state.raw_uid(EMAIL), "p": None, "r": next_midnight_s}


FIELDS = "email, email_hash, phone, phone_hash"


@pytest.mark.parametrize(
    ("parameters", "message"),
    [
        (None, f"Required Parameter Missing: exactly one of [{FIELDS}] must be specified"),
        ({}, f"Required Parameter Missing: exactly one of [{FIELDS}] must be specified"),
        ({"email": None}, f"Required Parameter Missing: exactly one of [{FIELDS}] must be specified"),
        (
            {"email": [EMAIL], "phone": [PHONE]},
            f"Required Parameter Missing: exactly one of [{FIELDS}] must be specified",
        ),
        ({"email": EMAIL}, "email must be an array"),
        ({"phone": {"0": PHONE}}, "phone must be an array"),
    ],
)
async def test_map_refuses(operator: DevOperator, parameters: dict[str, object] | None, message: str) -> None:
    answer = await ask(operator, MAP, parameters)
    assert answer == (400, {"status": "client_error", "message": message})


@pytest.mark.parametrize(
    ("parameters", "message"),
    [
        (None, f"Required Parameter Missing: one or more of [{FIELDS}] must be specified"),
        ({}, f"Required Parameter Missing: one or more of [{FIELDS}] must be specified"),
        ({"email": EMAIL}, "Incorrect request format"),
        ({"email": ""}, "Incorrect request format"),
        ({"phone": {"0": PHONE}}, "Incorrect request format"),
        ({"email": [EMAIL, None]}, "Incorrect request format"),
        ({"email": [[EMAIL]]}, "Incorrect request format"),
        ({"email": [EMAIL], "policy": 1}, "Incorrect request format"),
    ],
)
async def test_map_v3_refuses(operator: DevOperator, parameters: dict[str, object] | None, message: str) -> None:
    answer = await ask(operator, MAP_V3, parameters)
    assert answer == (400, {"status": "client_error", "message": message})


async def test_the_size_of_the_body_is_the_limit_of_the_maps(operator: DevOperator) -> None:
    hashes = [hash_identity(str(number)) for number in range(12_000)]
    assert len((await ask(operator, MAP, {"email_hash": hashes})).body["mapped"]) == 12_000
    assert len((await ask(operator, MAP_V3, {"phone_hash": hashes})).body["phone_hash"]) == 12_000
    addresses = {"email": ["x" * 200 + "@example.com"] * 5000}
    wire = BytesIO(b"A" * (len(orjson.dumps(addresses)) * 4 // 3))
    assert (await post(operator, MAP, wire))[0].status == 413


async def test_5000_raw_uids_are_the_most(operator: DevOperator) -> None:
    hashes = [hash_identity(str(number)) for number in range(5001)]
    assert len((await ask(operator, OPTOUT, {"advertising_ids": hashes[:5000]})).body["opted_out"]) == 0
    answer = await ask(operator, OPTOUT, {"advertising_ids": hashes})
    assert answer == (400, {"status": "client_error", "message": "Request payload is too large"})


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


@pytest.mark.parametrize("since", ["2023-11-13T22:13", "2023-11-13t22:13:20", "2023-11-13T22:13:20.000000000"])
async def test_buckets_accept(operator: DevOperator, since: str) -> None:
    assert len((await ask(operator, BUCKETS, {"since_timestamp": since})).body) == BUCKET_COUNT


@pytest.mark.parametrize(
    "since",
    [
        *(7, "", "yesterday", "T", "2024-01-01", "2024-01-01T00", "2024-01-01 00:00:00", "20240101T000000"),
        *("2024-01-01T00:00:00Z", "2024-01-01T00:00:00+01:00", "2024-W01-1T00:00:00", "2024-01-01T00:00.5"),
        *(
            "2024-13-01T00:00:00",
            "2024-02-30T00:00:00",
            "2024-01-01T24:00:00",
            "2024-01-01T00:00:00,5",
            " 2024-01-01T00:00",
        ),
    ],
)
async def test_buckets_refuse(operator: DevOperator, since: object) -> None:
    answer = await ask(operator, BUCKETS, {"since_timestamp": since})
    assert answer == (400, {"status": "client_error", "message": "invalid date, must conform to ISO 8601"})


@pytest.mark.parametrize("parameters", [None, {}, {"since_timestamp": None}])
async def test_buckets_need_a_time(operator: DevOperator, parameters: dict[str, object] | None) -> None:
    answer = await ask(operator, BUCKETS, parameters)
    assert answer == (400, {"status": "client_error", "message": "missing parameter since_timestamp"})


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


@pytest.mark.parametrize("parameters", [None, {}, {"advertising_ids": None}])
async def test_optout_status_needs_raw_uids(operator: DevOperator, parameters: dict[str, object] | None) -> None:
    answer = await ask(operator, OPTOUT, parameters)
    assert answer == (400, {"status": "client_error", "message": "Required Parameter Missing: advertising_ids"})


async def test_optout_status_needs_a_list(operator: DevOperator) -> None:
    answer = await ask(operator, OPTOUT, {"advertising_ids": "A"})
    assert answer == (500, {"status": "unknown", "message": "Unknown error while getting optout status"})


async def test_logging_out_opts_out(operator: DevOperator) -> None:
    raw_uid = operator.state.raw_uid(EMAIL)
    assert (await ask(operator, LOGOUT, {"email_hash": hash_identity(EMAIL)})).body == {"optout": "OK"}
    assert (await ask(operator, MAP_V3, {"email": [EMAIL]})).body["email"] == [{"e": "optout"}]
    assert (await ask(operator, OPTOUT, {"advertising_ids": [raw_uid]})).body["opted_out"] == [
        {"advertising_id": raw_uid, "opted_out_since": NOW_S * 1000}
    ]


@pytest.mark.parametrize("parameters", [None, {}, {"email": "nobody"}, {"email": EMAIL, "phone": PHONE}])
async def test_logging_out_refuses(operator: DevOperator, parameters: dict[str, object] | None) -> None:
    answer = await ask(operator, LOGOUT, parameters)
    assert (answer.http_status, answer.json["status"]) == (400, "invalid_token")
