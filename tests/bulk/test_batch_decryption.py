"""A batch of rows gets what each row gets alone, by `bind_programmes`, with the kernel and without it."""

import pickle
import threading
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from itertools import product
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest

from bidstream_svc.bulk import BatchKeys, BatchOptions, batch_keys, decrypt_batch
from bidstream_svc.core.decrypt import bind_check_domain
from bidstream_svc.core.errors import ConfigurationError, DamagedFileError
from bidstream_svc.core.identity import IdentityScope
from bidstream_svc.core.kernel import IS_NATIVE
from bidstream_svc.core.programmes import Programme, bind_programmes
from bidstream_svc.core.status import DecryptionStatus
from bidstream_svc.core.token import CLIENT_SIDE_GENERATED
from bidstream_svc.optouts.optout_reader import OptOutReader
from tests.bulk.rows import (
    EUID_ALONE,
    GOOD,
    OPTED_OUT_UIDS,
    PROGRAMMES,
    UID2,
    UID2_ALONE,
    UIDS,
    Expected,
    Row,
    as_batch,
    make_rows,
    verdicts,
)
from tests.support.optouts import opt_out
from tests.vectors.inputs import HOUR_MS, NOW_MS, SECRETS, build
from tests.vectors.load import load

ALL = BatchOptions(scope_column="scope", time_column="at")
TIMES = BatchOptions(time_column="at")
TEXT_TYPES = (
    *(pa.string(), pa.large_string(), pa.string_view(), pa.binary(), pa.large_binary(), pa.binary_view()),
    *(pa.dictionary(pa.int32(), kind) for kind in (pa.string(), pa.large_string(), pa.binary(), pa.string_view())),
)


