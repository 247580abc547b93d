"""NDJSON: objects come out as they came in, a damaged line loses only itself, and columns hold the same."""

import json
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from pyarrow import BufferReader, parquet

from bidstream_svc.bulk import BatchOptions, ndjson_rows, text_input
from bidstream_svc.bulk.json_members import make_reader, make_remover, text_of
from bidstream_svc.core.errors import ConfigurationError, DamagedFileError
from tests.bulk.text_files import Decrypted, decrypt_file, open_reader
from tests.core.openrtb_strategies import TOKENS
from tests.vectors.inputs import HOUR_MS, NOW_MS, RAW_UID

FEW = settings(suppress_health_check=[HealthCheck.function_scoped_fixture], max_examples=40)
TOKEN = TOKENS["V4"].encode()
SUCCESS = b'"status":"SUCCESS","uid":"%b","established":1691360000000}' % RAW_UID.encode()
FAILED = b'"status":"INVALID_PAYLOAD","uid":null,"established":null}'

spaces = st.sampled_from(["", "", "", " ", "\t", "\r", "  "])
names = st.sampled_from(['"token"', r'"tok\u0065n"', '"a"', '"token "', r'"\"token\":"', '"b"', '"{"', r'"\ud800"'])
values = st.sampled_from(
    [
        *("1.10", "-0", "9" * 40, "1e400", "null", "true", "[]", "{}", '""', '"token"', '"é"', r'"\\"', r'"\ud800"'),
        *(r'"a\"token\":\"b"', '"{["', '{"token":"x"}', '[{"token":1},"]"]', f'"{TOKENS["V4"]}"', r'"\u0041"'),
    ]
)


@st.composite
def members(draw: st.DrawFn) -> list[tuple[str, str]]:
    return draw(st.lists(st.tuples(names, values), max_size=5))


@st.composite
def spelled(draw: st.DrawFn, pairs: list[tuple[str, str]]) -> bytes:
    """An object with white space."""

    def space() -> str:
        return draw(spaces)

    texts = [f"{space()}{name}{space()}:{space()}{value}{space()}" for name, value in pairs]
    return f"{space()}{{{','.join(texts) or space()}}}{space()}".encode()


def pairs_of(line: bytes) -> list[tuple[str, Any]]:
    """The members of an object, all of them, with numbers as their text."""
    pairs: list[tuple[str, Any]] = json.loads(line, object_pairs_hook=list, parse_int=str, parse_float=str)
    return pairs


def decrypt(path: Path, content: bytes, output: str = "", **options: Any) -> Decrypted:
    path.write_bytes(content)
    return decrypt_file(path, "ndjson", output, BatchOptions(**options))


def decrypt_to_columns(path: Path, content: bytes, **options: Any) -> list[dict[str, Any]]:
    found = decrypt(path, content, "parquet", **options)
    rows: list[dict[str, Any]] = parquet.read_table(BufferReader(found.content)).to_pylist()
    return rows


@FEW
@given(st.data())
def test_whatever_objects_are_written_come_back(tmp_path: Path, data: st.DataObject) -> None:
    objects = data.draw(st.lists(members(), max_size=5))
    lines = [data.draw(spelled(pairs)) for pairs in objects]
    for keeps in (False, True):
        found = decrypt(tmp_path / "log.ndjson", b"\n".join(lines), keep_tokens=keeps)
        assert (found.damaged, len(found.lines)) == (0, len(lines))
        for line, out in zip(lines, found.lines, strict=True):
            own = [pair for pair in pairs_of(line) if keeps or pair[0] != "token"]
            assert pairs_of(out)[:-3] == own
            assert [name for name, _ in pairs_of(out)[-3:]] == ["status", "uid", "established"]
            token = dict(json.loads(line)).get("token")
            assert (dict(pairs_of(out))["status"] == "SUCCESS") == (token == TOKENS["V4"])
            if keeps:
                assert out.startswith(line.strip().removesuffix(b"}").rstrip())


@given(st.data())
def test_members_are_removed_whatever_their_spelling(data: st.DataObject) -> None:
    line = data.draw(spelled(data.draw(members())))
    if rb"\ud800" in line:
        line = line.replace(rb"\ud800", rb"\ud7ff")
    value = bytes(make_reader(["token"])(line)[0])
    kept = make_remover("token")(line, value)
    assert pairs_of(kept) == [pair for pair in pairs_of(line) if pair[0] != "token"]
    expected = dict(json.loads(line)).get("token")
    assert text_of(value) == (expected.encode() if isinstance(expected, str) else None)


