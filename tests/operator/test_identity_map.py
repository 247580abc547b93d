"""An advertiser's calls against the embedded operator over a real socket."""

import asyncio
import itertools
from collections.abc import Iterator, Sequence
from datetime import UTC, datetime, timedelta, timezone
from typing import Any

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from bidstream_svc.core.errors import OperatorAnswerError, OperatorHttpError
from bidstream_svc.core.identity import Identity, IdentityKind, hash_identity
from bidstream_svc.devoperator import Fault, OperatorState
from bidstream_svc.devoperator.well_known import OPTED_OUT_USERS
from bidstream_svc.operator import IdentityMapClient, MappedIdentity, MappedIdentityV3, OptedOut, UnmappedIdentity
from bidstream_svc.operator import batches as batches_module
from bidstream_svc.operator.batches import collect_results, send_in_batches
from tests.operator.support import transport_to
from tests.support.operator import Clock, running_operator
from tests.support.recorder import recorded_json
from tests.vectors.load import load

PHONE = "+12345678901"
MIXED = [
    Identity.from_email("first@example.com"),
    Identity.from_phone(PHONE),
    Identity.from_email("optout@example.com"),
    Identity.from_unhashed_email("second@example.com"),
    Identity(IdentityKind.EMAIL_HASH, "no hash"),
    Identity.from_email("first@example.com"),  # once more
    Identity.from_unhashed_phone(PHONE),
]


async def test_v2_maps_any_mixture_in_order() -> None:
    async with running_operator() as operator, transport_to(operator) as transport:
        results = await IdentityMapClient(transport).map_identities(MIXED)
        state = operator.state
        first, phone, second = map(state.raw_uid, ("first@example.com", PHONE, "second@example.com"))
    assert [result.raw_uid if isinstance(result, MappedIdentity) else result for result in results] == [
        first,
        phone,
        UnmappedIdentity("optout"),
        second,
        UnmappedIdentity("invalid identifier"),
        first,
        phone,
    ]
    assert all(result.bucket_id for result in results if isinstance(result, MappedIdentity))
    assert state.calls["/v2/identity/map"] == 4  # one for each way of naming somebody


@pytest.mark.parametrize("kind", [IdentityKind.EMAIL, IdentityKind.PHONE])
async def test_the_raw_uid_is_the_same_whoever_normalises_and_hashes(kind: IdentityKind) -> None:
    pairs = [pair for group in load("normalisation.json") if group["kind"] == kind for pair in group["pairs"]]
    texts = [text for text, hashed in pairs if hashed and text not in OPTED_OUT_USERS]
    ours = Identity.from_unhashed_email if kind is IdentityKind.EMAIL else Identity.from_unhashed_phone
    async with running_operator() as operator, transport_to(operator) as transport:
        client = IdentityMapClient(transport)
        as_written = await client.map_identities([Identity(kind, text) for text in texts])
        assert as_written == await client.map_identities([Identity.parse(kind, text) for text in texts])
        assert as_written == await client.map_identities([ours(text) for text in texts])
        refused = await client.map_identities([Identity(kind, text) for text, hashed in pairs if not hashed])
    assert all(isinstance(result, MappedIdentity) for result in as_written)
    assert set(refused) == {UnmappedIdentity("invalid identifier")}


async def test_v3_maps_any_mixture_in_order_in_one_binary_request() -> None:
    async with running_operator() as operator, transport_to(operator) as transport:
        operator.state.rotate_salts("second@example.com")
        results = await IdentityMapClient(transport).map_identities_v3(MIXED)
        state = operator.state
    uids = [result.raw_uid if isinstance(result, MappedIdentityV3) else result for result in results]
    first, phone, second = map(state.raw_uid, ("first@example.com", PHONE, "second@example.com"))
    unmapped = UnmappedIdentity("optout"), UnmappedIdentity("invalid identifier")
    assert uids == [first, phone, unmapped[0], second, unmapped[1], first, phone]
    rotated = results[3]
    assert isinstance(rotated, MappedIdentityV3)
    assert rotated.previous_raw_uid not in {None, rotated.raw_uid}
    assert rotated.refresh_from_s * 1000 > state.now_ms()
    assert state.calls["/v3/identity/map"] == 1


