"""Hypothesis strategies for tokens: valid ones, broken ones, and arbitrary text."""

from base64 import b64encode
from typing import Any, TypeVar

from hypothesis import strategies as st

from bidstream_svc.core.identity import IdentityScope, IdentityType
from bidstream_svc.core.token import BUILDERS, TokenContent, TokenKey
from tests.core.assemble import gcm_layer, pkcs7, spellings, u32, v2_layer
from tests.vectors.inputs import (
    CBC_IVS,
    CLOCK_SKEW_MS,
    DEFAULT_CLOCK_SKEW_MS,
    GCM_IVS,
    HOUR_MS,
    KEY_RESPONSES,
    MASTER,
    MAX_LIFETIME_MS,
    NOW_MS,
    SECRETS,
    SITE,
    UNKNOWN,
)

_Drawn = TypeVar("_Drawn")


def _mostly(usual: st.SearchStrategy[_Drawn], rare: st.SearchStrategy[_Drawn]) -> st.SearchStrategy[_Drawn]:
    """Draw the rare one time in eight, so that most tokens get far enough to meet the later checks."""
    return st.integers(0, 7).flatmap(lambda number: rare if number == 7 else usual)


_u32s = st.integers(0, 2**32 - 1)
_i64s = st.integers(-(2**63), 2**63 - 1)
# Moments on, before and behind each boundary of the verdict.
_moments_ms = st.builds(
    lambda base, step: base + step,
    st.sampled_from(
        [0, HOUR_MS, MAX_LIFETIME_MS, CLOCK_SKEW_MS, DEFAULT_CLOCK_SKEW_MS, -HOUR_MS, MAX_LIFETIME_MS - HOUR_MS]
    ),
    st.integers(-1, 1),
).map(lambda offset: NOW_MS + offset)
_times_ms = _mostly(_moments_ms, _i64s)
nows_ms = _mostly(st.sampled_from([NOW_MS, NOW_MS, NOW_MS - 1, NOW_MS + 1]), st.integers(0, 2**62))
_privacy_bits = _mostly(st.sampled_from([0, 0, 1, 2, 2, 3, 4, 6, 7, 0x40000000]), _u32s)
_site_ids = _mostly(st.sampled_from([10, 10, 10, 11, 12, 13, 77]), st.sampled_from([0, 2**32 - 1]) | _u32s)
_key_ids = _mostly(st.sampled_from([SITE, MASTER]), st.sampled_from(sorted(SECRETS)) | _u32s)
raw_uids = st.binary(min_size=32, max_size=33).map(lambda raw: b64encode(raw).decode())

key_names = st.sampled_from(["uid2"] * len(KEY_RESPONSES) + [*KEY_RESPONSES, None])

_listed = ["example.com", "EXAMPLE.com.", "www.example.co.uk", "com.acme.shooter", "192.0.2.7", "a.shop.example.net"]
_listed += ["www.b\u00fccher.de", "XN--BCHER-KVA.de", "xn--strae-oqa.de", "STRA\u1e9eE.de"]
anything: st.SearchStrategy[Any] = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.binary() | st.text(st.characters(categories=None)),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=3), inner, max_size=3),
    max_leaves=4,
)
domains = (
    st.sampled_from([None, *_listed, "example.org", "co.uk", ""])
    | st.builds(
        ".".join,
        st.lists(
            st.sampled_from(["a", "www", "example", "com", "co", "uk", "", "É", "bücher", "xn--bcher-kva", "de"]),
            max_size=5,
        ),
    )
    | anything
)


def contents(times_ms: st.SearchStrategy[int] = _times_ms) -> st.SearchStrategy[TokenContent]:
    return st.builds(
        TokenContent,
        raw_uid=raw_uids,
        site_id=_site_ids,
        expires_ms=times_ms,
        established_ms=_i64s,
        generated_ms=times_ms,
        refreshed_ms=_i64s,
        privacy_bits=_privacy_bits,
        scope=st.sampled_from(IdentityScope),
        identity_type=st.sampled_from(IdentityType),
        publisher_id=st.integers(0, 2**64 - 1),
        client_key_id=_u32s,
        operator_site_id=_u32s,
        operator_type=st.integers(0, 255),
        operator_version=_u32s,
        operator_key_id=_u32s,
    )


