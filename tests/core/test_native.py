"""The native functions give the same results as their Python counterparts; see `make test-compiled`."""

import copy
import importlib
import os
import pickle
import subprocess
import sys
from typing import Any

import pybase64
import pytest
from hypothesis import given
from hypothesis import strategies as st

from bidstream_svc.core.status import FailureReason
from bidstream_svc.core.token import text, v3
from tests.core.assemble import gcm_layer, u32
from tests.core.strategies import anything

native: Any = importlib.import_module("bidstream_svc.core.token.native")

NOW_MS = 1_800_000_000_000
SECRETS = {1: bytes(range(32)), 2: bytes(range(100, 124)), 3: bytes(16)}
MASTER, SITE, UNKNOWN = 1, 2, 9
PREFIX = 0b11
UID2, EUID = 0, 0x10
IV = bytes(range(12))
NATIVE_CIPHERS = {key_id: native.make_gcm_cipher(secret) for key_id, secret in SECRETS.items()}
PLAIN_CIPHERS = {key_id: v3.make_gcm_cipher(secret) for key_id, secret in SECRETS.items()}


def opened(raw: bytes, now_ms: int = NOW_MS, scope_bit: int = UID2) -> object:
    """What both say, if they say the same."""
    plain = v3.open_token(raw, scope_bit, PLAIN_CIPHERS, PLAIN_CIPHERS, now_ms)
    compiled = native.open_token(raw, scope_bit, NATIVE_CIPHERS, NATIVE_CIPHERS, now_ms)
    assert compiled == plain
    assert type(compiled) is type(plain)
    return plain


def decoded(token: str) -> bytes | None:
    """The bytes of a text, if both say the same; None if it is no base64."""
    results: list[bytes | None] = []
    for decode in (text.decode_text, native.decode_text):
        try:
            results.append(decode(token))
        except ValueError:
            results.append(None)
    assert results[0] == results[1]
    return results[0]


def token(
    master_fields: bytes = (NOW_MS + 5).to_bytes(8, "big") + NOW_MS.to_bytes(8, "big") + bytes(13),
    site_layer: bytes = bytes(36) + b"r" * 32,
    master: int = MASTER,
    site: int = SITE,
) -> bytes:
    site_part = gcm_layer(site, SECRETS[site], IV, site_layer)
    return bytes([PREFIX, v3.VERSION]) + gcm_layer(master, SECRETS[master], IV, master_fields + site_part)


def test_the_package_uses_the_native_functions() -> None:
    package = importlib.import_module("bidstream_svc.core.token")
    assert package.open_token is native.open_token
    assert package.decode_text is native.decode_text
    assert importlib.import_module("bidstream_svc.core.keys").make_gcm_cipher is native.make_gcm_cipher


_BASE64_LIKE = st.text("ABab01+/-_=Qgw8", max_size=40)


@given(_BASE64_LIKE | st.text(max_size=40) | st.text(st.characters(categories=None), max_size=12))
def test_any_text(given_text: str) -> None:
    decoded(given_text)


@given(st.binary(max_size=300), st.sampled_from(["standard", "url"]), st.booleans())
def test_every_spelling(raw: bytes, alphabet: str, padded: bool) -> None:  # noqa: FBT001 - drawn
    spelling = pybase64.standard_b64encode(raw) if alphabet == "standard" else pybase64.urlsafe_b64encode(raw)
    assert decoded((spelling if padded else spelling.rstrip(b"=")).decode()) == raw


def test_every_character_in_every_place() -> None:
    for good in ("AAAAAAAA", "AAAAAA", "AAAAAAA", "AAAAAA==", "AAAAAAA=", "-AAAAAAA", "+AAAAAA="):
        for place in range(len(good)):
            for code in range(0x180):
                decoded(good[:place] + chr(code) + good[place + 1 :])


def test_a_subclass_of_str_is_accepted() -> None:
    class Kind(str):
        __slots__ = ()

    assert decoded(Kind("AAAA")) == bytes(3)


@given(anything.filter(lambda value: not isinstance(value, str)))
def test_other_types_are_refused(value: Any) -> None:
    with pytest.raises((TypeError, ValueError)):
        native.decode_text(value)


def test_a_good_token() -> None:
    site_layer = u32(77) + bytes(12) + u32(2) + (5).to_bytes(8, "big") + bytes(8) + b"r" * 33
    uid = pybase64.b64encode(b"r" * 33).decode()
    assert opened(token(site_layer=site_layer)) == (NOW_MS + 5, NOW_MS, 77, 2, 5, uid)


@pytest.mark.parametrize("master", SECRETS)
@pytest.mark.parametrize("site", SECRETS)
def test_keys_of_every_length(master: int, site: int) -> None:
    assert isinstance(opened(token(master=master, site=site)), tuple)


