"""A batch is read in steps with the result of reading it at once, and no step is long."""

import json
from collections.abc import Generator

import msgspec
import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from bidstream_svc.server.batch_body import MAX_BATCH_TOKENS, MAX_FIELDS, STEP_BYTES, Parts, TokenRequest, read_batch
from tests.support.raw_http import Response
from tests.support.sidecar import RunningService

NOT_DECODABLE = (msgspec.MsgspecError, ValueError, RecursionError)
GOOD = b'{"token":"abcd"}'


def finish(steps: Generator[None, None, Parts]) -> list[TokenRequest]:
    return [request for part in finish_parts(steps) for request in part]


def outcome(body: bytes, step_bytes: int) -> list[TokenRequest] | type[Exception] | str:
    try:
        return finish(read_batch(body, step_bytes))
    except msgspec.ValidationError as error:
        return str(error)
    except NOT_DECODABLE:
        return msgspec.DecodeError


def at_once(body: bytes) -> list[TokenRequest] | type[Exception] | str:
    return outcome(body, len(body))


TEXT = st.text(max_size=8) | st.sampled_from(['"', "},", "},{", "\\", "]}", "\u0130", "\U0001f600", "\x01"])
VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | TEXT,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(TEXT, inner, max_size=3),
    max_leaves=6,
)
ELEMENTS = (
    st.fixed_dictionaries({"token": TEXT}, optional={"domain": TEXT | st.none(), "x": VALUES, "y": VALUES}) | VALUES
)
BATCHES = st.fixed_dictionaries({"requests": st.lists(ELEMENTS, min_size=1, max_size=8)}, optional={"x": VALUES})


@st.composite
def bodies(draw: st.DrawFn) -> bytes:
    batch = draw(BATCHES | VALUES)
    if isinstance(batch, dict) and draw(st.booleans()):
        batch = dict(reversed(batch.items()))
    separators = draw(st.sampled_from([(",", ":"), (", ", ": "), (" ,\n", " :\t")]))
    text = json.dumps(
        batch, separators=separators, ensure_ascii=draw(st.booleans()), indent=draw(st.none() | st.just(1))
    )
    body = bytearray(text.encode("utf-8", "surrogatepass"))
    for _ in range(draw(st.integers(0, 2))):
        position = draw(st.integers(0, len(body)))
        body[position : position + draw(st.integers(0, 3))] = draw(
            st.sampled_from([b"", b",", b"}", b"{", b'"', b" ", b"]", b"\xff"])
        )
    return bytes(body)


@given(bodies(), st.integers(1, 90))
@example(b'{"requests":[%b,]}' % GOOD, 20)
@example(b'{"requests":[%b,%b],"requests":[%b]}' % (GOOD, GOOD, GOOD), 20)
@example(b'{"requests":[%b,{"token":1}]}' % GOOD, 20)
@example(b'{"requests":[{"token":"},{"},%b]}' % GOOD, 20)
@example(b'{"requests":[%b,%b] x}' % (GOOD, GOOD), 20)
@example(b'{"requests":[%b,%b]}x' % (GOOD, GOOD), 20)
@example(b'{"requests":[%b],"x":NaN}' % GOOD, 20)
@example(b'{"requests":[%b],"x":%b}' % (GOOD, b"1" * 5000), 5002)
def test_steps_read_what_reading_at_once_does(body: bytes, step_bytes: int) -> None:
    stepwise, whole = outcome(body, step_bytes), at_once(body)
    if isinstance(stepwise, str) and f"at most {step_bytes} bytes" in stepwise:
        return  # a value is too long, or perhaps
    if isinstance(whole, str) and isinstance(stepwise, str):
        assert stepwise.partition(",")[0].partition(" - at")[0] == whole.partition(",")[0].partition(" - at")[0]
    elif isinstance(whole, str):
        # Reading at once stops at the first error of either kind, in another order.
        assert stepwise is msgspec.DecodeError
    else:
        assert stepwise == whole


def test_errors_name_the_element() -> None:
    elements = [GOOD] * 3000
    elements[700] = b'{"token":1}'
    message = "Expected `str`, got `int` - at `$.requests[700].token`"
    assert outcome(b'{"requests":[%b]}' % b",".join(elements), STEP_BYTES) == message
    elements[700] = b"{}"
    message = "Object missing required field `token` - at `$.requests[700]`"
    assert outcome(b'{"requests":[%b]}' % b",".join(elements), STEP_BYTES) == message


