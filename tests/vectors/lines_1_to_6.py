"""Vectors for missing keys, text, version, scope and master key."""

from base64 import b64decode
from typing import Any

from bidstream_svc.core.identity import IdentityScope, IdentityType
from tests.core.assemble import spellings, standard, u32, url_safe
from tests.vectors.inputs import (
    EXPIRED_MASTER,
    EXPIRED_SITE,
    MASTER,
    MASTER_LIKE_V3,
    MASTER_LIKE_V4,
    NOW_MS,
    UNKNOWN,
    Made,
    build,
    by_hand,
)
from tests.vectors.record import failure, success

_V4_DIGITS = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_"
_GOOD = {version: build(version) for version in (2, 3, 4)}


def _raw(made: Made) -> bytes:
    padding = "=" * (-len(made.token) % 4)
    return b64decode(made.token.replace("-", "+").replace("_", "/") + padding)


_RAW = {version: _raw(made) for version, made in _GOOD.items()}


def vectors() -> list[dict[str, Any]]:
    return [*_keys(), *_text(), *_spellings(), *_versions(), *_short(), *_scope(), *_master_key()]


def _keys() -> list[dict[str, Any]]:
    good, junk = _GOOD[4], by_hand("not a token", "text that is wrong too")
    return [
        failure(1, "no keys were loaded", good, "no_keys", keys=None),
        failure(1, "no keys comes before a bad text", by_hand(None, "no text at all"), "no_keys", keys=None),
        failure(2, "the key set is empty", good, "keys_expired", keys="no keys"),
        failure(2, "the last key expires now", good, "keys_expired", keys="all expire now"),
        failure(2, "expired keys come before a bad text", junk, "keys_expired", keys="all expire now"),
        success(2, "the last key expires in 1 ms", good, keys="all expire now", now_ms=NOW_MS - 1),
        success(2, "an unrelated key is left, the token's own have expired", good, keys="unrelated key left"),
        success(2, "keys past their own expiry open tokens", build(4, EXPIRED_MASTER, EXPIRED_SITE)),
        success(2, "keys past their own expiry open v2 tokens", build(2, EXPIRED_MASTER, EXPIRED_SITE)),
    ]


