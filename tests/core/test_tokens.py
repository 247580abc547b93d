"""Tokens: what is built parses back, every field has its place, and changed tokens fail."""

import json
import string
from base64 import b64decode
from collections.abc import Iterator
from dataclasses import replace

import pytest
from cryptography.hazmat.primitives.ciphers import Cipher
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from cryptography.hazmat.primitives.ciphers.algorithms import AES
from cryptography.hazmat.primitives.ciphers.modes import CBC
from hypothesis import given
from hypothesis import strategies as st

from bidstream_svc.core.decrypt import Verdict, decrypt
from bidstream_svc.core.identity import IdentityScope
from bidstream_svc.core.key_response import parse_key_response
from bidstream_svc.core.keys import KeyPurpose, KeySnapshot
from bidstream_svc.core.status import DecryptionStatus, FailureReason
from bidstream_svc.core.token import BUILDERS, TokenContent
from bidstream_svc.core.token.text import is_padded_standard
from bidstream_svc.core.token.v2 import parse_site_layer
from tests.core.assemble import spellings, standard, url_safe
from tests.core.reference import Refused, decode_text
from tests.core.strategies import anything, contents, domains, mutated, raw_uids, spelled, token_key
from tests.vectors.inputs import CBC_IVS, DEFAULTS, GCM_IVS, MASTER, NOW_MS, RAW_UID, SECRETS, SITE
from tests.vectors.load import key_response, key_snapshot

DIGITS = string.ascii_letters + string.digits + "+/-_="
VERSIONS = pytest.mark.parametrize("version", [2, 3, 4])
AUTHENTICATED_VERSIONS = pytest.mark.parametrize("version", [3, 4])
# The bits of the first byte that decide nothing. They are not authenticated.
FREE_BITS = 0b1110_1111
PREFIX_OF_V2 = 2
OPTED_OUT = 4


def _build(version: int, content: TokenContent) -> str:
    return BUILDERS[version](content, token_key(version, MASTER, 0), token_key(version, SITE, 1))


def _bytes(token: str) -> bytes:
    return b64decode(token.replace("-", "+").replace("_", "/") + "==")


def _verdict(token: object, domain: object = "example.com") -> Verdict:
    return _checked(decrypt(token, domain, key_snapshot("uid2"), NOW_MS))


def _checked(verdict: Verdict) -> Verdict:
    """A verdict, whatever the status, has this shape."""
    status, uid, established_ms, reason = verdict
    if reason is None:
        assert status is DecryptionStatus.SUCCESS
        assert isinstance(uid, str)
        assert isinstance(established_ms, int)
    else:
        assert isinstance(reason, FailureReason)
        assert status is reason.status
        assert uid is None
        assert established_ms is None
    return verdict


def _without_limits(scope: IdentityScope) -> KeySnapshot:
    """Keys under which, at time 0, nothing but a negative expiry is wrong with a token of that scope."""
    response = {"body": {"keys": _KEYS, "identity_scope": scope.name, "allow_clock_skew_seconds": 2**61}}
    return parse_key_response(json.dumps(response), KeyPurpose.SHARING)


_KEYS = key_response("uid2")[0]["body"]["keys"]
WITHOUT_LIMITS = {scope: _without_limits(scope) for scope in IdentityScope}

# --- built tokens


@VERSIONS
@given(content=contents(), expires_ms=st.integers(0, 2**63 - 1))
def test_round_trip(version: int, content: TokenContent, expires_ms: int) -> None:
    content = replace(content, expires_ms=expires_ms)
    token = _build(version, content)
    verdict = _checked(decrypt(token, None, WITHOUT_LIMITS[content.scope], 0))
    if content.privacy_bits & OPTED_OUT:
        assert verdict == (DecryptionStatus.USER_OPTED_OUT, None, None, FailureReason.OPTED_OUT_AT_GENERATION)
    else:
        assert verdict == (DecryptionStatus.SUCCESS, content.raw_uid, content.established_ms, None)


@AUTHENTICATED_VERSIONS
@given(content=contents())
def test_v3_and_v4_fields_lie_where_the_protocol_puts_them(version: int, content: TokenContent) -> None:
    raw = _bytes(_build(version, content))
    assert raw[0] == content.scope << 4 | content.identity_type << 2 | 3
    assert raw[1] == {3: 112, 4: 128}[version]
    assert raw[2:6] == MASTER.to_bytes(4, "big")
    assert raw[6:18] == GCM_IVS[0]
    master = AESGCM(SECRETS[MASTER]).decrypt(raw[6:18], raw[18:], None)
    assert _signed(master[0:8]) == content.expires_ms
    assert _signed(master[8:16]) == content.generated_ms
    assert _unsigned(master[16:20]) == content.operator_site_id
    assert master[20] == content.operator_type
    assert _unsigned(master[21:25]) == content.operator_version
    assert _unsigned(master[25:29]) == content.operator_key_id
    assert _unsigned(master[29:33]) == SITE
    assert master[33:45] == GCM_IVS[1]
    site = AESGCM(SECRETS[SITE]).decrypt(master[33:45], master[45:], None)
    assert _unsigned(site[0:4]) == content.site_id
    assert _unsigned(site[4:12]) == content.publisher_id
    assert _unsigned(site[12:16]) == content.client_key_id
    assert _unsigned(site[16:20]) == content.privacy_bits
    assert _signed(site[20:28]) == content.established_ms
    assert _signed(site[28:36]) == content.refreshed_ms
    assert standard(site[36:]) == content.raw_uid


