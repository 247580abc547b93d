"""CSV: cells come out as they came in, a damaged line loses only itself, and damaged files are no files."""

import csv
import io
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from bidstream_svc.bulk import BatchOptions, csv_files, text_input
from bidstream_svc.bulk.csv_syntax import CsvSyntax
from bidstream_svc.core.errors import ConfigurationError, DamagedFileError
from tests.bulk.text_files import Decrypted, decrypt_file, open_reader
from tests.core.openrtb_strategies import TOKENS
from tests.vectors.inputs import RAW_UID

TOKEN = TOKENS["V4"]
KEPT = BatchOptions(keep_tokens=True)
FAILED = ["INVALID_PAYLOAD", "", ""]

FEW = settings(suppress_health_check=[HealthCheck.function_scoped_fixture], max_examples=40)
# Whatever a cell may have. A line of nothing but line ends is no row, so one cell is never empty.
cells = st.text(st.sampled_from('a0é",;\t\r\n \ufeff\u2028='), max_size=6)
rows = st.lists(st.tuples(st.just("x"), cells, cells), max_size=8)


def decrypt(path: Path, content: bytes, options: BatchOptions = KEPT, output: str = "csv") -> Decrypted:
    path.write_bytes(content)
    return decrypt_file(path, "csv", output, options)


def read_csv(content: bytes) -> list[list[str]]:
    return list(csv.reader(io.StringIO(content.decode(), newline=""), strict=True))


# Between LF as line ends, the library does not quote CR.
dialects = st.sampled_from([("\r\n", csv.QUOTE_MINIMAL), ("\r\n", csv.QUOTE_ALL), ("\n", csv.QUOTE_ALL)])


@FEW
@given(rows, st.sampled_from(",;\t"), dialects)
def test_whatever_rows_are_written_come_back(
    tmp_path: Path, written: list[tuple[str, ...]], delimiter: str, dialect: tuple[str, Any]
) -> None:
    line_end, quoting = dialect
    text = io.StringIO()
    writer = csv.writer(text, delimiter=delimiter, lineterminator=line_end, quoting=quoting)
    writer.writerows([("n", "token", "m"), *written])
    found = decrypt(tmp_path / "log.csv", text.getvalue().encode())
    assert found.damaged == 0
    assert read_csv(found.content) == [
        ["n", "token", "m", "status", "uid", "established"],
        *([*row, *FAILED] for row in written),
    ]


@FEW
@given(rows, st.integers(1, 40))
def test_blocks_of_any_size_give_the_same(tmp_path: Path, written: list[tuple[str, ...]], size: int) -> None:
    text = io.StringIO()
    csv.writer(text).writerows([("n", "token", "m"), *written, ("1",), *written])
    path = tmp_path / "log.csv"
    whole = decrypt(path, text.getvalue().encode())
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(text_input, "BLOCK_BYTES", size)
        found = decrypt_file(path, "csv", "csv", KEPT)
    assert found.content == whole.content
    assert (found.damaged, found.examples) == (1, whole.examples)


@given(st.text(st.sampled_from('",\na\r"'), max_size=12))
def test_both_ways_to_find_records_agree(text: str) -> None:
    syntax, content = CsvSyntax(b","), text.encode()
    position = 0
    while (end := syntax.end_of_record(content, position)) is not None:
        position = end
    is_good = syntax.may_begin_record(content, position)
    assert syntax.end_of_records(content) == (position if is_good else None)


@FEW
@given(st.data())
def test_a_damaged_line_loses_only_itself(tmp_path: Path, data: st.DataObject) -> None:
    kinds = {
        "good": b"%d,t,z",
        "quoted": b'%d,"t, ""x""","z"',
        "few": b"%d,t",
        "many": b"%d,t,z,",
        "not UTF-8": b"%d,t,\xff",
        "open": b'%d,t,"z',
        "stray": b'%d,t,z"',
        "behind": b'%d,"t"x,z',
        "return": b"%d,t\rt,z",
    }
    drawn = data.draw(st.lists(st.sampled_from(sorted(kinds)), max_size=12))
    # Two open quotes in a row are one cell with a line end in it, of which nothing can be told.
    drawn = [kind for place, kind in enumerate(drawn) if kind != "open" or "open" not in drawn[:place]]
    if "open" in drawn:  # likewise with a stray quote at the end of a line
        drawn = [kind for kind in drawn if kind != "stray"]
    lines = [kinds[kind] % number for number, kind in enumerate(drawn)]
    found = decrypt(tmp_path / "log.csv", b"n,token,m\n" + b"\n".join(lines))
    good = [number for number, kind in enumerate(drawn) if kind in {"good", "quoted"}]
    assert [int(row[0]) for row in read_csv(found.content)[1:]] == good
    numbered = decrypt(tmp_path / "log.csv", b"n,token,m\n" + b"\n".join(lines), BatchOptions(bid_request_column="m"))
    assert [row["row"] for _, batch in numbered.batches for row in batch] == good
    assert found.damaged == len(drawn) - len(good)
    damaged = [number + 2 for number in range(len(drawn)) if number not in good]
    assert [int(text.split(":")[0].removeprefix("line ")) for text in found.examples] == damaged[:5]


