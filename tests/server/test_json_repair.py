"""JSON is repaired in steps with the result of repairing it at once, and no step is long."""

import codecs
import json
from collections.abc import Generator

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from bidstream_svc.server.batch_body import STEP_BYTES
from bidstream_svc.server.json_repair import repair

MAX_BODY_BYTES = 4 * 1024 * 1024


def finish(steps: Generator[None, None, bytes | None]) -> tuple[bytes | None, int]:
    """The result, and the number of steps."""
    for number in range(1, MAX_BODY_BYTES):
        try:
            next(steps)
        except StopIteration as end:
            return end.value, number
    raise AssertionError


# Python's decoder accepts a lone surrogate, and its encoder writes U+FFFD for one.
TEXT = st.lists(
    st.sampled_from(
        ["\\", "\\\\", "\\ud800", "\\uDBFF", "\\udc00", "\\uDFFF", "\\u0041", "\\n", '\\"', "u", "ud800", "a"]
    )
    | st.text("ab,{}[]", max_size=9),
    max_size=12,
).map("".join)


@given(TEXT, st.integers(1, 40))
@example("\\ud83d\\ude00" * 20, 7)
@example("a\\ud83d\\ude00" * 20, 7)
@example("\\\\ud800" * 20, 7)
@example("\\ud800abcdef\\ude00", 6)
def test_steps_repair_what_repairing_at_once_does(text: str, step_bytes: int) -> None:
    body = b'{"token":"%b"}' % text.encode()
    in_steps, at_once = finish(repair(body, step_bytes))[0], finish(repair(body, len(body)))[0]
    assert (in_steps is None) == (at_once is None)
    if in_steps is not None and at_once is not None:
        backslashes = b"\\\\", b"\\u005c"  # two spellings
        assert in_steps.replace(*backslashes) == at_once.replace(*backslashes)


@given(TEXT, st.integers(1, 40))
def test_only_lone_surrogates_are_replaced(text: str, step_bytes: int) -> None:
    body = b'["%b"]' % text.encode()
    try:
        meant = json.loads(body)
    except ValueError:
        return
    repaired, _ = finish(repair(body, step_bytes))
    expected = [each.encode("utf-16-le", "surrogatepass").decode("utf-16-le", "replace") for each in meant]
    assert (repaired is not None) == (meant != expected)
    if repaired is not None:
        assert json.loads(repaired) == expected


def test_a_byte_order_mark_is_removed() -> None:
    assert finish(repair(codecs.BOM_UTF8 + b"{}"))[0] == b"{}"
    assert finish(repair(codecs.BOM_UTF8 + b'"\\ud800"'))[0] == b'"\\ufffd"'
    assert finish(repair(b"{}"))[0] is None


@pytest.mark.parametrize("filler", [b" ", b"u", b"\\n      ", b"\\u0041      "])
def test_a_long_body_is_repaired_in_many_steps(filler: bytes) -> None:
    spread = b" " * (MAX_BODY_BYTES // 100)
    body = b"".join([filler * 10 + spread] * 99) + b"\\ud800"
    repaired, steps = finish(repair(body))
    assert repaired == body.replace(b"\\ud800", b"\\ufffd")
    assert steps >= len(body) // (2 * STEP_BYTES)


@pytest.mark.parametrize("body", [b"\\" * MAX_BODY_BYTES, b"\\ud800" * (MAX_BODY_BYTES // 6), b"\\uud800" * 100_000])
def test_a_body_with_too_many_escapes_is_given_up_early(body: bytes) -> None:
    repaired, steps = finish(repair(body))
    assert repaired is None
    assert steps <= 2
    assert finish(repair(codecs.BOM_UTF8 + body)) == (body, steps)