@given(content=contents())
def test_v2_fields_lie_where_the_protocol_puts_them(content: TokenContent) -> None:
    raw = _bytes(_build(2, content))
    assert raw[:5] == b"\x02" + MASTER.to_bytes(4, "big")
    assert raw[5:21] == CBC_IVS[0]
    master = _open_cbc(SECRETS[MASTER], raw[5:21], raw[21:])
    assert _signed(master[0:8]) == content.expires_ms
    assert _unsigned(master[8:12]) == SITE
    assert master[12:28] == CBC_IVS[1]
    site = _open_cbc(SECRETS[SITE], master[12:28], master[28:-4])
    assert _unsigned(site[0:4]) == content.site_id
    assert _unsigned(site[4:8]) == 44
    assert site[8:52].decode() == content.raw_uid
    assert _unsigned(site[52:56]) == content.privacy_bits
    assert _signed(site[56:64]) == content.established_ms
    assert master[-4:] == b"\4" * 4
    assert site[64:] == b"\x10" * 16


def _unsigned(data: bytes) -> int:
    return int.from_bytes(data, "big")


def _signed(data: bytes) -> int:
    return int.from_bytes(data, "big", signed=True)


def _open_cbc(secret: bytes, iv: bytes, ciphertext: bytes) -> bytes:
    decryptor = Cipher(AES(secret), CBC(iv)).decryptor()
    return decryptor.update(ciphertext) + decryptor.finalize()


@VERSIONS
def test_build_refuses_an_iv_of_another_length(version: int) -> None:
    good, right_length = [token_key(version, MASTER, 0), token_key(version, SITE, 1)], 16 if version == 2 else 12
    for layer in (0, 1):
        for length in {0, 11, 12, 13, 15, 16, 17} - {right_length}:
            keys = good.copy()
            keys[layer] = keys[layer]._replace(iv=bytes(length))
            with pytest.raises(ValueError, match=rf"not {right_length} bytes"):
                BUILDERS[version](DEFAULTS, keys[0], keys[1])


@AUTHENTICATED_VERSIONS
def test_build_refuses_a_raw_uid_that_is_not_base64(version: int) -> None:
    with pytest.raises(ValueError, match="base64"):
        _build(version, replace(DEFAULTS, raw_uid="no base64!"))


def test_versions_3_and_4_differ_in_one_byte_and_in_spelling() -> None:
    keys = token_key(3, MASTER, 0), token_key(3, SITE, 1)
    v3, v4 = BUILDERS[3](DEFAULTS, *keys), BUILDERS[4](DEFAULTS, *keys)
    assert v3 == standard(_bytes(v3))
    assert v4 == url_safe(_bytes(v4))
    assert [i for i, (a, b) in enumerate(zip(_bytes(v3), _bytes(v4), strict=True)) if a != b] == [1]


def test_every_prefix_and_every_version_byte() -> None:
    raw = _bytes(_build(4, DEFAULTS))
    for prefix in range(256):
        for version in range(256):
            token = standard(bytes([prefix, version]) + raw[2:])
            for keys, scope in (("uid2", IdentityScope.UID2), ("euid", IdentityScope.EUID)):
                reason = decrypt(token, None, key_snapshot(keys), NOW_MS)[3]
                if prefix == PREFIX_OF_V2:
                    assert reason in {FailureReason.MASTER_KEY_UNKNOWN, FailureReason.MASTER_LAYER}
                elif version not in {112, 128}:
                    assert reason is FailureReason.VERSION_UNKNOWN
                else:
                    assert reason is (None if prefix >> 4 & 1 == scope else FailureReason.IDENTITY_SCOPE)


def test_a_client_side_token_of_a_user_who_has_opted_out_needs_its_domain_first() -> None:
    # So a bidder for another domain learns nothing about the person.
    token = _build(4, replace(DEFAULTS, privacy_bits=7))
    assert _verdict(token, "example.org")[3] is FailureReason.DOMAIN_NOT_LISTED
    assert _verdict(token, "example.com")[0] is DecryptionStatus.USER_OPTED_OUT


def test_reprs_hold_no_secret_and_no_uid() -> None:
    key = token_key(2, MASTER, 0)
    assert repr(key) == "TokenKey(key_id=101)"
    assert RAW_UID not in f"{DEFAULTS!r} {DEFAULTS}"


def test_site_layer_of_v2() -> None:
    plaintext = b"\0\0\0\x0a" + b"\0\0\0\x03" + b"abc" + b"\0\0\0\x02" + NOW_MS.to_bytes(8, "big")
    assert parse_site_layer(plaintext) == (10, "abc", 2, NOW_MS)
    for length in range(len(plaintext)):
        with pytest.raises(ValueError, match=r"too short|does not match"):
            parse_site_layer(plaintext[:length])