def test_every_length_and_every_changed_bit() -> None:
    good = token()
    for length in range(1, len(good)):
        assert isinstance(opened(good[:length]), FailureReason)
    for place in range(len(good)):
        for bit in range(8):
            opened(good[:place] + bytes([good[place] ^ 1 << bit]) + good[place + 1 :])
    assert isinstance(opened(good), tuple), "what failed before leaves no trace in a cipher"


def test_every_prefix() -> None:
    good = token()
    for prefix in range(256):
        raw = bytes([prefix]) + good[1:]
        assert isinstance(opened(raw), tuple) == (prefix & 0x10 == UID2)
        assert isinstance(opened(raw, scope_bit=EUID), tuple) == (prefix & 0x10 == EUID)


def test_layers_of_every_length() -> None:
    """Sealed with the right key, so that nothing but their lengths is wrong."""
    for length in range(140):
        opened(token(site_layer=bytes(length)))
        opened(bytes([PREFIX, v3.VERSION]) + gcm_layer(MASTER, SECRETS[MASTER], IV, b"\x7f" * length))


@given(st.binary(max_size=200), st.binary(max_size=200), st.integers(-(2**63), 2**63 - 1))
def test_layers_of_any_content(master_layer: bytes, site_layer: bytes, now_ms: int) -> None:
    opened(bytes([PREFIX, v3.VERSION]) + gcm_layer(MASTER, SECRETS[MASTER], IV, master_layer), now_ms)
    opened(token(site_layer=site_layer), now_ms)


@given(st.binary(min_size=1, max_size=400))
def test_any_bytes(raw: bytes) -> None:
    opened(raw)
    opened(bytes([PREFIX, v3.VERSION]) + u32(MASTER) + raw)


@pytest.mark.parametrize("key_id", [0, UNKNOWN, 2**32 - 1])
def test_unknown_keys(key_id: int) -> None:
    good = token()
    assert opened(good[:2] + u32(key_id) + good[6:]) == FailureReason.MASTER_KEY_UNKNOWN
    master_fields = (NOW_MS + 5).to_bytes(8, "big") + bytes(21)
    sealed = gcm_layer(MASTER, SECRETS[MASTER], IV, master_fields + u32(key_id) + bytes(80))
    assert opened(bytes([PREFIX, v3.VERSION]) + sealed) == FailureReason.SITE_KEY_UNKNOWN


def test_a_megabyte() -> None:
    raw_uid = bytes(1 << 20)
    answer = opened(token(site_layer=bytes(36) + raw_uid))
    assert isinstance(answer, tuple)
    assert answer[5] == pybase64.b64encode(raw_uid).decode()
    assert decoded("A" * (4 << 20)) == bytes(3 << 20)


@pytest.mark.parametrize("length", [0, 1, 15, 17, 31, 33, 64])
def test_other_key_lengths_are_refused(length: int) -> None:
    with pytest.raises(ValueError, match="16, 24 or 32"):
        native.make_gcm_cipher(bytes(length))


def test_ciphers_of_another_kind_are_refused() -> None:
    for wrong in (None, object(), PLAIN_CIPHERS[SITE]):
        with pytest.raises(TypeError):
            native.open_token(token(), UID2, {MASTER: wrong}, NATIVE_CIPHERS, NOW_MS)
        with pytest.raises(TypeError):
            native.open_token(token(), UID2, NATIVE_CIPHERS, {SITE: wrong}, NOW_MS)
    for wrong in (None, "text", bytearray(token())):
        with pytest.raises(TypeError):
            native.open_token(wrong, UID2, NATIVE_CIPHERS, NATIVE_CIPHERS, NOW_MS)


def test_a_cipher_cannot_be_copied_or_pickled_and_its_repr_shows_no_key() -> None:
    cipher = NATIVE_CIPHERS[MASTER]
    assert "_GcmCipher object" in repr(cipher)
    assert not [name for name in dir(cipher) if not name.startswith("__")]
    for leave in (pickle.dumps, copy.copy, copy.deepcopy):
        with pytest.raises(TypeError):
            leave(cipher)


# In a process of its own: in this one, what other tests have left in the background may grow.
MAKE_CIPHERS = """
import resource
from bidstream_svc.core.token.native import make_gcm_cipher
for number in range(60_000):
    if number == 20_000:
        before_kb = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    make_gcm_cipher(bytes(32))
print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before_kb)
"""


@pytest.mark.skipif("libasan" in os.environ.get("LD_PRELOAD", ""), reason="the sanitizer keeps what was freed")
def test_a_cipher_ends_with_its_last_reference() -> None:
    grown_kb = subprocess.run([sys.executable, "-c", MAKE_CIPHERS], capture_output=True, text=True, check=True).stdout
    assert int(grown_kb) < 10_000, "forty thousand ciphers take 40 MB"


def test_no_reference_is_kept_or_lost() -> None:
    good, bad = token(), token()[:-1] + b"x"

    def use() -> tuple[int, int]:
        for _ in range(2_000):
            opened(good)
            opened(bad)
            decoded("AAAA====")
        return sys.getrefcount(good), sys.getrefcount(FailureReason.SITE_LAYER)

    assert use() == use()
