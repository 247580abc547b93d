"""Columns of any type as JSON and as cells of CSV."""

import datetime as dt
import json
import math
from decimal import Decimal
from typing import Any

import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from bidstream_svc.bulk import BatchOptions
from bidstream_svc.bulk.column_text import join, text_bytes, to_cells, to_json
from bidstream_svc.bulk.csv_files import CsvWriter
from bidstream_svc.bulk.ndjson_files import NdjsonWriter

MAP = pa.map_(pa.string(), pa.int32())
NESTED = pa.struct([("a", pa.list_(pa.struct([("b", pa.float32())])))])
FIELDS = [("a", pa.int64()), ('b"', pa.string()), ("c", pa.list_(pa.struct([("d", pa.bool_())]))), ("e", pa.float64())]
# Values, their type, their JSON, and their cells where those differ.
COLUMNS: list[tuple[list[Any], pa.DataType, list[str], list[str | None] | None]] = [
    (["a", 'q"\n\\', "é\u2028", None], pa.string(), ['"a"', r'"q\"\n\\"', '"é\u2028"', "null"], None),
    (["a\0", ""], pa.string_view(), [r'"a\u0000"', '""'], None),
    (['"'], pa.large_string(), [r'"\""'], None),
    ([1, -(2**63), None], pa.int64(), ["1", str(-(2**63)), "null"], ["1", str(-(2**63)), None]),
    ([2**64 - 1], pa.uint64(), [str(2**64 - 1)], None),
    ([True, None], pa.bool_(), ["true", "null"], None),
    (
        [1.5, math.nan, -math.inf, 1e300],
        pa.float64(),
        ["1.5", "null", "null", "1e+300"],
        ["1.5", "nan", "-inf", "1e+300"],
    ),
    ([None], pa.null(), ["null"], [None]),
    ([1700000000123], pa.timestamp("ms", "Europe/Berlin"), ['"2023-11-14T22:13:20.123Z"'], None),
    ([1], pa.timestamp("ns"), ['"1970-01-01T00:00:00.000000001"'], None),
    ([2**63 - 1, 1, None], pa.timestamp("us"), [f'"{2**63 - 1}"', '"1970-01-01T00:00:00.000001"', "null"], None),
    ([dt.date(2020, 1, 2)], pa.date32(), ['"2020-01-02"'], None),
    ([dt.time(1, 2)], pa.time32("s"), ['"01:02:00"'], None),
    ([5], pa.duration("s"), ["5"], None),
    ([Decimal("1.10"), None], pa.decimal128(38, 2), ["1.10", "null"], None),
    ([b"ab", b"", None], pa.binary(), ['"YWI="', '""', "null"], None),
    ([b"ab"], pa.binary(2), ['"YWI="'], None),
    ([[1, None], [], None], pa.list_(pa.int8()), ["[1,null]", "[]", "null"], ["[1,null]", "[]", None]),
    ([[1, 2], None], pa.list_(pa.int8(), 2), ["[1,2]", "null"], ["[1,2]", None]),
    ([[["x"]], None], pa.large_list(pa.list_view(pa.string())), ['[["x"]]', "null"], ['[["x"]]', None]),
    (
        [{"a": [{"b": 1.0}]}, None],
        pa.struct([("a", pa.list_(pa.struct([("b", pa.float32())])))]),
        ['{"a":[{"b":1}]}', "null"],
        ['{"a":[{"b":1}]}', None],
    ),
    ([{}], pa.struct([]), ["{}"], None),
    ([[("k", 1), ("l", None)], [], None], MAP, ['{"k":1,"l":null}', "{}", "null"], ['{"k":1,"l":null}', "{}", None]),
    ([[(1, "x")]], pa.map_(pa.int32(), pa.string()), ['{"1":"x"}'], None),
    (["a", None], pa.dictionary(pa.int32(), pa.string()), ['"a"', "null"], None),
]


@pytest.mark.parametrize("column", COLUMNS, ids=lambda column: str(column[1]))
def test_columns_of_any_type(column: tuple[list[Any], pa.DataType, list[str], list[str | None] | None]) -> None:
    values, kind, expected, cells = column
    if cells is None:
        cells = [None if text == "null" else text for text in expected]
        cells = [json.loads(text) if text and text.startswith('"') else text for text in cells]
    array = pa.array(values, kind)
    for start in range(len(values)):  # slices have an offset
        assert to_json(array.slice(start)).to_pylist() == expected[start:]
        assert to_cells(array.slice(start)).to_pylist() == cells[start:]
    assert all(json.loads(text) is not Ellipsis for text in expected)
    assert to_json(array.slice(0, 0)).to_pylist() == []


@settings(max_examples=60)
@given(
    st.lists(
        st.fixed_dictionaries(
            {},
            optional={
                "a": st.integers(-(2**63), 2**63 - 1),
                'b"': st.text(st.characters(exclude_categories=["Cs"]), max_size=5),
                "c": st.lists(st.none() | st.fixed_dictionaries({"d": st.booleans() | st.none()}), max_size=3),
                "e": st.floats(allow_nan=False, allow_infinity=False),
            },
        ),
        min_size=1,
    )
)
def test_structs_come_back(rows: list[dict[str, Any]]) -> None:
    array = pa.array(rows, pa.struct(FIELDS))
    assert [json.loads(text) for text in to_json(array).to_pylist()] == array.to_pylist()


def test_dates_and_times_beyond_those_that_can_be_written_are_numbers() -> None:
    dates = pa.array([2**31 - 1, 0, None], pa.int32()).view(pa.date32())
    assert to_cells(dates).to_pylist() == [str(2**31 - 1), "1970-01-01", None]
    times = pa.array([-1, 0], pa.int64()).view(pa.time64("us"))
    assert to_cells(times).to_pylist() == ["-1", "00:00:00.000000"]


def test_bytes_that_are_not_utf8_are_replaced() -> None:
    binary = pa.array([b"a\xff", None, b"b"], pa.binary())  # Parquet is not checked
    validity, offsets, data = binary.buffers()
    array = pa.StringArray.from_buffers(len(binary), offsets, data, validity)
    assert to_json(array).to_pylist() == ['"a\ufffd"', "null", '"b"']
    assert to_cells(array).to_pylist() == ["a\ufffd", None, "b"]


def test_texts_are_written_without_a_copy() -> None:
    texts = join(pa.array(["a", "bc", "d"]), "\n")
    assert bytes(text_bytes(texts)) == b"a\nbc\nd\n"
    assert bytes(text_bytes(texts.slice(1, 1))) == b"bc\n"
    assert bytes(text_bytes(texts.slice(3))) == b""


def test_writers() -> None:
    batch = pa.record_batch({'n"': [1, None], "t,": ["x,y", 'q"'], "l": [["a"], None]})
    sink = pa.BufferOutputStream()
    for writer in (CsvWriter(sink, batch.schema), NdjsonWriter(sink, batch.schema, BatchOptions())):
        writer.write(batch)
        writer.write(batch.slice(1))
        writer.write(batch.slice(2))
        writer.close()
    assert (
        sink.getvalue().to_pybytes().decode()
        == """"n""\","t,",l
1,"x,y","[""a""]"
,"q""\",
,"q""\",
{"n\\"":1,"t,":"x,y","l":["a"]}
{"n\\"":null,"t,":"q\\"","l":null}
{"n\\"":null,"t,":"q\\"","l":null}
"""
    )