def test_a_token_is_decrypted_and_nothing_is_guessed(tmp_path: Path) -> None:
    content = f"""token,n,big,empty,date,domain
{TOKEN},007,12345678901234567890123,,2020-01-01,example.com
,-0,1e5,NULL,true,
"{TOKEN}",  x ,nan,"",N/A,example.com
"""
    found = decrypt(tmp_path / "log.csv", content.encode(), BatchOptions())
    assert (
        found.content.decode()
        == f"""n,big,empty,date,domain,status,uid,established
007,12345678901234567890123,,2020-01-01,example.com,SUCCESS,{RAW_UID},1691360000000
-0,1e5,NULL,true,,INVALID_PAYLOAD,,
  x ,nan,,N/A,example.com,SUCCESS,{RAW_UID},1691360000000
"""
    )
    (_, kept), *_ = decrypt(tmp_path / "log.csv", content.encode(), KEPT).batches
    assert [row["token"] for row in kept] == [TOKEN, None, TOKEN], "an empty token is null"
    assert [row["empty"] for row in kept] == ["", "NULL", ""], "an empty cell is an empty text"


@pytest.mark.parametrize(
    ("content", "examples"),
    [
        (b"", []),
        (b"\n\r\n\n", []),
        (b"1,t", []),
        (b'1,"t\nt"\r\n2,t', []),
        (b"1,t\n2\n\n3,t,x\n", ["line 3: 1 cell, where the header has 2", "line 5: 3 cells, where the header has 2"]),
        (b"1,t\n2,\xe9\n3,t", ["line 3: not UTF-8"]),
        (b'1,t\n2,"t\n3,t\n4,t\n', ["line 3: a quote is not closed, or not doubled within quotes"]),
        (b'1,"a\nb"\n2,t"t"\n3,t', ["line 4: a quote is not closed, or not doubled within quotes"]),
        (b"1,t\n2\r3,t\n", ["line 3: a CR without LF"]),
        (b'1,"t\rt"\n', []),
    ],
)
def test_damaged_rows_are_named(tmp_path: Path, content: bytes, examples: list[str]) -> None:
    found = decrypt(tmp_path / "log.csv", b"\xef\xbb\xbfn,token\n" + content)
    assert (found.damaged, found.examples) == (len(examples), examples)
    good = {row[0] for row in read_csv(found.content)[1:]}
    assert good == {line[:1].decode() for line in content.split(b"\n") if line[1:2] == b","} - {
        content.split(b"\n")[int(text[5:6]) - 2][:1].decode() for text in examples
    }


@pytest.mark.parametrize(
    ("content", "problem"),
    [
        (b"", "empty"),
        (b"\xef\xbb\xbf\n\n", "empty"),
        (b"token,x,token\n1,2,3\n", "columns 1 and 3 of the header have the same name"),
        (b"token,\xff\n1,2\n", "header is not UTF-8"),
        ("token,x\n".encode("utf-16"), "header is not UTF-8"),
        ("token,x\n".encode("utf-16-le"), "header is not UTF-8"),
        (b'"token,x\n1,2\n', "header is not CSV"),
        (b"token,x\r1,2\r", "CR alone"),
    ],
)
def test_a_file_without_a_header_is_damaged(tmp_path: Path, content: bytes, problem: str) -> None:
    with pytest.raises(DamagedFileError, match=problem) as caught:
        decrypt(tmp_path / "log.csv", content)
    assert "token" not in str(caught.value), "it may be a value"


def test_without_the_column_it_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ConfigurationError, match="'token'"):
        decrypt(tmp_path / "log.csv", b"a,b\n1,2\n")
    with pytest.raises(ConfigurationError, match="'status'"):
        decrypt(tmp_path / "log.csv", b"token,status\n1,2\n")


def test_a_line_that_is_too_long(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "log.csv"
    path.write_bytes(b"n,token\n1,t\n" + b"2" * 5_000 + b',t\n3,t\n4,"' + b"x\n" * 5_000 + b"5,t\n")
    for module in (text_input, csv_files):
        monkeypatch.setattr(module, "MAX_LINE_BYTES", 1_000)
    monkeypatch.setattr("bidstream_svc.bulk.csv_text.MAX_LINE_BYTES", 1_000)
    monkeypatch.setattr(text_input, "BLOCK_BYTES", 100)
    found = decrypt_file(path, "csv", "csv", KEPT)
    assert [row[0] for row in read_csv(found.content)[1:]] == ["1", "3", "5"]
    assert found.damaged == 2 + 4_999
    assert found.examples[0].startswith("line 3: more than")
    assert found.examples[1] == "line 5: a quote is not closed, or not doubled within quotes"


def test_batches_are_bounded_and_numbered(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(csv_files, "MAX_BATCH_ROWS", 3)
    found = decrypt(tmp_path / "log.csv", b"n,token\n" + b"".join(b"%d,t\n" % n for n in range(8)) + b"x\n8,t\n")
    assert [(first, [row["n"] for row in batch]) for first, batch in found.batches] == [
        (0, ["0", "1", "2"]),
        (3, ["3", "4", "5"]),
        (6, ["6", "7", "8"]),
    ]


def test_one_column(tmp_path: Path) -> None:
    found = decrypt(tmp_path / "log.csv", b'token\n""\nx\n\n"y"')
    assert found.lines == [
        b"token,status,uid,established",
        *(b"%b,INVALID_PAYLOAD,," % token for token in (b"", b"x", b"y")),
    ]
    sink = pa.BufferOutputStream()
    batch = pa.record_batch({"a": ["", None, "x,y"]})
    writer = csv_files.CsvWriter(sink, batch.schema)
    writer.write(batch)
    assert sink.getvalue().to_pybytes() == b'a\n""\n""\n"x,y"\n'


def test_progress(tmp_path: Path) -> None:
    path = tmp_path / "log.csv"
    path.write_bytes(b"token\n" + b"t\n" * 1_000)
    reader = open_reader(path, "csv", "csv")
    assert sum(batch.num_rows for batch in reader) == 1_000
    assert reader.done_bytes == path.stat().st_size
    reader.close()
    reader.close()