def pad(unit: bytes, before: bytes, behind: bytes, size: int = 4 * 1024 * 1024) -> bytes:
    return before + unit * ((size - len(before) - len(behind)) // len(unit)) + behind


END = b'"requests":[%b]}' % GOOD
LARGE = {
    "elements": pad(GOOD + b",", b'{"requests":[', GOOD + b"]}"),
    "elements with escapes": pad(b'{"token":"\\n"},', b'{"requests":[', GOOD + b"]}"),
    "elements in another field's place": pad(GOOD + b",", b'{"x":0,"requests":[', GOOD + b"]}"),
    "lists": pad(b'"requests":[%b],' % GOOD, b"{", END),
    "fields": pad(b'"x":0,', b"{", END),
    "numbers": pad(b"0,", b'{"x":[', b"0]," + END),
    "objects": pad(b'{"":0},', b'{"x":[', b"0]," + END),
    "numbers in an element": pad(b"0,", b'{"requests":[{"x":[', b'0],"token":"abcd"}]}'),
    "keys of an element": pad(b'"token":"",', b'{"requests":[{', b'"token":""}]}'),
    "a token": pad(b"a", b'{"requests":[{"token":"', b'"}]}'),
    "a token with escapes": pad(b"\\u0130", b'{"requests":[{"token":"', b'"}]}'),
    "a token and a good one": pad(b"a", b'{"requests":[%b,{"token":"' % GOOD, b'"}]}'),
    "a domain": pad("\u0130".encode(), b'{"requests":[{"token":"","domain":"', b'"}]}'),
    "digits": pad(b"1", b'{"x":', b"," + END),
    "digits of a fraction": pad(b"1", b'{"requests":[{"token":0.', b"}]}"),
    "trees": pad(b"[" * 100 + b"]" * 100 + b",", b'{"x":[', b"0]," + END),
    "a name": pad(b"a", b'{"', b'":0,' + END),
    "brackets": pad(b"[", b'{"requests":', b""),
    "braces in a string": pad(b"},{", b'{"requests":[{"token":"', b'"}]}'),
}


@pytest.mark.parametrize("kind", LARGE)
def test_a_large_body_of_another_shape_is_refused_early(service: RunningService, kind: str) -> None:
    answer: Response = service.ask("/decrypt/batch", LARGE[kind])
    assert (answer.status, answer.error) in {(400, "invalid_request"), (400, "invalid_json")}
    assert len(answer.body) < 200


@pytest.mark.parametrize("kind", LARGE)
def test_little_of_it_is_decoded(kind: str) -> None:
    """Bounded by the number of steps: none decodes more than about STEP_BYTES."""
    steps, count = read_batch(LARGE[kind]), 0
    try:
        for _ in steps:
            count += 1
    except NOT_DECODABLE:
        pass
    else:
        pytest.fail("the body was accepted")
    assert count <= 2 * (MAX_BATCH_TOKENS * len(GOOD) // STEP_BYTES + MAX_FIELDS)


def test_a_large_batch_may_have_further_fields_and_long_elements() -> None:
    element = {"token": "a" * 4000, "ext": {"x": [{"y": "},{"}, {}]}, "domain": "example.com"}
    body = json.dumps({"id": {"a": ["b"]}, "requests": [element] * 1000, "x": "z" * 30_000}).encode()
    assert len(body) > 4_000_000
    assert finish(read_batch(body)) == [TokenRequest("a" * 4000, "example.com")] * 1000


@pytest.mark.parametrize("place", range(6))
def test_space_may_be_anywhere(place: int) -> None:
    parts = [b"", b"{", b'"requests":', b"[%b" % GOOD, b"]", b"}", b""]
    parts[place] += b" \n" * 2_000_000
    assert finish(read_batch(b"".join(parts))) == [TokenRequest("abcd")]


@pytest.mark.parametrize("excess", [0, 1])
def test_the_longest_element(excess: int) -> None:
    element = b'{"token":"%b"}' % (b"a" * (STEP_BYTES - len('{"token":""}') + excess))
    read = outcome(b'{"requests":[%b,%b]}' % (GOOD, element), STEP_BYTES)
    assert isinstance(read, str) == bool(excess), read


@pytest.mark.parametrize("excess", [0, 1])
def test_the_most_fields(excess: int) -> None:
    fields = b'"x":%b,' % (b"1" * 1000) * (MAX_FIELDS - 1 + excess)
    read = outcome(b"{" + fields + END, STEP_BYTES)
    assert isinstance(read, str) == bool(excess), read


def test_steps_are_short() -> None:
    body = json.dumps({"requests": [{"token": "a" * 250}] * 1000}).encode()
    steps = read_batch(body)
    assert sum(1 for _ in steps) >= len(body) // STEP_BYTES
    assert max(map(len, finish_parts(read_batch(body)))) < 200


def finish_parts(steps: Generator[None, None, Parts]) -> Parts:
    while True:
        try:
            next(steps)
        except StopIteration as end:
            parts: Parts = end.value
            return parts