@pytest.fixture(params=["kernel", "python"], autouse=True)
def is_native(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> bool:
    if request.param == "python":
        monkeypatch.setattr(batch_keys, "IS_NATIVE", False)
    elif not IS_NATIVE:
        pytest.skip("without the kernel")
    return bool(request.param == "kernel")


@pytest.fixture
def store(tmp_path: Path) -> Iterator[OptOutReader]:
    opt_out(tmp_path, [(scope, uid) for scope in IdentityScope for uid in OPTED_OUT_UIDS])
    reader = OptOutReader(tmp_path)
    yield reader
    reader.close()


@pytest.mark.parametrize("keys", PROGRAMMES.values(), ids=PROGRAMMES)
def test_rows_of_every_kind(keys: Any) -> None:
    rows, expected = make_rows(1, 6_000), Expected(keys)
    batch_keys = BatchKeys(keys)
    found = verdicts(decrypt_batch(as_batch(rows), batch_keys, ALL, now_ms=NOW_MS))
    assert found == [expected.of(row) for row in rows]
    assert found == verdicts(decrypt_batch(as_batch(rows), batch_keys, ALL, now_ms=NOW_MS))  # names are remembered now
    if len(keys) == 2:
        counts = Counter(status for status, _, _ in found)
        never = {DecryptionStatus.NOT_INITIALIZED, DecryptionStatus.OPTOUTS_NOT_SYNCED}
        assert counts.keys() == {None, *DecryptionStatus} - never
        assert counts["SUCCESS"] > 300


@pytest.mark.parametrize("keys", PROGRAMMES.values(), ids=PROGRAMMES)
def test_texts_that_are_almost_tokens(keys: Any) -> None:
    texts = ["".join(characters) for length in range(6) for characters in product("Ag=-+ ", repeat=length)]
    for version in (2, 3, 4):
        token = build(version).token
        texts += [token[:length] for length in range(len(token))] + [token[:length] + "=" for length in range(90)]
        for place in (*range(40), len(token) - 2, len(token) - 1):
            texts += [token[:place] + character + token[place + 1 :] for character in "A/_=\u00e9 "]
        texts += [f"{start}{token[3:]}" for start in ("AnA", "EXA", "EYB", "AoA", "A3D", "A_D", "//D")]
    rows = [Row(text, None, None, at_ms) for text in texts for at_ms in (NOW_MS, 2**62)]
    expected = Expected(keys)
    found = verdicts(decrypt_batch(as_batch(rows), BatchKeys(keys), TIMES, now_ms=NOW_MS))
    assert found == [expected.of(row) for row in rows]


@pytest.mark.parametrize("text", TEXT_TYPES, ids=str)
def test_types_of_text_and_slices(text: Any) -> None:
    rows, expected = make_rows(2, 1_000), Expected([UID2_ALONE, EUID_ALONE])
    keys = BatchKeys([UID2_ALONE, EUID_ALONE])
    batch = as_batch(rows, text)
    for start, count in ((0, 1_000), (1, 999), (7, 500), (13, 1), (999, 1), (500, 0), (1_000, 0)):
        found = decrypt_batch(batch.slice(start, count), keys, ALL, now_ms=NOW_MS)
        assert verdicts(found) == [expected.of(row) for row in rows[start : start + count]]
        assert found["first"].to_pylist() == list(range(start, start + count))


def test_opt_outs_are_as_of_now(store: OptOutReader) -> None:
    keys = BatchKeys([UID2_ALONE, EUID_ALONE], store)
    rows, expected = make_rows(3, 4_000), Expected([UID2_ALONE, EUID_ALONE], store.check)
    found = verdicts(decrypt_batch(as_batch(rows), keys, ALL, now_ms=NOW_MS))
    assert found == [expected.of(row) for row in rows]
    assert ("USER_OPTED_OUT", None, None) in found
    uids = {uid for _, uid, _ in found}
    assert not uids & set(OPTED_OUT_UIDS)
    assert uids > {*UIDS[5:]}


@pytest.mark.parametrize("now_ms", [0, 2**62])
def test_a_stale_store_withholds_by_now_and_not_by_the_time_of_a_row(tmp_path: Path, now_ms: int) -> None:
    opt_out(tmp_path, [])
    reader = OptOutReader(tmp_path, withholds=True)
    expected = reader.check(IdentityScope.UID2, UIDS[9], now_ms)
    batch = pa.record_batch({"token": [GOOD[0]], "at": [NOW_MS]})
    out = decrypt_batch(batch, BatchKeys([UID2], reader), BatchOptions(time_column="at"), now_ms=now_ms)
    assert out["status"].to_pylist() == ["SUCCESS" if expected is None else expected.status.value]
    reader.close()


def test_a_closed_store_answers_nothing(store: OptOutReader) -> None:
    keys = BatchKeys([UID2], store)
    batch = pa.record_batch({"token": [GOOD[0]] * 3})
    assert decrypt_batch(batch, keys, now_ms=NOW_MS)["uid"].to_pylist() == [GOOD[1]] * 3
    store.close()
    for each in (keys, BatchKeys([UID2], store)):
        assert decrypt_batch(batch, each, now_ms=NOW_MS)["status"].to_pylist() == ["OPTOUTS_NOT_SYNCED"] * 3


def test_vectors() -> None:
    rows = [
        row for row in load("own.json") if row["keys"] == "uid2" and all(map(is_text, (row["token"], row["domain"])))
    ]
    rows = [row for row in rows if row.get("optouts") is None]
    assert len(rows) > 50
    batch = pa.record_batch({name: pa.array([row[name] for row in rows]) for name in ("token", "domain", "now_ms")})
    out = decrypt_batch(batch, UID2, BatchOptions(time_column="now_ms"), now_ms=NOW_MS)
    decrypt = bind_programmes([Programme(UID2.scope, UID2)])
    expected = [decrypt(row["token"], row["domain"], None, row["now_ms"])[0] for row in rows]
    assert verdicts(out) == [(status.value, uid, established) for status, uid, established, _ in expected]


def is_text(value: object) -> bool:
    """Whether a column of text can hold it: a string without a lone surrogate, or null."""
    return value is None or (isinstance(value, str) and not any("\ud800" <= each <= "\udfff" for each in value))


def test_one_time_and_one_programme_for_all_rows() -> None:
    v2, old = build(2).token, build(4, expires_ms=NOW_MS - HOUR_MS, generated_ms=NOW_MS - 2 * HOUR_MS).token
    batch = pa.record_batch({"token": [v2, old, GOOD[0]]})

    def statuses(**options: Any) -> list[str]:
        out = decrypt_batch(batch, [UID2_ALONE, EUID_ALONE], BatchOptions(**options), now_ms=NOW_MS)
        return [str(status) for status in out["status"].to_pylist()]

    good, wrong = "SUCCESS", "NOT_AUTHORIZED_FOR_KEY"
    assert statuses() == [good, "EXPIRED_TOKEN", good]
    assert statuses(at_ms=NOW_MS - HOUR_MS - 1) == [good, good, good]
    assert statuses(at_ms=NOW_MS + 5 * HOUR_MS) == ["EXPIRED_TOKEN"] * 3
    assert statuses(scope=IdentityScope.UID2)[0] == good
    assert statuses(scope=IdentityScope.EUID) == [wrong, "INVALID_PAYLOAD", "INVALID_PAYLOAD"]


def test_own_columns_stay_as_they_are() -> None:
    schema = pa.schema(
        [
            pa.field("token", pa.string()),
            pa.field("x", pa.list_(pa.int8()), metadata={"a": "b"}),
            pa.field("uid2", pa.null()),
        ],
        metadata={"c": "d"},
    )
    batch = pa.record_batch([[GOOD[0]], [[1, None]], [None]], schema=schema)
    out = decrypt_batch(batch, UID2, now_ms=NOW_MS)
    assert out.schema.names == ["x", "uid2", "status", "uid", "established"]
    assert [field.type for field in out.schema][2:] == [pa.string(), pa.string(), pa.int64()]
    assert out.schema.field("x").metadata == {b"a": b"b"}
    assert out.schema.metadata == {b"c": b"d"}
    assert out.select(["x", "uid2"]).equals(batch.select(["x", "uid2"]))
    kept = decrypt_batch(batch, UID2, BatchOptions(keep_tokens=True), now_ms=NOW_MS)
    assert kept.schema.names == ["token", "x", "uid2", "status", "uid", "established"]
    assert kept["token"].to_pylist() == [GOOD[0]]


def test_no_rows_and_only_tokens() -> None:
    for kind in (pa.string(), pa.null(), pa.large_binary(), pa.dictionary(pa.int8(), pa.string())):
        out = decrypt_batch(pa.record_batch({"token": pa.array([], kind)}), UID2)
        assert (out.num_rows, out.schema.names) == (0, ["status", "uid", "established"])
    out = decrypt_batch(pa.record_batch({"token": pa.nulls(2)}), UID2, now_ms=NOW_MS)
    assert verdicts(out) == [("INVALID_PAYLOAD", None, None)] * 2


def test_bytes_that_are_no_text() -> None:
    bad = b"\xff\xfe" * 10
    for kind in (pa.string(), pa.large_string()):
        tokens = pa.array(
            [bad, GOOD[0].encode(), None], pa.large_binary() if kind == pa.large_string() else pa.binary()
        )
        names = pa.array([bad, bad, bad], tokens.type)
        batch = pa.record_batch({"token": tokens.view(kind), "domain": names.view(kind)})
        out = decrypt_batch(batch, UID2, BatchOptions(), now_ms=NOW_MS)
        assert out["status"].to_pylist() == ["INVALID_PAYLOAD", "SUCCESS", "INVALID_PAYLOAD"]


def test_names_are_remembered(is_native: bool) -> None:  # noqa: FBT001
    keys = BatchKeys([UID2])
    token = build(4, privacy_bits=CLIENT_SIDE_GENERATED).token
    batch = pa.record_batch({"token": [token], "domain": ["www.example.com"]})
    assert decrypt_batch(batch, keys, now_ms=NOW_MS)["status"].to_pylist() == ["SUCCESS"]
    if is_native:
        (kernel,) = keys.asked_kernels
        assert kernel.decrypt(token, "www.example.com", NOW_MS) is not None


def test_a_domain_is_judged_for_its_site_and_again_the_same() -> None:
    keys, check = BatchKeys([UID2]), bind_check_domain(UID2)
    sites = [*UID2.sites, 2**32 - 1]
    names = [
        "example.com",
        "www.example.com",
        "example.org",
        "",
        None,
        "a" * 255,
        "a" * 256,
        "a." * 500 + "example.com",
    ]
    rows = [(site, name) for _ in range(2) for site in sites for name in names]
    tokens = [build(4, privacy_bits=CLIENT_SIDE_GENERATED, site_id=site).token for site, _ in rows]
    batch = pa.record_batch({"token": tokens, "domain": [name for _, name in rows]})
    failures = [check(name, site) for site, name in rows]
    expected = ["SUCCESS" if failure is None else failure[0].value for failure in failures]
    assert {*expected} == {"SUCCESS", "DOMAIN_NAME_CHECK_FAILED"}
    for _ in range(2):
        assert decrypt_batch(batch, keys, now_ms=NOW_MS)["status"].to_pylist() == expected


def test_threads_give_the_same(store: OptOutReader) -> None:
    keys, rows = BatchKeys([UID2_ALONE, EUID_ALONE], store), make_rows(4, 2_000)
    expected = [*map(Expected([UID2_ALONE, EUID_ALONE], store.check).of, rows)]
    batch, barrier = as_batch(rows), threading.Barrier(4)

    def work(_number: int) -> list[Any]:
        barrier.wait()
        return [verdicts(decrypt_batch(batch, keys, ALL, now_ms=NOW_MS)) for _ in range(3)]

    with ThreadPoolExecutor(4) as pool:
        for found in pool.map(work, range(4)):
            assert found == [expected] * 3


def test_what_cannot_be_used_is_refused() -> None:
    def refused(match: str, columns: dict[str, Any], **options: Any) -> None:
        with pytest.raises(ConfigurationError, match=match):
            decrypt_batch(pa.record_batch(columns), UID2, BatchOptions(**options), now_ms=NOW_MS)

    for name in ("status", "uid", "established"):
        refused(f"'{name}'", {"token": ["x"], name: [1]})
        decrypt_batch(pa.record_batch({name: ["x"]}), UID2, BatchOptions(token_column=name))  # it is dropped
        refused(f"'{name}'", {name: ["x"]}, token_column=name, keep_tokens=True)
    refused("no column 'token'; the columns are 't', 'u'$", {"t": ["x"], "u": ["x"]})
    refused("'c18', 'c19', ...$", {f"c{number}": ["x"] for number in range(21)})
    refused("no column 'd'", {"token": ["x"]}, domain_column="d")
    refused("no column 's'", {"token": ["x"]}, scope_column="s")
    refused("no column 'a'", {"token": ["x"]}, time_column="a")
    refused("'token' is not text, but int64", {"token": [1]})
    refused("'domain' is not text", {"token": ["x"], "domain": [1.0]})
    refused("'s' is not text", {"token": ["x"], "s": [0]}, scope_column="s")
    refused("'a' has no times, but bool", {"token": ["x"], "a": [True]}, time_column="a")
    with pytest.raises(ConfigurationError, match="several columns 'token'"):
        decrypt_batch(pa.RecordBatch.from_arrays([pa.array(["x"])] * 2, ["token"] * 2), UID2)
    with pytest.raises(TypeError, match=r"Table is not a RecordBatch; a table has to_batches\(\)"):
        decrypt_batch(pa.table({"token": ["x"]}), UID2)
    with pytest.raises(ConfigurationError, match="merge"):
        BatchKeys([UID2, UID2])
    with pytest.raises(ConfigurationError, match="no keys"):
        BatchKeys([])
    for both in ({"scope": IdentityScope.UID2, "scope_column": "s"}, {"at_ms": 1, "time_column": "a"}):
        with pytest.raises(ConfigurationError, match="leave one out"):
            BatchOptions(**both)  # type: ignore[arg-type]


@pytest.mark.parametrize("offsets", [[0, 9_999, 12], [5, 2**31 - 1, 12], [0, -1, 12], [0, 7, 3], [7, 3, 12]])
@pytest.mark.parametrize("name", ["token", "domain"])
def test_damaged_offsets_are_refused(name: str, offsets: list[int]) -> None:
    damaged = pa.Array.from_buffers(
        pa.string(), 2, [None, pa.array(offsets, pa.int32()).buffers()[1], pa.py_buffer(b"secret token")]
    )
    columns = {"token": pa.array([GOOD[0]] * 2), name: damaged}
    with pytest.raises(DamagedFileError) as raised:
        decrypt_batch(pa.RecordBatch.from_arrays([*columns.values()], [*columns]), UID2, now_ms=NOW_MS)
    assert "secret" not in str(raised.value)


def test_nothing_secret_is_shown_or_pickled() -> None:
    keys = BatchKeys([UID2_ALONE, EUID_ALONE])
    assert repr(keys) == "BatchKeys(KeySnapshot(UID2, 2 keys, 4 sites), KeySnapshot(EUID, 2 keys, 4 sites))"
    shown = repr(keys) + repr(keys.row_decryptor())
    assert not any(secret.decode() in shown for secret in SECRETS.values())
    with pytest.raises(TypeError):
        pickle.dumps(keys)


def test_options_are_plain_values() -> None:
    options = BatchOptions(scope=IdentityScope.EUID, at_ms=1, token_column="t")
    assert pickle.loads(pickle.dumps(options)) == options  # noqa: S301


def test_a_row_is_what_the_generator_says() -> None:
    assert Expected([UID2]).of(Row(GOOD[0], None, None, NOW_MS)) == ("SUCCESS", GOOD[1], NOW_MS - 2400 * HOUR_MS)
