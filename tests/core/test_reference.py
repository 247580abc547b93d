"""The real verdict and the reference agree on every input."""

from typing import Any

from hypothesis import given, settings
from hypothesis import strategies as st

from bidstream_svc.core.decrypt import decrypt
from tests.core.reference import reference_verdict
from tests.core.strategies import anything, built_tokens, domains, key_names, layered_tokens, nows_ms
from tests.vectors.inputs import RAW_UID
from tests.vectors.load import key_response, key_snapshot, load, optout_check

VECTOR_TOKENS = [vector["token"] for vector in load("own.json")]
MANY = 300  # a disagreement may hide in a corner; an example takes a millisecond


STORES: tuple[Any, ...] = (
    *(None, "not synced", {}, {"UID2": [RAW_UID]}, {"EUID": [RAW_UID]}),
    {"UID2": ["", "abc"], "EUID": ["abc"]},
)


def _assert_agreement(token: Any, domain: Any, keys: str | None, now_ms: int) -> None:
    response, purpose = key_response(keys)
    for optouts in STORES:
        expected = reference_verdict(token, domain, response, now_ms, purpose=purpose, optouts=optouts)
        assert decrypt(token, domain, key_snapshot(keys), now_ms, optout_check(optouts)) == (
            expected.status,
            expected.uid,
            expected.established_ms,
            expected.reason,
        )


@settings(max_examples=MANY)
@given(built_tokens(), domains, key_names, nows_ms)
def test_on_built_tokens(token: str, domain: object, keys: str | None, now_ms: int) -> None:
    _assert_agreement(token, domain, keys, now_ms)


@settings(max_examples=MANY)
@given(layered_tokens(), domains, key_names, nows_ms)
def test_on_tokens_broken_in_any_layer(token: str, domain: object, keys: str | None, now_ms: int) -> None:
    _assert_agreement(token, domain, keys, now_ms)


@settings(max_examples=MANY)
@given(st.sampled_from(VECTOR_TOKENS), domains, key_names, nows_ms)
def test_on_the_vectors_tokens_at_any_time(token: object, domain: object, keys: str | None, now_ms: int) -> None:
    _assert_agreement(token, domain, keys, now_ms)


@settings(max_examples=MANY)
@given(anything | st.text("AaBcgQ23/+-_=\u00e9 ", max_size=12), domains, key_names, nows_ms)
def test_on_anything(token: object, domain: object, keys: str | None, now_ms: int) -> None:
    _assert_agreement(token, domain, keys, now_ms)
