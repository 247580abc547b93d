"""The header `Range`: what it may be, and any text."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bidstream_svc.server.byte_range import ByteRange, UnsatisfiableRangeError, parse_range

SIZES = st.integers(0, 2**40)


@pytest.mark.parametrize(
    ("values", "wanted"),
    [
        ([], None),
        (["bytes=0-"], ByteRange(0, 100)),
        (["bytes=99-"], ByteRange(99, 100)),
        (["bytes=5-9"], ByteRange(5, 10)),
        (["bytes=5-1000"], ByteRange(5, 100)),
        (["bytes=-5"], ByteRange(95, 100)),
        (["bytes=-1000"], ByteRange(0, 100)),
        (["Bytes= 5-9 "], ByteRange(5, 10)),
        (["lines=5-9"], None),
        (["anything"], None),
        ([""], None),
    ],
)
def test_one_range_of_bytes_is_read(values: list[str], wanted: ByteRange | None) -> None:
    assert parse_range(values, 100) == wanted


@pytest.mark.parametrize(
    "values",
    [
        *(["bytes=100-"], ["bytes=9-5"], ["bytes=-0"], ["bytes="], ["bytes=-"], ["bytes=1-2,4-5"], ["bytes=0x1-"]),
        *(["bytes=+1-"], ["bytes=1-2", "bytes=4-5"], [f"bytes={'9' * 5_000}-"], ["bytes=\u0661-"], ["bytes=1-2;"]),
    ],
)
def test_what_cannot_be_sent_is_refused(values: list[str]) -> None:
    with pytest.raises(UnsatisfiableRangeError):
        parse_range(values, 100)


@given(st.lists(st.one_of(st.text(), st.from_regex(r"bytes=[0-9 ,\-]*"), st.text().map("bytes={}".format))), SIZES)
def test_any_text_gives_a_part_of_the_whole_or_one_error(values: list[str], size: int) -> None:
    try:
        found = parse_range(values, size)
    except UnsatisfiableRangeError:
        return
    assert found is None or 0 <= found.start < found.end <= size


@given(SIZES, SIZES, SIZES)
def test_a_range_within_the_whole_is_what_was_asked_for(size: int, first: int, last: int) -> None:
    if first <= last < size:
        assert parse_range([f"bytes={first}-{last}"], size) == (first, last + 1)
        assert parse_range([f"bytes={first}-"], size) == (first, size)
