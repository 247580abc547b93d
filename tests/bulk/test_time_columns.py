"""Times of whatever type become Unix milliseconds, and what is no time becomes null."""

from datetime import UTC, date, datetime, timedelta, timezone
from decimal import Decimal
from typing import Any

import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st

from bidstream_svc.bulk.time_columns import to_unix_ms
from bidstream_svc.core.errors import ConfigurationError
from bidstream_svc.core.moments import parse_moment

NOW_MS = 1_700_000_000_123
NOW = datetime(2023, 11, 14, 22, 13, 20, 123_999, UTC)


def converted(values: list[Any], kind: Any) -> list[int | None]:
    array = pa.array([*values[:1], *values], kind)
    found: list[int | None] = to_unix_ms(array.slice(1), "at").to_pylist()
    return found


@pytest.mark.parametrize("unit", ["s", "ms", "us", "ns"])
@pytest.mark.parametrize("zone", [None, "UTC", "+05:30", "America/New_York"])
def test_timestamps(unit: str, zone: str | None) -> None:
    array = pa.array([NOW, datetime(1969, 12, 31, 23, 59, 59, 999_999, UTC), None], pa.timestamp("us", zone))
    cast = array.cast(pa.timestamp(unit, zone), safe=False)
    whole = unit == "s"
    expected = [NOW_MS // 1000 * 1000 if whole else NOW_MS, None, None]
    found = to_unix_ms(cast, "at").to_pylist()
    assert found[0::2] == expected[0::2]
    if unit in {"us", "ns"}:
        assert found[1] == -1  # cut off, not rounded towards zero


def test_extreme_timestamps() -> None:
    extremes = [2**63 - 1, -(2**63), 0]
    found = to_unix_ms(pa.array(extremes, pa.int64()).cast(pa.timestamp("s")), "at").to_pylist()
    assert found == [None, None, 0]
    for unit, per_ms in (("ms", 1), ("us", 1_000), ("ns", 1_000_000)):
        found = to_unix_ms(pa.array(extremes, pa.int64()).cast(pa.timestamp(unit)), "at").to_pylist()
        assert found == [extreme // per_ms for extreme in extremes]


def test_dates() -> None:
    midnight = NOW_MS // 86_400_000 * 86_400_000
    for kind in (pa.date32(), pa.date64()):
        assert converted([date(2023, 11, 14), None], kind) == [midnight, None]


def test_numbers() -> None:
    numbers = [0, 1, 10**11 - 1, 10**11, NOW_MS // 1000, NOW_MS, 10**14 - 1, 10**14, -1, None]
    expected = [0, 1000, 10**14 - 1000, 10**11, NOW_MS // 1000 * 1000, NOW_MS, 10**14 - 1, None, None, None]
    assert converted(numbers, pa.int64()) == expected
    assert converted(numbers, pa.float64()) == expected
    assert (
        converted([Decimal(number) if number is not None else None for number in numbers], pa.decimal128(20))
        == expected
    )
    assert converted([2**64 - 1, 7, NOW_MS], pa.uint64()) == [None, 7000, NOW_MS]
    for kind in (pa.int8(), pa.uint8(), pa.int16(), pa.uint16(), pa.int32(), pa.uint32()):
        assert converted([7, None], kind) == [7000, None]
    floats = [NOW_MS / 1000, NOW_MS + 0.7, float("nan"), float("inf"), -float("inf"), -0.5, 1e300]
    assert converted(floats, pa.float64()) == [NOW_MS, NOW_MS, *[None] * 5]


@given(st.integers(0, 10**14 - 1))
def test_fractions_of_seconds_are_exact(moment_ms: int) -> None:
    assert converted([moment_ms / 1000], pa.float64()) == [moment_ms if moment_ms < 10**14 else None]


TEXTS = [
    *(
        "2023-11-14T22:13:20Z",
        "2023-11-14 22:13:20",
        "2023-11-14",
        "2023-11-14T22:13:20.123456+05:30",
        "20231114T221320Z",
    ),
    *(
        "1700000000",
        str(NOW_MS),
        " 1700000000 ",
        "100000000000000",
        "-1",
        "1e9",
        "",
        "yesterday",
        "2023-02-30",
        "\u0661",
    ),
    *("0000-01-01", "9999-12-31T23:59:59.999999", "2023-11-14T24:00:00", "2023-11-14T22:13:60", "2023-11-14T22"),
    *("2023-11-14T22:13:20.5", "2023-11-14T22:13:20.123456789", "2023-11-14T22:13:20-0800", "0001-01-01T00:00+14:00"),
]


def moment_or_none(text: str) -> int | None:
    try:
        return parse_moment(text)
    except (ValueError, OverflowError):
        return None


@pytest.mark.parametrize("kind", [pa.string(), pa.large_string(), pa.string_view(), pa.binary()], ids=str)
def test_texts(kind: Any) -> None:
    expected = [moment_or_none(text) for text in TEXTS]
    array = pa.array([*TEXTS, None], pa.string()).cast(kind)
    assert to_unix_ms(array, "at").to_pylist() == [*expected, None]
    for text, moment in zip(TEXTS, expected, strict=True):  # where all texts are of one form
        assert to_unix_ms(pa.array([text, text]).cast(kind), "at").to_pylist() == [moment] * 2, text


@given(st.lists(st.datetimes(timezones=st.sampled_from([None, UTC, timezone(timedelta(hours=-7, minutes=-30))]))))
def test_texts_of_one_kind(moments: list[datetime]) -> None:
    for texts in ([str(each) for each in moments], [each.isoformat() for each in moments]):
        expected = [moment_or_none(text) for text in texts]
        assert to_unix_ms(pa.array(texts, pa.string()), "at").to_pylist() == expected


def test_bytes_that_are_no_text() -> None:
    texts = pa.array([b"\xff", b"1700000000"])
    for column in (texts, texts.view(pa.string()), texts.view(pa.string()).cast(pa.string_view())):
        assert to_unix_ms(column, "at").to_pylist() == [None, 1_700_000_000_000]


def test_no_times() -> None:
    assert to_unix_ms(pa.nulls(2), "at").to_pylist() == [None, None]
    for array in (pa.array([True]), pa.array([[1]]), pa.array([timedelta(1)])):
        with pytest.raises(ConfigurationError, match="'at'"):
            to_unix_ms(array, "at")