def _text() -> list[dict[str, Any]]:
    no_text: dict[str, Any] = {"null": None, "a number": 1234, "a list": ["AgAA"], "an object": {}, "true": True}
    short = {"empty": "", "1 character": "A", "3 characters": "A4A"}
    good = _GOOD[4].token
    strange = {
        "5 characters": "AAAAA",
        "1 character more than whole groups": good[: len(good) // 4 * 4 + 1],
        "only padding": "====",
        "3 characters of padding": "A===",
        "padding in the middle": "AA==" + standard(_RAW[4]),
        "padding that is not needed": "AAAA====",
        "half of the padding": url_safe(_RAW[4][:-1]) + "=",
        "a space at the end": good + " ",
        "a newline at the end": good + "\n",
        "a newline in the middle": good[:76] + "\r\n" + good[76:],
        "a space at the start": " " + good,
        "an asterisk": "*" + good[1:],
        "a letter outside ASCII": "\u00e9" + good[1:],
        "digits outside ASCII": "\u0661\u0662\u0663\u0664" + good,
        "a lone surrogate": "\ud800" + good[1:],
        "a null character": "\0" + good[1:],
        "percent-encoded": standard(_RAW[3]).replace("+", "%2B").replace("/", "%2F").replace("=", "%3D"),
    }
    return [
        *(failure(3, f"no text: {name}", by_hand(t, name), "not_a_token") for name, t in no_text.items()),
        *(failure(3, f"too short: {name}", by_hand(t, name), "not_a_token") for name, t in short.items()),
        *(failure(3, f"no base64: {name}", by_hand(t, name), "bad_encoding") for name, t in strange.items()),
    ]


def _with_unused_bit(text: str) -> str:
    last = text.rstrip("=")[-1]
    changed = _V4_DIGITS[_V4_DIGITS.index(last) + 1]
    return text.rstrip("=")[:-1] + changed + "=" * text.count("=")


def _spellings() -> list[dict[str, Any]]:
    out = []
    for version in (2, 3, 4):
        for name, text in spellings(_RAW[version]).items():
            made = by_hand(text, f"bytes of build_v{version} with defaults in {name} base64")
            if version == 4 or name == "standard":
                out.append(success(3, f"v{version} in {name}", made))
            else:
                out.append(failure(3, f"v{version} in {name}", made, "bad_encoding"))
    mixed = _GOOD[4].token.replace("-", "+", 1)
    for text, name in ((mixed, "v4 in both alphabets"), (mixed + "=" * (-len(mixed) % 4), "the same, padded")):
        out.append(failure(3, name, by_hand(text, "the first - is now +"), "bad_encoding"))
    # By the number of unused bits: 32 bytes of raw uid leave four of them, 33 leave two.
    short_uid = _raw(build(4, raw_uid=standard(bytes(range(32)))))
    for raw, bits in ((_RAW[4], "two"), (short_uid, "four")):
        for spelling, text in spellings(raw).items():
            made = by_hand(_with_unused_bit(text), "one up from the right last character")
            out.append(failure(3, f"v4 in {spelling}, lowest of {bits} unused bits set", made, "bad_encoding"))
    made = by_hand(_with_unused_bit(_GOOD[3].token), "one up from the right last character")
    out.append(failure(3, "v3, lowest unused bit set", made, "bad_encoding"))
    expired = by_hand(url_safe(_raw(build(2, expires_ms=NOW_MS - 1))), "an expired v2 token in base64url")
    out.append(failure(3, "a bad spelling comes before the expiry", expired, "bad_encoding"))
    return out


def _versions() -> list[dict[str, Any]]:
    out = []
    for version in (0, 2, 111, 113, 127, 129, 255):
        raw = b"\x03" + bytes([version]) + _RAW[4][2:]
        made = by_hand(standard(raw), f"build_v4 with {version} for its version")
        out.append(failure(4, f"version byte {version}", made, "version_unknown"))
    url = by_hand(url_safe(b"\x03\x81" + _RAW[4][2:]), "build_v4 with 129 for its version")
    return [
        *out,
        failure(4, "unknown version in base64url", url, "version_unknown"),
        failure(
            4, "first byte 1", by_hand(standard(b"\x01" + _RAW[2][1:]), "v2 but for the prefix"), "version_unknown"
        ),
        success(4, "v2 whose second byte is 112", build(2, MASTER_LIKE_V3)),
        success(4, "v2 whose second byte is 128", build(2, MASTER_LIKE_V4)),
        failure(4, "unknown version comes before scope", by_hand(standard(b"\x13\x81"), "2 bytes"), "version_unknown"),
    ]


def _short() -> list[dict[str, Any]]:
    known, unknown = u32(MASTER), u32(UNKNOWN)
    iv_and_tag = bytes(12 + 16)
    cases: list[tuple[int, str, bytes, str]] = [
        (4, "1 byte, 0", b"\x00", "version_unknown"),
        (4, "1 byte, 3", b"\x03", "version_unknown"),
        (7, "1 byte, v2", b"\x02", "master_layer"),
        (7, "2 bytes, v3", b"\x03\x70", "master_layer"),
        (7, "2 bytes, v4", b"\x03\x80", "master_layer"),
        (5, "2 bytes, v4 of another scope", b"\x13\x80", "identity_scope"),
        (7, "4 bytes, v2 with most of a key id", b"\x02" + known[:3], "master_layer"),
        (7, "5 bytes, v2 with a known key id", b"\x02" + known, "master_layer"),
        (6, "5 bytes, v2 with an unknown key id", b"\x02" + unknown, "master_key_unknown"),
        (7, "5 bytes, v3 with most of a key id", b"\x03\x70" + known[:3], "master_layer"),
        (7, "5 bytes, v4 with most of an unknown key id", b"\x03\x80" + unknown[:3], "master_layer"),
        (7, "6 bytes, v3 with a known key id", b"\x03\x70" + known, "master_layer"),
        (7, "6 bytes, v4 with a known key id", b"\x03\x80" + known, "master_layer"),
        (6, "6 bytes, v4 with an unknown key id", b"\x03\x80" + unknown, "master_key_unknown"),
        (7, "v4 whose iv is cut", b"\x03\x80" + known + bytes(11), "master_layer"),
        (7, "v4 whose iv is too short for any cipher", b"\x03\x80" + known + bytes(7), "master_layer"),
        (7, "v4 with an iv and nothing else", b"\x03\x80" + known + bytes(12), "master_layer"),
        (7, "v4 whose tag is cut", b"\x03\x80" + known + iv_and_tag[:-1], "master_layer"),
        (7, "v4 with a tag of zeros", b"\x03\x80" + known + iv_and_tag, "master_layer"),
    ]
    return [failure(line, name, by_hand(standard(raw), name), reason) for line, name, raw, reason in cases]


def _scope() -> list[dict[str, Any]]:
    euid = IdentityScope.EUID
    out = []
    for version in (3, 4):
        foreign = build(version, scope=euid)
        out += [
            failure(5, f"v{version} of EUID, keys of UID2", foreign, "identity_scope"),
            failure(5, f"v{version} of UID2, keys of EUID", _GOOD[version], "identity_scope", keys="euid"),
            success(5, f"v{version} of EUID, keys of EUID", foreign, keys="euid"),
        ]
        for bits in range(4):
            for scope, keys in ((0, "uid2"), (1, "euid")):
                raw = bytes([scope << 4 | bits << 2 | 3]) + _RAW[version][1:]
                made = by_hand(standard(raw), f"build_v{version} with another prefix")
                out.append(success(5, f"v{version} of {keys}, identity type bits {bits:02b}", made, keys=keys))
        # 0x00 is what older generators write. 0x02 would be v2.
        for prefix in (0x00, 0x01, 0x04, 0x0C, 0x23, 0x40, 0x83, 0xEF, 0x10, 0x12, 0x33, 0xFF):
            made = by_hand(standard(bytes([prefix]) + _RAW[version][1:]), f"build_v{version} with another prefix")
            right, wrong = ("euid", "uid2") if prefix & 0x10 else ("uid2", "euid")
            out += [
                success(5, f"v{version}, prefix 0x{prefix:02x}, keys of its scope", made, keys=right),
                failure(5, f"v{version}, prefix 0x{prefix:02x}, other keys", made, "identity_scope", keys=wrong),
            ]
    stranger = build(4, UNKNOWN, scope=euid)
    return [
        *out,
        success(5, "v2 has no scope", _GOOD[2], keys="euid"),
        success(5, "keys without a scope are of UID2", _GOOD[4], keys="scope missing"),
        success(5, "keys with a null scope are of UID2", _GOOD[4], keys="scope null"),
        failure(5, "EUID, keys without a scope", build(4, scope=euid), "identity_scope", keys="scope missing"),
        failure(5, "the scope comes before the master key", stranger, "identity_scope"),
        success(5, "a phone number's id", build(4, identity_type=IdentityType.PHONE)),
    ]


def _master_key() -> list[dict[str, Any]]:
    unknown = [failure(6, f"v{v}, unknown", build(v, UNKNOWN), "master_key_unknown") for v in (2, 3, 4)]
    expired = build(4, UNKNOWN, expires_ms=NOW_MS - 1)
    return [*unknown, failure(6, "the master key comes before the expiry", expired, "master_key_unknown")]
