"""Each id of a bid request in a log gets what `POST /openrtb` answers."""

import json
from collections.abc import Sequence
from contextlib import closing
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from bidstream_svc.bulk import BatchKeys, BatchOptions, decrypt_batch
from bidstream_svc.bulk.bid_request_rows import split_bid_requests
from bidstream_svc.core.errors import BidRequestError, ConfigurationError
from bidstream_svc.core.identity import IdentityScope
from bidstream_svc.core.openrtb import MAX_BID_REQUEST_BYTES, MAX_ENTRIES, decrypt_bid_request
from bidstream_svc.core.status import FailureReason
from bidstream_svc.optouts.optout_reader import OptOutReader
from tests.core.openrtb_cases import BID_REQUESTS, DIRECTORY, REFUSED
from tests.core.openrtb_compare import KEYS
from tests.core.openrtb_strategies import TOKENS, any_bid_requests, usual_bid_requests
from tests.support.optouts import opt_out
from tests.vectors.inputs import HOUR_MS, NOW_MS, RAW_UID

BATCH_KEYS = BatchKeys(KEYS)
OPTIONS = BatchOptions(bid_request_column="bid")
DAMAGED = {"path": None, "source": None, "status": None, "uid": None, "established": None}


def eid(*tokens: str, source: str = "uidapi.com") -> dict[str, object]:
    return {"source": source, "uids": [{"id": token} for token in tokens]}


def bid_request(*eids: object, **fields: object) -> bytes:
    return json.dumps({**fields, "user": {"eids": eids}}).encode()


def rows_of(bodies: Sequence[bytes | None], options: BatchOptions = OPTIONS, **columns: Any) -> list[dict[str, Any]]:
    batch = pa.record_batch({"bid": pa.array(bodies, pa.binary()), **columns})
    rows: list[dict[str, Any]] = decrypt_batch(batch, BATCH_KEYS, options, now_ms=NOW_MS).to_pylist()
    return rows


def expected_rows(bodies: Sequence[bytes]) -> list[dict[str, Any]]:
    """What the core answers, a row for each id."""
    rows: list[dict[str, Any]] = []
    for number, body in enumerate(bodies):
        try:
            ids = json.loads(decrypt_bid_request(body, KEYS, NOW_MS).to_json())["ids"]
        except BidRequestError:
            ids = [DAMAGED]
        rows += [{"row": number, **{name: found[name] for name in DAMAGED}} for found in ids]
    return rows


def test_bid_requests_in_files() -> None:
    bodies = [(DIRECTORY / f"{name}.request").read_bytes() for name in BID_REQUESTS]
    bodies += [(DIRECTORY / f"{name}.refused").read_bytes() for name in REFUSED]
    rows = rows_of(bodies)
    assert rows == expected_rows(bodies)
    assert len({row["status"] for row in rows}) > 4
    assert sum(row["status"] is None for row in rows) == len(REFUSED)


@settings(max_examples=25)
@given(st.lists(any_bid_requests | usual_bid_requests | st.binary(max_size=20), max_size=4))
def test_any_bid_requests(bodies: list[bytes]) -> None:
    assert rows_of(bodies) == expected_rows(bodies)


def test_large_bid_requests_and_many_entries() -> None:
    many = [eid(*[TOKENS["V4"], TOKENS["EXPIRED"], TOKENS["EUID"]] * 50), eid(TOKENS["EUID"], source="euid.eu")]
    padding = "x" * (MAX_BID_REQUEST_BYTES - 1_000)
    bodies = [bid_request(*many), bid_request(eid(TOKENS["V4"]), padding=padding), bid_request(padding=padding * 2)]
    rows = rows_of(bodies)
    assert rows[:-1] == expected_rows(bodies[:2])
    assert [row["row"] for row in rows] == [*[0] * MAX_ENTRIES, 1, 2]
    assert rows[-1] == {"row": 2, **DAMAGED}, "it is longer than /openrtb accepts"


@pytest.mark.parametrize("kind", [pa.string(), pa.large_string(), pa.string_view(), pa.binary_view()])
def test_own_columns_are_repeated(kind: pa.DataType) -> None:
    bodies = [bid_request(), bid_request(eid(TOKENS["V4"], TOKENS["V3"])), None, b"{"]
    column = pa.array(bodies, pa.binary()).cast(pa.string()).cast(kind)
    batch = pa.record_batch({"n": pa.array(["a", "b", "c", None]), "bid": column, "uids": [[1], [2], [3], [4]]})
    out = decrypt_batch(batch.slice(1), BATCH_KEYS, OPTIONS, now_ms=NOW_MS, first_row=1_000)
    assert out.schema.names == ["n", "uids", "row", "path", "source", "status", "uid", "established"]
    assert out["n"].to_pylist() == ["b", "b", "c", None]
    assert out["uids"].to_pylist() == [[2], [2], [3], [4]]
    assert out["row"].to_pylist() == [1_000, 1_000, 1_001, 1_002]
    assert out["status"].to_pylist() == ["SUCCESS", "SUCCESS", None, None]
    kept = decrypt_batch(batch, BATCH_KEYS, BatchOptions(bid_request_column="bid", keep_tokens=True), now_ms=NOW_MS)
    assert kept["bid"].to_pylist() == [column[index].as_py() for index in (1, 1, 2, 3)]