# --- changed tokens


def _changed_bytes(raw: bytes) -> Iterator[bytes]:
    for position in range(len(raw)):
        for bit in range(8):
            yield raw[:position] + bytes([raw[position] ^ 1 << bit]) + raw[position + 1 :]
    for length in range(len(raw)):
        yield raw[:length]
    for extra in (b"\0", b"\xff", bytes(15), bytes(16), bytes(32), raw):
        yield raw + extra
        yield extra + raw


def _changed_texts(token: str) -> Iterator[str]:
    for position, old in enumerate(token):
        for new in set(DIGITS) - {old}:
            yield token[:position] + new + token[position + 1 :]
        yield token[:position] + token[position + 1 :]
        yield token[:position] + old + token[position:]


def _opens_to_the_same(token: str, original: str) -> bool:
    """Whether only what is not authenticated was changed: free bits, v3 made v4 or back, the spelling."""
    raw, original_raw = decode_text(token), _bytes(original)
    same_prefix = raw[0] != PREFIX_OF_V2 and raw[0] | FREE_BITS == original_raw[0] | FREE_BITS
    return same_prefix and {raw[1], original_raw[1]} <= {112, 128} and raw[2:] == original_raw[2:]


@AUTHENTICATED_VERSIONS
def test_no_changed_byte_passes(version: int) -> None:
    original = _build(version, DEFAULTS)
    passed = 0
    for raw in _changed_bytes(_bytes(original)):
        for token in spellings(raw).values():
            if _verdict(token)[0] is DecryptionStatus.SUCCESS:
                assert _opens_to_the_same(token, original)
                passed += 1
    assert passed == 6 * (1 if version == 3 else 4), "each free bit in each spelling, but not 0: 2 is v2"


@AUTHENTICATED_VERSIONS
def test_no_changed_character_passes(version: int) -> None:
    original = _build(version, DEFAULTS)
    for token in _changed_texts(original):
        if _verdict(token)[0] is DecryptionStatus.SUCCESS:
            assert _opens_to_the_same(token, original)


@AUTHENTICATED_VERSIONS
@given(data=st.data(), content=contents(st.just(NOW_MS)))
def test_nothing_changed_passes_whatever_the_content(version: int, data: st.DataObject, content: TokenContent) -> None:
    original = _build(version, content)
    token = data.draw(mutated(_bytes(original)).flatmap(spelled))
    verdict = _checked(decrypt(token, "example.com", WITHOUT_LIMITS[content.scope], 0))
    if verdict[0] is DecryptionStatus.SUCCESS:
        assert _opens_to_the_same(token, original)


def test_a_changed_v2_token_gives_a_verdict() -> None:
    # v2 is not authenticated: a changed iv may still give SUCCESS. Structure is all that can be checked.
    original = _build(2, DEFAULTS)
    for raw in _changed_bytes(_bytes(original)):
        _verdict(standard(raw))
    for token in _changed_texts(original):
        _verdict(token)


@given(data=st.data(), content=contents())
def test_a_changed_v2_token_gives_a_verdict_whatever_the_content(data: st.DataObject, content: TokenContent) -> None:
    raw = data.draw(mutated(_bytes(_build(2, content))))
    _checked(decrypt(standard(raw), "example.com", WITHOUT_LIMITS[IdentityScope.UID2], 0))


@given(anything, domains)
def test_anything_gives_a_verdict(token: object, domain: object) -> None:
    assert _verdict(token, domain)[0] is not DecryptionStatus.SUCCESS


@given(domains, raw_uids)
def test_any_domain_gives_a_verdict(domain: object, raw_uid: str) -> None:
    token = _build(4, replace(DEFAULTS, privacy_bits=2, raw_uid=raw_uid))
    _verdict(token, domain)


# --- text


BEGINNING_OF_V4 = b"\x13\x80\x00"  # three bytes are four characters: what follows is spelled alone


@given(st.binary())
def test_text_of_v4_has_four_spellings(end: bytes) -> None:
    for token in spellings(BEGINNING_OF_V4 + end).values():
        assert _verdict(token)[3] is not FailureReason.BAD_ENCODING


@given(st.text(DIGITS, max_size=12))
def test_text_of_v4_has_no_fifth_spelling(end: str) -> None:
    token = standard(BEGINNING_OF_V4) + end
    try:
        decode_text(token)
    except Refused:
        assert _verdict(token)[3] is FailureReason.BAD_ENCODING
    else:
        assert _verdict(token)[3] is not FailureReason.BAD_ENCODING


def test_only_padded_standard_base64_is_taken_for_v2_and_v3() -> None:
    assert all(is_padded_standard(text) for text in ("AAAA", "A+/A", "AA==", "AAA="))
    assert not any(is_padded_standard(text) for text in ("A-AA", "A_AA", "AA", "AAA"))


@pytest.mark.parametrize("length", [0, 1, 256, 257, 5000])
def test_an_id_of_v2_may_have_any_length(length: int) -> None:
    assert _verdict(_build(2, replace(DEFAULTS, raw_uid="x" * length)))[1] == "x" * length