@FEW
@given(st.lists(st.sampled_from(["good", "blank", "array", "cut", "two", "not UTF-8", "deep"]), max_size=10))
def test_a_damaged_line_loses_only_itself(tmp_path: Path, drawn: list[str]) -> None:
    kinds = {
        "good": b'{"n":%d}',
        "blank": b" \t\r",
        "array": b'[{"n":%d}]',
        "cut": b'{"n":%d',
        "two": b'{"n":%d} {}',
        "not UTF-8": b'{"n":%d,"x":"\xff"}',
        "deep": b'{"n":%d,"x":' + b"[" * 100_000 + b"]" * 100_000 + b"}",
    }
    lines = [kinds[kind] % number if b"%d" in kinds[kind] else kinds[kind] for number, kind in enumerate(drawn)]
    found = decrypt(tmp_path / "log.ndjson", b"\n".join(lines))
    assert [json.loads(line)["n"] for line in found.lines] == [n for n, kind in enumerate(drawn) if kind == "good"]
    damaged = [number for number, kind in enumerate(drawn) if kind not in {"good", "blank"}]
    assert found.damaged == len(damaged)
    assert found.examples == [f"line {number + 1}: not a JSON object in UTF-8" for number in damaged[:5]]
    numbers = [kind for kind in drawn if kind != "blank"]
    rows = [number for number, kind in enumerate(numbers) if kind == "good"]
    assert [first for first, _ in found.batches][:1] == rows[:1]
    for output in ("ndjson", "csv"):  # the numbers of rows of bid requests are in the output
        found = decrypt(tmp_path / "log.ndjson", b"\n".join(lines), output, bid_request_column="bid")
        assert [row["row"] for _, batch in found.batches for row in batch] == rows


def test_own_values_stay_as_they_are(tmp_path: Path) -> None:
    own = b'"n":12345678901234567890123,"x":1.10,"n":1e5,"t":"\\u00e9\\ud800",  "o":{"token":[ ]}'
    content = b'\xef\xbb\xbf{"token":"%b",%b}\r\n\n{%b , "token" : "%b" }\n{"token":"%b"}' % (
        TOKEN,
        own,
        own,
        TOKEN,
        TOKEN,
    )
    found = decrypt(tmp_path / "log.ndjson", content)
    assert found.lines == [b"{%b,%b" % (own, SUCCESS), b"{%b,%b" % (own, SUCCESS), b"{" + SUCCESS]
    found = decrypt(tmp_path / "log.ndjson", content, keep_tokens=True)
    assert found.lines[-1] == b'{"token":"%b",%b' % (TOKEN, SUCCESS)


@pytest.mark.parametrize("token", [b"7", b"null", b"[1]", b'{"a":1}', b"true", rb'"\ud800"', b'""'])
def test_a_token_that_is_not_text(tmp_path: Path, token: bytes) -> None:
    content = b'{"n":1,"token":%b}\n{"n":2}\n{"n":3,"token":"%b","domain":7}\n' % (token, TOKEN)
    path = tmp_path / "log.ndjson"
    assert decrypt(path, content).lines == [b'{"n":1,' + FAILED, b'{"n":2,' + FAILED, b'{"n":3,"domain":7,' + SUCCESS]
    content = content.replace(b',"domain":7', b"")
    assert [row["status"] for row in decrypt_to_columns(path, content)] == [*["INVALID_PAYLOAD"] * 2, "SUCCESS"]


