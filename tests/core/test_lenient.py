"""Integers and base64 of operators: which spellings are read, and one error for all others."""

import json
from base64 import b64encode
from contextlib import suppress

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from bidstream_svc.core.lenient import Integer, decode_base64, make_decoder
from tests.core.strategies import anything


class Inner(msgspec.Struct):
    number: Integer | None = None


class Outer(msgspec.Struct):
    inner: list[Inner]


decode = make_decoder(Outer)


def read(spelling: str) -> int | None:
    """The integer of a field of an element of a list of a field."""
    number = decode(f'{{"inner":[{{}},{{"number":{spelling}}}]}}').inner[1].number
    assert number is None or type(number) is int
    return number


@pytest.mark.parametrize(
    ("spelling", "number"),
    [
        *[(spelling, 259200) for spelling in ("259200", "259200.0", "259200.000", "2592e2", "2.592E+5")],
        *[(spelling, 259200) for spelling in ('"259200"', '"259200.0"', '"00259200"')],
        *[("0", 0), ("-0", 0), ("-0.0", 0), ('"-7"', -7), ("-7.0", -7), ("null", None)],
        *[(str(2**63 - 1), 2**63 - 1), (str(-(2**63)), -(2**63)), (f'"{2**63 - 1}"', 2**63 - 1), ("9e18", 9 * 10**18)],
    ],
)
def test_an_integer_however_it_is_written(spelling: str, number: int | None) -> None:
    assert read(spelling) == number


@pytest.mark.parametrize("half", [r"\ud83d", r"\uDE00", r"\ud83d\ud83d", r"\ude00\ud83d", r"\\\ud83d", r"\ud83d\n"])
def test_half_a_character_is_an_error_only_where_it_is_read(half: str) -> None:
    read_text = make_decoder(dict[str, str])
    assert decode(f'{{"inner":[{{"number":5,"other":"{half}"}}],"{half}":["{half}"]}}').inner[0].number == 5
    for json_text in (f'{{"a":"{half}"}}', f'{{"{half}":"a"}}'):
        with pytest.raises(UnicodeDecodeError):
            read_text(json_text.encode())
    assert read_text(r'{"a":"\ud83d\ude00\\ud83d"}') == {"a": "\U0001f600\\ud83d"}


@given(st.text(st.characters(categories=None)), st.binary())
def test_half_characters_anywhere_raise_nothing_else(text: str, raw: bytes) -> None:
    for json_text in (json.dumps({"inner": [{text: text}]}), raw, raw.hex("\\").replace("\\", r"\u")):
        with suppress(msgspec.MsgspecError, ValueError, RecursionError):
            decode(json_text)


@pytest.mark.parametrize(
    "spelling",
    [
        *("1.5", "1e-1", '"1.5"', "true", "false", "[]", "[5]", "{}", "1e19", "1e300", "-1e300"),
        *(str(2**63), str(-(2**63) - 1), str(2**64), "9" * 300, f'"{2**63}"', f'"{"9" * 5000}"'),
        *(f'"{text}"' for text in ("", " 5", "5 ", "5\\n", "+5", "0x5", "5_0", "1e3", "5.", ".5", "5.0.0", "--5")),
        *(f'"{text}"' for text in ("null", "true", "NaN", "nan", "inf", "Infinity", "\u0665", "\uff15")),
    ],
)
def test_what_is_no_integer_is_refused_with_one_error(spelling: str) -> None:
    with pytest.raises(msgspec.ValidationError) as caught:
        read(spelling)
    assert str(caught.value) == "Expected an integer of at most 64 bits - at `$.inner[1].number`"


@pytest.mark.parametrize("spelling", ["NaN", "Infinity", "-Infinity", "1e400", "-1e400", "9" * 5000, "5.", "+5", "05"])
def test_what_is_no_json_or_beyond_any_float_is_refused(spelling: str) -> None:
    with pytest.raises(msgspec.DecodeError, match=r"malformed|out of range"):
        read(spelling)


@given(st.integers(-(2**70), 2**70) | st.floats(allow_nan=False, allow_infinity=False))
def test_a_number_is_read_exactly_or_refused(value: float) -> None:
    if value == int(value) and -(2**63) <= value < 2**63:
        assert read(json.dumps(value)) == value
    else:
        with pytest.raises(msgspec.ValidationError):
            read(json.dumps(value))


@given(anything)
def test_anything_is_read_or_refused(value: object) -> None:
    with suppress(msgspec.DecodeError):
        read(json.dumps(value, default=repr))


@given(st.binary(max_size=200), st.sampled_from(["\n", "\r\n", " ", "\t", "\v\f"]), st.booleans())
def test_base64_may_be_broken_anywhere(data: bytes, line_end: str, as_bytes: bool) -> None:  # noqa: FBT001 - drawn
    text = b64encode(data).decode()
    wrapped = line_end + line_end.join(text[start : start + 7] for start in range(0, len(text), 7)) + line_end
    assert decode_base64(wrapped.encode() if as_bytes else wrapped) == decode_base64(text) == data


@pytest.mark.parametrize(
    "text", ["A", "AAA", "AA=A", "AAA=A", "A-__", "AA\u00a0AA", "AAA\u00e9", "AAA\ud800", "AA\x00A"]
)
def test_what_is_no_base64_is_refused_without_repeating_it(text: str) -> None:
    for form in (text, text.encode("utf-8", "surrogatepass")):
        with pytest.raises(ValueError) as caught:
            decode_base64(form)
        assert text not in str(caught.value)
        assert caught.value.__context__ is None or text not in str(caught.value.__context__)
