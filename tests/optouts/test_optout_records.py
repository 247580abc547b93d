"""Raw uids as text."""

import base64
from collections.abc import Callable

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bidstream_svc.core.errors import OptOutRecordError
from bidstream_svc.optouts.optout_records import decode_raw_id


@given(st.binary(min_size=32, max_size=33), st.sampled_from((base64.b64encode, base64.urlsafe_b64encode)))
def test_either_alphabet_with_or_without_padding(raw_id: bytes, encode: Callable[[bytes], bytes]) -> None:
    text = encode(raw_id).decode()
    for padded in (text, text.rstrip("="), text.rstrip("=") + "=" * 4):
        assert decode_raw_id(padded) == raw_id


@given(st.one_of(st.text(max_size=60), st.binary(max_size=40).map(lambda raw: base64.b64encode(raw).decode())))
def test_anything_else_is_refused(text: str) -> None:
    try:
        raw_id = decode_raw_id(text)
    except OptOutRecordError:
        return
    assert (
        base64.urlsafe_b64encode(raw_id).rstrip(b"=") == text.rstrip("=").replace("+", "-").replace("/", "_").encode()
    )
    assert len(raw_id) in {32, 33}


@pytest.mark.parametrize(
    "text", ["", "\n" + "A" * 44, "A" * 43 + "\xe9", "A" * 44 + "\n", "A" * 45, "A" * 44 + "=" * 5]
)
def test_what_surrounds_a_raw_uid_is_not_ignored(text: str) -> None:
    with pytest.raises(OptOutRecordError):
        decode_raw_id(text)
