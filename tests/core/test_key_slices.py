"""A key response read in slices is the response read as a whole."""

import gc
import json
import weakref
from collections.abc import Generator
from dataclasses import astuple
from typing import Any, TypeVar
from unittest.mock import patch

import msgspec
import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from bidstream_svc.core import key_response, key_slices
from bidstream_svc.core.decrypt import decrypt
from bidstream_svc.core.errors import KeyResponseError
from bidstream_svc.core.key_response import parse_in_steps, parse_key_response
from bidstream_svc.core.key_slices import slice_lists
from bidstream_svc.core.keys import KeyPurpose, free_in_steps

_T = TypeVar("_T")
KEY = {"id": 7, "secret": "A" * 43 + "=", "expires": 4_000_000_000}
MANY = {
    "keys": [KEY | {"id": number} for number in range(2_000)],
    "site_data": [{"id": number, "domain_names": [f"{number}.example"]} for number in range(2_000)],
}

_texts = st.sampled_from(["a.example", "}", "},", "}]", '"}],', "\\", "é", '"keys":[{', '["keys in slices"]'])
_json = st.recursive(
    st.none() | st.integers(-3, 3) | st.booleans() | _texts,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(_texts | st.just("keys"), inner, max_size=3),
    max_leaves=6,
)
_ids = st.integers(1, 9) | _json
_good_keys = st.builds(lambda key_id: KEY | {"id": key_id}, _ids)
_keys = _good_keys | st.fixed_dictionaries({"id": _ids, "x": _json}) | _json
_sites = st.fixed_dictionaries({"id": _ids, "domain_names": st.lists(_texts | _json, max_size=4) | _json}) | _json
_fields = st.one_of(
    st.tuples(st.just("keys"), st.lists(_good_keys, max_size=5)),
    st.tuples(st.just("keys"), st.lists(_keys, max_size=5) | _json),
    st.tuples(st.just("site_data"), st.lists(_sites, max_size=5) | _json),
    st.tuples(st.sampled_from(["other", "identity_scope", "max_bidstream_lifetime_seconds", "body"]), _json),
)


@st.composite
def responses(draw: st.DrawFn) -> bytes:
    """Draw a response whose fields may be missing, repeated or malformed, in any order, perhaps damaged."""
    separators = draw(st.sampled_from([(",", ":"), (", ", ": "), (" ,", " :"), (",\n  ", ":\t")]))
    is_ascii = draw(st.booleans())

    def dump(value: object) -> str:
        return json.dumps(value, separators=separators, ensure_ascii=is_ascii)

    def fields(drawn: list[tuple[str, Any]]) -> str:  # not by a dictionary: names may be repeated
        return "{" + separators[0].join(dump(name) + separators[1] + dump(value) for name, value in drawn) + "}"

    body = fields(draw(st.lists(_fields, max_size=6)))
    around = draw(st.lists(_fields, max_size=1))
    text = (fields(around)[:-1] + ("," if around else "") + '"body":' + body + "}").encode()
    if draw(st.integers(0, 3)) == 0:
        place = draw(st.integers(0, len(text)))
        damage = draw(st.sampled_from([b"", b"}", b"]", b",", b'"', b"\\ud800", b"\xff", b" "]))
        text = text[:place] + damage + text[place + draw(st.integers(0, 2)) :]
    return text


def _as_a_whole(_response: bytes) -> Generator[None, None, None]:
    yield from ()


def _outcome(response: bytes, purpose: KeyPurpose) -> object:
    try:
        keys = parse_key_response(response, purpose)
    except KeyResponseError as error:
        return str(error)
    fields = {name: getattr(keys, name) for name in ("scope", "max_lifetime_ms", "clock_skew_ms", "last_expiry_ms")}
    skipped = astuple(keys.skipped_keys), astuple(keys.skipped_sites)
    return list(keys.keys.items()), list(keys.sites.items()), fields, skipped


def _marked_wrongly(keys: object) -> bytes:
    """Return a response with a list that is not the one of the body."""
    return json.dumps({"keys": [KEY], "body": {"keys": keys}}).encode()


@example(_marked_wrongly([]), KeyPurpose.BIDSTREAM, 300)
@example(_marked_wrongly(["keys in slices"]), KeyPurpose.BIDSTREAM, 300)
@example(_marked_wrongly([KEY | {"id": 8}]), KeyPurpose.BIDSTREAM, 300)
@given(responses(), st.sampled_from(KeyPurpose), st.sampled_from([30, 90, 150, 300, 32 * 1024]))
def test_slices_make_no_difference(response: bytes, purpose: KeyPurpose, slice_bytes: int) -> None:
    with patch.object(key_response, "slice_lists", _as_a_whole):
        expected = _outcome(response, purpose)
    with patch.object(key_slices, "_SLICE_BYTES", slice_bytes):
        assert _outcome(response, purpose) == expected


@pytest.mark.parametrize("separators", [(",", ":"), (", ", ": ")])
@pytest.mark.parametrize("names", [("keys", "site_data"), ("site_data", "keys")])
def test_the_usual_response_is_read_in_slices(separators: tuple[str, str], names: tuple[str, str]) -> None:
    body = {"caller_site_id": 1, **{name: MANY[name] for name in names}, "identity_scope": "UID2"}
    response = json.dumps({"body": body, "status": "success"}, separators=separators).encode()
    sliced, pauses = _run(slice_lists(response))
    assert sliced is not None
    assert len(sliced.json) < 200
    for name in names:
        slices = sliced.lists[name]
        assert len(slices) > 2
        assert [msgspec.json.decode(raw) for each in slices for raw in each] == MANY[name]
    assert pauses > 4


def test_a_replaced_snapshot_is_freed_in_steps_and_without_the_garbage_collector() -> None:
    response = json.dumps({"body": MANY}).encode()
    held = parse_key_response(response)
    decrypt("no token", None, held, 0)  # derives something that refers to the snapshot
    for number in range(2_000):
        assert held.master_gcm_ciphers[number] is not None
        assert held.domain_names[number]
    new, _ = _run(parse_in_steps(response, previous=held))
    freed = weakref.ref(held.domain_names)
    gc.disable()
    try:
        steps = free_in_steps(held)
        del held
        assert len(list(steps)) > 4 * 2_000 / 1_000
        assert freed() is None
    finally:
        gc.enable()
    assert len(new.domain_names) == len(new.reused_gcm_ciphers) == 2_000
    assert list(free_in_steps(None)) == []


def _run(steps: Generator[None, None, _T]) -> tuple[_T, int]:
    """Return the result of a generator, and how often it paused."""
    pauses = 0
    while True:
        try:
            next(steps)
        except StopIteration as end:
            return end.value, pauses
        pauses += 1