def test_scopes_and_times(tmp_path: Path) -> None:
    expired = TOKENS["EXPIRED"].encode()
    past_ms = NOW_MS - HOUR_MS
    times = [b"%d" % past_ms, b"%d" % (past_ms // 1000), b"%.1f" % (past_ms / 1000), b'"%d"' % past_ms, b"%d" % NOW_MS]
    times += [b'"2023-11-14T21:13:20Z"', b"1.7e12", b"null", b"true", b'"never"', b"-1", b"1e400"]
    lines = [b'{"at":%b,"scope":"UID2","token":"%b"}' % (time, expired) for time in times]
    scopes = [b'"EUID"', b"null", b'""', b"5", b'"uid2"', b"[]"]
    lines += [b'{"at":%d,"scope":%b,"token":"%b"}' % (past_ms, scope, expired) for scope in scopes]
    found = decrypt(tmp_path / "log.ndjson", b"\n".join(lines), time_column="at", scope_column="scope")
    assert [json.loads(line)["status"] for line in found.lines] == [
        *["SUCCESS"] * 4,
        *("EXPIRED_TOKEN", "SUCCESS", "EXPIRED_TOKEN"),
        *[None] * 5,
        *("INVALID_PAYLOAD", "SUCCESS", "SUCCESS"),
        *[None] * 3,
    ]


@pytest.mark.parametrize("output", ["ndjson", "parquet"])
def test_bid_requests_are_objects_or_text(tmp_path: Path, output: str) -> None:
    request = b'{"id":"1","user":{"eids":[{"source":"uidapi.com","uids":[{"id":"%b"},{"id":"x"}]}]}}' % TOKEN
    text = json.dumps(request.decode()).encode()
    lines = [b'{"n":1,"bid":%b}' % request, b'{"bid":%b,"n":2}' % text, b'{"n":3,"bid":7}', b"]", b'{"n":4,"bid":{}}']
    lines += [b'{"n":5}', b'{"n":6,"bid":"{"}']
    found = decrypt(tmp_path / "log.ndjson", b"\n".join(lines), output, bid_request_column="bid")
    rows = parquet.read_table(BufferReader(found.content)).to_pylist() if output == "parquet" else []
    rows = rows or [json.loads(line) for line in found.lines]
    ids = [("/user/eids/0/uids/0", "SUCCESS"), ("/user/eids/0/uids/1", "INVALID_PAYLOAD")]
    assert [(row["n"], row["row"], row["path"], row["status"]) for row in rows] == [
        *((n, n - 1, *found) for n in (1, 2) for found in ids),
        *((n, row, None, None) for n, row in ((3, 2), (5, 5), (6, 6))),
    ]
    assert list(rows[0]) == ["n", "row", "path", "source", "status", "uid", "established"]


def test_own_fields_with_the_name_of_an_added_one_are_refused(tmp_path: Path) -> None:
    for content in (b'{"token":"x"}\n{"status":null}', b'{"st\\u0061tus":1}'):
        with pytest.raises(ConfigurationError, match="'status'"):
            decrypt(tmp_path / "log.ndjson", content)
    assert decrypt(tmp_path / "log.ndjson", b'{"uid":"x"}', token_column="uid").lines == [b"{" + FAILED]
    with pytest.raises(ConfigurationError, match="'uid'"):
        decrypt(tmp_path / "log.ndjson", b'{"uid":"x"}', token_column="uid", keep_tokens=True)


def test_columns_hold_what_the_objects_hold(tmp_path: Path) -> None:
    content = (
        b"""{"n":1,"x":1,"token":"%b","s":"2020-01-01 00:00:00","o":{"a":[1,null],"t":"2020-01-01"},"z":null}
{"x":1.5,"token":5,"o":{"b":"x","a":[]},"z":[]}

{"n":2,"s":"\\ud800","x":12345678901234567890,"e":null}
"""
        % TOKEN
    )
    rows = decrypt_to_columns(tmp_path / "log.ndjson", content)
    failed = {"status": "INVALID_PAYLOAD", "uid": None, "established": None}
    assert rows == [
        {
            "n": 1,
            "x": 1.0,
            "s": "2020-01-01 00:00:00",
            "z": None,
            "e": None,
            "o": {"a": [1, None], "t": "2020-01-01", "b": None},
            "status": "SUCCESS",
            "uid": RAW_UID,
            "established": 1691360000000,
        },
        {"n": None, "x": 1.5, "s": None, "o": {"a": [], "t": None, "b": "x"}, "z": [], "e": None, **failed},
        {"n": 2, "x": 12345678901234567890.0, "s": "\ufffd", "o": None, "z": None, "e": None, **failed},
    ]
    kept = decrypt_to_columns(tmp_path / "log.ndjson", content, keep_tokens=True)
    assert [row["token"] for row in kept] == [TOKENS["V4"], None, None]


def test_types_are_found_over_all_blocks(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(text_input, "BLOCK_BYTES", 64)
    content = (
        b"".join(b'{"n":%d,"o":{"a":[%d]}}\n' % (n, n) for n in range(50))
        + b'{"n":0.5,"o":{"a":[null],"b":[]},"c":""}\n'
    )
    rows = decrypt_to_columns(tmp_path / "log.ndjson", content)
    assert [row["n"] for row in rows] == [*map(float, range(50)), 0.5]
    assert rows[7]["o"] == {"a": [7], "b": None}
    assert rows[-1]["c"] == ""


@pytest.mark.parametrize(
    ("one", "other", "name"),
    [
        (b'{"a":1}', b'{"a":"x"}', "'a'"),
        (b'{"a":{"b":1}}', b'{"a":{"b":true}}', "'a/b'"),
        (b'{"a":{"b":[1]}}', b'{"a":{"b":[{}]}}', r"'a/b/\[\]'"),
        (b'{"a":[]}', b'{"a":{}}', "'a'"),
        (b'{"a":"2020-01-01"}', b'{"a":1.5}', "'a'"),
    ],
)
def test_different_types_in_a_field_are_one_clear_error(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, one: bytes, other: bytes, name: str
) -> None:
    monkeypatch.setattr(text_input, "BLOCK_BYTES", 256)
    for apart in (0, 100):  # in a block, and in two
        content = one + b"\n" + b"{}\n" * apart + other + b"\n"
        with pytest.raises(DamagedFileError, match=f"the field {name} .*NDJSON"):
            decrypt(tmp_path / "log.ndjson", content, "csv")
        assert len(decrypt(tmp_path / "log.ndjson", content).lines) == 2 + apart


NOT_HELD = "two members have one name, or a number is too large"


def test_objects_that_columns_cannot_hold_are_damaged_rows(tmp_path: Path) -> None:
    lines = [b'{"n":%d}' % n for n in range(20)]
    lines[3], lines[4], lines[17] = b'{"n":1,"n":2}', b"{", b'{"n":1e400}'
    found = decrypt(tmp_path / "log.ndjson", b"\n".join(lines), "csv")
    assert [int(line.split(b",")[0]) for line in found.lines[1:]] == [n for n in range(20) if n not in {3, 4, 17}]
    assert found.damaged == 3
    assert found.examples == [
        "line 5: not a JSON object in UTF-8",
        "row 3: two members have one name, or a number is too large",
    ]
    found = decrypt(tmp_path / "log.ndjson", b"\n".join(lines), "csv", bid_request_column="bid")
    assert [row["row"] for _, batch in found.batches for row in batch] == [n for n in range(20) if n not in {3, 4, 17}]


def test_objects_of_which_none_is_held(tmp_path: Path) -> None:
    found = decrypt(tmp_path / "log.ndjson", b'{"o":1,"o":1}\n{ }\n{}', "csv")
    assert (len(found.lines), found.examples) == (3, [f"row 0: {NOT_HELD}"])


def test_a_line_that_is_too_long(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for module in (text_input, ndjson_rows):
        monkeypatch.setattr(module, "MAX_LINE_BYTES", 1_000)
    monkeypatch.setattr(text_input, "BLOCK_BYTES", 100)
    lines = [b'{"n":%d,"x":"%b"}' % (n, b"x" * size) for n, size in enumerate((900, 5_000, 980, 1_000, 1))]
    found = decrypt(tmp_path / "log.ndjson", b"\n".join(lines))
    assert [json.loads(line)["n"] for line in found.lines] == [0, 2, 4]
    assert [example[:17] for example in found.examples] == ["line 2: more than", "line 4: more than"]


def test_batches_are_bounded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ndjson_rows, "MAX_BATCH_ROWS", 3)
    found = decrypt(tmp_path / "log.ndjson", b"{}\n" * 8)
    assert [(first, len(batch)) for first, batch in found.batches] == [(0, 3), (3, 3), (6, 2)]


@pytest.mark.parametrize("output", ["ndjson", "csv", "parquet"])
@pytest.mark.parametrize("content", [b"", b"\n\n", b"\xef\xbb\xbf"])
def test_no_rows(tmp_path: Path, output: str, content: bytes) -> None:
    found = decrypt(tmp_path / "log.ndjson", content, output)
    assert (found.batches, found.damaged) == ([], 0)
    assert found.content == {"ndjson": b"", "csv": b"status,uid,established\n"}.get(output, found.content)


def test_progress(tmp_path: Path) -> None:
    path = tmp_path / "log.ndjson"
    path.write_bytes(b"{}\n" * 1_000)
    reader = open_reader(path, "ndjson", "ndjson")
    assert sum(batch.num_rows for batch in reader) == 1_000
    assert reader.done_bytes == path.stat().st_size
    reader.close()
    reader.close()