async def test_v2_maps_a_mixture_that_takes_several_batches(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(batches_module, "MAX_BATCH", 3)
    async with running_operator() as operator, transport_to(operator) as transport:
        client = IdentityMapClient(transport)
        assert await client.map_identities(MIXED * 2) == await client.map_identities(MIXED) * 2


@pytest.mark.parametrize("version", ["", "_v3"])
@pytest.mark.parametrize(
    "address",
    [
        "{:0188}@example.com",
        '{:06}"\\\\"' + "ż" * 80 + "@example.com",  # more bytes than characters, and escapes
    ],
)
async def test_batches_are_limited_by_bytes_as_well(version: str, address: str) -> None:
    people = [Identity.from_unhashed_email(address.format(number)) for number in range(5_000)]
    async with running_operator() as operator, transport_to(operator) as transport:
        results = await getattr(IdentityMapClient(transport), f"map_identities{version}")(people)
        raw_uids = [operator.state.salts.raw_uid(Identity.from_email(person.value)) for person in people]
    assert [result.raw_uid for result in results] == raw_uids
    assert 1 < operator.state.calls.total() <= 3


async def test_opt_out_status_is_limited_by_bytes_as_well() -> None:
    async with running_operator() as operator, transport_to(operator) as transport:
        assert await IdentityMapClient(transport).get_opt_out_status(["A" * 300] * 5_000) == []
    assert operator.state.calls.total() == 2


@given(st.lists(st.text(max_size=30), max_size=60), st.integers(1, 9), st.integers(1, 90))
def test_no_batch_is_larger_than_the_limit_unless_it_is_one_item(
    texts: list[str], max_batch: int, max_bytes: int
) -> None:
    batches: list[list[str]] = []

    async def send(batch: Sequence[str]) -> Sequence[str]:
        batches.append([*batch])
        return batch

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(batches_module, "MAX_BATCH", max_batch)
        patch.setattr(batches_module, "MAX_BATCH_BYTES", max_bytes)
        assert asyncio.run(collect_results(send_in_batches(texts, send, str), len(texts))) == texts
    for batch in batches:
        assert len(batch) == 1 or (len(batch) <= max_batch and len(msgspec.json.encode(batch)) - 1 <= max_bytes)
    for batch, following in itertools.pairwise(batches):  # none could have taken the next item
        assert len(batch) == max_batch or len(msgspec.json.encode([*batch, following[0]])) - 1 > max_bytes


async def test_v3_request_is_binary() -> None:
    async with recorded_json(b'{"body":{"email_hash":[{"e":"optout"}]}}') as (recorder, transport):
        await IdentityMapClient(transport).map_identities_v3([Identity.from_email("first@example.com")])
    assert recorder.headers[0]["Content-Type"] == "application/octet-stream"
    assert recorder.payloads == [{"email_hash": [hash_identity("first@example.com")]}]


@pytest.mark.parametrize("method", ["map_identities", "map_identities_v3"])
async def test_long_list_is_split_and_comes_back_in_order(method: str) -> None:
    addresses = [f"user{number}@example.com" for number in range(10_001)]
    told: list[tuple[int, int]] = []
    async with running_operator() as operator, transport_to(operator) as transport:
        call: Any = getattr(IdentityMapClient(transport, max_concurrency=2), method)
        results = await call(
            [Identity.from_email(address) for address in addresses],
            progress=lambda done, total: told.append((done, total)),
        )
        assert sum(operator.state.calls.values()) == 3
        assert [result.raw_uid for result in results[::2500]] == [
            operator.state.raw_uid(address) for address in addresses[::2500]
        ]
    assert len(results) == 10_001
    assert len(told) == 3
    assert told == sorted(told)
    assert told[-1] == (10_001, 10_001)


async def test_empty_list_sends_no_request() -> None:
    async with running_operator() as operator, transport_to(operator) as transport:
        client = IdentityMapClient(transport)
        assert await client.map_identities([]) == []
        assert await client.map_identities_v3([]) == []
        assert await client.get_opt_out_status([]) == []
        assert not operator.state.calls


async def test_failure_of_one_piece_fails_the_whole_and_sends_no_more() -> None:
    identities = [Identity.from_email(f"user{number}@example.com") for number in range(15_001)]
    async with running_operator() as operator, transport_to(operator) as transport:
        operator.state.faults.inject(Fault.UNAUTHORIZED)
        with pytest.raises(OperatorHttpError, match="401"):
            await IdentityMapClient(transport, max_concurrency=2).map_identities(identities)
        assert operator.state.calls.total() <= 2


@given(st.lists(st.integers(), max_size=40), st.integers(1, 9), st.integers(1, 5))
@settings(max_examples=60, deadline=None)
def test_batches_keep_order_size_and_concurrency(items: list[int], max_batch: int, max_concurrency: int) -> None:
    under_way = most = 0
    done: list[int] = []

    async def send(batch: Sequence[int]) -> list[int]:
        nonlocal under_way, most
        assert 1 <= len(batch) <= max_batch
        under_way += 1
        most = max(most, under_way)
        for _ in range(abs(batch[0]) % 3):  # answers overtake each other
            await asyncio.sleep(0)
        under_way -= 1
        return [item * 2 for item in batch]

    async def run() -> list[int]:
        batches = send_in_batches(items, send, str, max_concurrency=max_concurrency)
        return await collect_results(batches, len(items), lambda count, _: done.append(count))

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(batches_module, "MAX_BATCH", max_batch)
        assert asyncio.run(run()) == [item * 2 for item in items]
    assert most <= max_concurrency
    assert done == sorted(done)
    assert not items or done[-1] == len(items)


@given(st.integers(1, 30), st.integers(1, 5), st.data())
@settings(max_examples=60, deadline=None)
def test_batches_before_a_failed_one_are_yielded_and_none_is_taken_after_it(
    count: int, max_concurrency: int, data: st.DataObject
) -> None:
    failing = data.draw(st.integers(0, count - 1))
    delays = data.draw(st.lists(st.integers(0, 3), min_size=count, max_size=count))
    taken = yielded = 0
    has_failed = False

    def items() -> Iterator[int]:
        nonlocal taken
        for item in range(count):
            taken += 1
            assert not has_failed
            assert taken - yielded <= max_concurrency
            yield item

    async def send(batch: Sequence[int]) -> Sequence[int]:
        nonlocal has_failed
        for _ in range(delays[batch[0]]):
            await asyncio.sleep(0)
        if batch[0] == failing:
            has_failed = True
            raise OperatorAnswerError("no")
        return batch

    async def receive() -> None:
        nonlocal yielded
        async for batch, results in send_in_batches(items(), send, str, max_concurrency=max_concurrency):
            assert (batch, results) == ((yielded,), (yielded,))
            yielded += 1

    async def run() -> None:
        with pytest.raises(OperatorAnswerError):
            await receive()
        assert asyncio.all_tasks() == {asyncio.current_task()}  # what was in flight has ended

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(batches_module, "MAX_BATCH", 1)
        asyncio.run(run())
    assert yielded == failing


async def test_failure_of_one_piece_cancels_the_others_before_it_is_raised() -> None:
    cancelled = []

    async def send(batch: Sequence[int]) -> list[int]:
        if 0 in batch:
            await asyncio.sleep(0)
            raise OperatorAnswerError("no")
        try:
            return await asyncio.Future()
        except asyncio.CancelledError:
            cancelled.append(batch[0])
            raise

    with pytest.raises(OperatorAnswerError):
        await collect_results(send_in_batches(range(20_000), send, str, max_concurrency=3), 20_000)
    assert cancelled == [5_000, 10_000]


async def test_buckets_that_changed() -> None:
    clock = Clock()
    async with running_operator(OperatorState(seed=1, now_ms=clock)) as operator, transport_to(operator) as transport:
        client = IdentityMapClient(transport)
        mapped = (await client.map_identities([Identity.from_email("someone@example.com")]))[0]
        since = datetime.fromtimestamp(clock() / 1000, UTC)
        clock.advance(seconds=10)
        assert await client.get_identity_buckets(since) == []
        operator.state.rotate_salts("someone@example.com")
        changed = await client.get_identity_buckets(since)
    assert isinstance(mapped, MappedIdentity)
    assert [bucket.bucket_id for bucket in changed] == [mapped.bucket_id]
    updated = datetime.fromisoformat(changed[0].last_updated).replace(tzinfo=UTC)
    assert abs(updated - since - timedelta(seconds=10)) < timedelta(milliseconds=1)


@pytest.mark.parametrize(
    "since",
    [datetime(2026, 1, 2, 3, 4, 5, tzinfo=UTC), datetime(2026, 1, 2, 5, 4, 5, tzinfo=timezone(timedelta(hours=2)))],
)
async def test_buckets_are_asked_for_in_utc_without_zone(since: datetime) -> None:
    async with recorded_json(b'{"body":[]}') as (recorder, transport):
        assert await IdentityMapClient(transport).get_identity_buckets(since) == []
    assert recorder.paths == ["/v2/identity/buckets"]
    assert recorder.payloads == [{"since_timestamp": "2026-01-02T03:04:05"}]


async def test_opt_out_status() -> None:
    clock = Clock()
    async with running_operator(OperatorState(seed=1, now_ms=clock)) as operator, transport_to(operator) as transport:
        state = operator.state
        state.opt_out("leaving@example.com")
        uids = [state.raw_uid(f"user{number}@example.com") for number in range(5_000)] + [
            state.raw_uid("leaving@example.com")
        ]
        opted_out = await IdentityMapClient(transport).get_opt_out_status(uids)
        assert state.calls["/v2/optout/status"] == 2
    assert opted_out == [OptedOut(uids[-1], clock())]


@pytest.mark.parametrize(
    ("method", "answer", "problem"),
    [
        ("map_identities", b'{"body":{}}', "leaves out"),
        ("map_identities", b'{"body":{"mapped":null,"unmapped":null}}', "leaves out"),
        ("map_identities", b'{"body":{"mapped":[{"identifier":"x"}]}}', "advertising_id"),
        ("map_identities_v3", b'{"body":{}}', "leaves out"),
        ("map_identities_v3", b'{"body":{"email_hash":[{"u":"x"}]}}', "neither mapped nor unmapped"),
        ("map_identities_v3", b'{"body":{"email_hash":[{"e":"x"},{"e":"y"}]}}', "leaves out"),
        ("map_identities_v3", b'{"body":{"email_hash":[{"u":7}]}}', "Expected `str"),
        ("map_identities_v3", rb'{"body":{"email_hash":[{"u":"\ud83d","r":1}]}}', "not JSON"),
        # An empty raw uid would be an id of nobody in somebody's file.
        ("map_identities_v3", b'{"body":{"email_hash":[{"u":"","r":1}]}}', "length >= 1"),
        ("map_identities", b'{"body":{"mapped":[{"identifier":"x","advertising_id":""}]}}', "length >= 1"),
    ],
)
async def test_answer_of_another_shape(method: str, answer: bytes, problem: str) -> None:
    async with recorded_json(answer) as (_, transport):
        call: Any = getattr(IdentityMapClient(transport), method)
        with pytest.raises(OperatorAnswerError, match=problem) as caught:
            await call([Identity.from_email("someone@example.com")])
    assert caught.value.__cause__ is None


@pytest.mark.parametrize("written", ["1735689601", "1735689601.0", '"1735689601"', '"1735689601.0"', "1.735689601e9"])
async def test_integers_in_answers_however_they_are_written(written: str) -> None:
    mapped = f'{{"body":{{"email_hash":[{{"u":"raw","p":null,"r":{written}}}]}}}}'.encode()
    async with recorded_json(mapped) as (_, transport):
        (result,) = await IdentityMapClient(transport).map_identities_v3([Identity.from_email("someone@example.com")])
    assert result == MappedIdentityV3("raw", None, 1735689601)
    opted_out = f'{{"body":{{"opted_out":[{{"advertising_id":"raw","opted_out_since":{written}}}]}}}}'.encode()
    async with recorded_json(opted_out) as (_, transport):
        assert await IdentityMapClient(transport).get_opt_out_status(["raw"]) == [OptedOut("raw", 1735689601)]


@pytest.mark.parametrize("written", ["1735689601.5", "true", '"soon"', "9223372036854775808", '""', "[]"])
async def test_what_is_no_integer_in_an_answer_is_refused(written: str) -> None:
    mapped = f'{{"body":{{"email_hash":[{{"u":"raw","r":{written}}}]}}}}'.encode()
    async with recorded_json(mapped) as (_, transport):
        with pytest.raises(OperatorAnswerError, match=r"integer of at most 64 bits - at `\$.body.email_hash\[0\].r`"):
            await IdentityMapClient(transport).map_identities_v3([Identity.from_email("someone@example.com")])