def _secret_of(key_id: int) -> bytes:
    return SECRETS.get(key_id, SECRETS[UNKNOWN])


def token_key(version: int, key_id: int, layer: int) -> TokenKey:
    return TokenKey(key_id, _secret_of(key_id), (CBC_IVS if version == 2 else GCM_IVS)[layer])


@st.composite
def built_tokens(draw: st.DrawFn) -> str:
    """A token of one of our builders: any version, any content, keys that are known or not."""
    version = draw(st.sampled_from(sorted(BUILDERS)))
    master, site = draw(_key_ids), draw(_key_ids)
    return BUILDERS[version](draw(contents()), token_key(version, master, 0), token_key(version, site, 1))


@st.composite
def mutated(draw: st.DrawFn, raw: bytes) -> bytes:
    """The bytes cut, lengthened or with one bit flipped: never what they were."""
    match draw(st.sampled_from(["cut", "lengthen", "flip"])):
        case "cut":
            return raw[: draw(st.integers(0, len(raw) - 1))]
        case "lengthen":
            return raw + draw(st.binary(min_size=1, max_size=40))
        case _:
            position, bit = draw(st.integers(0, len(raw) - 1)), draw(st.integers(0, 7))
            return raw[:position] + bytes([raw[position] ^ 1 << bit]) + raw[position + 1 :]


@st.composite
def _perhaps_mutated(draw: st.DrawFn, raw: bytes) -> bytes:
    return draw(mutated(raw)) if raw and draw(st.integers(0, 7)) == 0 else raw


def spelled(raw: bytes) -> st.SearchStrategy[str]:
    texts = spellings(raw)
    return _mostly(st.just(texts["standard"]), st.sampled_from(list(texts.values())))


@st.composite
def layered_tokens(draw: st.DrawFn) -> str:
    """A token sealed by hand, in which any layer may be broken before the next is put around it."""
    version = draw(_mostly(st.sampled_from([2, 112, 128]), st.integers(0, 255)))
    site = draw(_perhaps_mutated(_site_plaintext(draw, version)))
    site_key = draw(_key_ids)
    expires = draw(_times_ms).to_bytes(8, "big", signed=True)
    if version == 2:
        sealed = v2_layer(site_key, _secret_of(site_key), CBC_IVS[1], _padded(draw, site))
        master = _padded(draw, draw(_perhaps_mutated(expires + sealed)))
        raw = b"\x02" + v2_layer(MASTER, SECRETS[MASTER], CBC_IVS[0], master)
    else:
        sealed = gcm_layer(site_key, _secret_of(site_key), GCM_IVS[1], site)
        generated = draw(_times_ms).to_bytes(8, "big", signed=True)
        master = draw(_perhaps_mutated(expires + generated + bytes(13) + sealed))
        prefix = draw(_mostly(st.sampled_from([3, 7]), st.integers(0, 255)))
        raw = bytes([prefix, version]) + gcm_layer(MASTER, SECRETS[MASTER], GCM_IVS[0], master)
    return draw(spelled(draw(_perhaps_mutated(raw))))


def _site_plaintext(draw: st.DrawFn, version: int) -> bytes:
    site_id, bits = u32(draw(_site_ids)), u32(draw(_privacy_bits))
    established = draw(_i64s).to_bytes(8, "big", signed=True)
    if version == 2:
        uid = draw(st.binary(max_size=50) | st.text(max_size=20).map(str.encode))
        return site_id + u32(len(uid)) + uid + bits + established
    return site_id + bytes(12) + bits + established + bytes(8) + draw(st.binary(min_size=31, max_size=35))


def _padded(draw: st.DrawFn, plaintext: bytes) -> bytes:
    """Padded as PKCS#7 says, or at times with some other last byte."""
    padded = pkcs7(plaintext)
    last = draw(_mostly(st.none(), st.sampled_from([0, 1, 15, 16, 17, 255])))
    return padded if last is None else padded[:-1] + bytes([last])