@pytest.mark.parametrize("kind", [pa.string(), pa.string_view(), pa.dictionary(pa.int32(), pa.string())], ids=str)
def test_rows_that_are_repeated_fit_into_memory(kind: pa.DataType) -> None:
    texts = pa.array([str(number) * 2_000 for number in range(3_000)])
    own = texts.dictionary_encode() if pa.types.is_dictionary(kind) else texts.cast(kind)
    batch = pa.record_batch({"bid": ["{}"] * len(own), "own": own})
    pieces = list(split_bid_requests(batch))
    starts = [start for start, _ in pieces]
    sizes = [len(piece) for _, piece in pieces]
    assert starts == [sum(sizes[:place]) for place in range(len(sizes))]
    assert [value for _, piece in pieces for value in piece["own"].to_pylist()] == texts.to_pylist()
    if pa.types.is_dictionary(kind):  # only numbers are repeated
        assert sizes == [len(own)]
    else:
        assert max(sizes) < 500


def test_no_rows() -> None:
    batch = pa.record_batch({"bid": pa.array([bid_request()] * 3, pa.binary()), "n": [1, 2, 3]})
    for each in (batch, batch.slice(0, 0)):
        out = decrypt_batch(each, BATCH_KEYS, OPTIONS, now_ms=NOW_MS)
        assert (len(out), out.schema.names[:3]) == (0, ["n", "row", "path"])


def test_tokens_are_judged_as_of_their_row() -> None:
    bodies = [bid_request(eid(TOKENS["EXPIRED"], TOKENS["V4"]))] * 3
    times = pa.array([NOW_MS - HOUR_MS, NOW_MS, None])
    rows = rows_of(bodies, BatchOptions(bid_request_column="bid", time_column="at"), at=times)
    assert [row["status"] for row in rows] == ["SUCCESS", "SUCCESS", "EXPIRED_TOKEN", "SUCCESS", None]
    rows = rows_of(bodies[:1], BatchOptions(bid_request_column="bid", at_ms=NOW_MS - HOUR_MS))
    assert [row["status"] for row in rows] == ["SUCCESS", "SUCCESS"]


def test_opt_outs_are_as_of_now(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    opt_out(tmp_path, [(IdentityScope.UID2, RAW_UID)])
    times: list[int] = []
    check = OptOutReader.check

    def watched_check(reader: OptOutReader, scope: IdentityScope, uid: str, now_ms: int) -> FailureReason | None:
        times.append(now_ms)
        return check(reader, scope, uid, now_ms)

    monkeypatch.setattr(OptOutReader, "check", watched_check)
    with closing(OptOutReader(tmp_path)) as reader:
        body = bid_request(eid(TOKENS["V4"], TOKENS["CLIENT_SIDE"]), eid(TOKENS["EUID"], source="euid.eu"))
        batch = pa.record_batch({"bid": [body], "at": [NOW_MS - 1]})
        options = BatchOptions(bid_request_column="bid", time_column="at")
        out = decrypt_batch(batch, BatchKeys(KEYS, reader), options, now_ms=NOW_MS)
    assert out["status"].to_pylist() == ["USER_OPTED_OUT", "DOMAIN_NAME_CHECK_FAILED", "SUCCESS"]
    assert set(times) == {NOW_MS}


@pytest.mark.parametrize("is_stale", [True, False])
def test_a_stale_store_withholds_as_of_now(tmp_path: Path, is_stale: bool) -> None:  # noqa: FBT001
    opt_out(tmp_path, [(IdentityScope.UID2, "A" * 43 + "=")])
    batch = pa.record_batch({"bid": [bid_request(eid(TOKENS["V4"]))], "at": [NOW_MS - HOUR_MS]})
    options = BatchOptions(bid_request_column="bid", time_column="at")
    with closing(OptOutReader(tmp_path, withholds=True)) as reader:
        opened = reader._opened
        assert opened is not None
        opened.environment.control.fresh_until_ms = NOW_MS - is_stale
        out = decrypt_batch(batch, BatchKeys(KEYS, reader), options, now_ms=NOW_MS)
    assert out["status"].to_pylist() == ["OPTOUTS_NOT_SYNCED" if is_stale else "SUCCESS"]


def test_a_closed_store_answers_nothing(tmp_path: Path) -> None:
    opt_out(tmp_path, [])
    batch = pa.record_batch({"bid": [bid_request(eid(TOKENS["V4"]))]})
    with closing(OptOutReader(tmp_path)) as reader:
        keys = BatchKeys(KEYS, reader)
        assert decrypt_batch(batch, keys, OPTIONS, now_ms=NOW_MS)["status"].to_pylist() == ["SUCCESS"]
    assert decrypt_batch(batch, keys, OPTIONS, now_ms=NOW_MS)["status"].to_pylist() == ["OPTOUTS_NOT_SYNCED"]


def test_sources_may_be_others() -> None:
    body = bid_request(eid(TOKENS["V4"]), eid(TOKENS["EUID"], source="Example.ORG"))
    options = BatchOptions(bid_request_column="bid", sources={"example.org": IdentityScope.EUID})
    assert [(row["source"], row["status"]) for row in rows_of([body], options)] == [("Example.ORG", "SUCCESS")]
    assert [row["source"] for row in rows_of([body])] == ["uidapi.com"], "other options have a decryptor of their own"


def test_what_cannot_be_used_is_refused() -> None:
    with pytest.raises(ConfigurationError, match="'bid'"):
        decrypt_batch(pa.record_batch({"x": [b"{}"]}), BATCH_KEYS, OPTIONS, now_ms=NOW_MS)
    with pytest.raises(ConfigurationError, match="'bid' is not text"):
        decrypt_batch(pa.record_batch({"bid": [1]}), BATCH_KEYS, OPTIONS, now_ms=NOW_MS)
    with pytest.raises(ConfigurationError, match="'path'"):
        decrypt_batch(pa.record_batch({"bid": [b"{}"], "path": [1]}), BATCH_KEYS, OPTIONS, now_ms=NOW_MS)
