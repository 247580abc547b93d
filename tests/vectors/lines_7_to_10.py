"""Vectors for master layer, expiry, site key and site layer."""

from base64 import b64decode
from typing import Any

from tests.core.assemble import pkcs7, standard, u32
from tests.vectors.inputs import (
    DEFAULTS,
    MASTER,
    NOW_MS,
    SITE,
    UNKNOWN,
    Made,
    build,
    by_hand,
    gcm_bytes,
    gcm_master_layer,
    gcm_site,
    gcm_site_layer,
    v2_bytes,
    v2_master_layer,
    v2_site_layer,
)
from tests.vectors.record import failure, success

_I64_MAX = 2**63 - 1


def vectors() -> list[dict[str, Any]]:
    return [*_gcm_master_layer(), *_v2_master_layer(), *_expiry(), *_site_key(), *_gcm_site_layer(), *_v2_site_layer()]


def _hand(raw: bytes, how: str) -> Made:
    return by_hand(standard(raw), how)


def _gcm_master_layer() -> list[dict[str, Any]]:
    out = []
    for version in (3, 4):
        good = build(version).token
        raw = b64decode(good.replace("-", "+").replace("_", "/") + "=" * (-len(good) % 4))
        iv_flipped = raw[:6] + bytes([raw[6] ^ 1]) + raw[7:]
        changed = {
            "last bit of the tag flipped": raw[:-1] + bytes([raw[-1] ^ 1]),
            "a bit of the iv flipped": iv_flipped,
            "a byte cut off": raw[:-1],
            "a byte added": raw + b"\0",
        }
        out += [
            failure(7, f"v{version}, {name}", _hand(token, f"build_v{version}, {name}"), "master_layer")
            for name, token in changed.items()
        ]
    master = gcm_master_layer(gcm_site(gcm_site_layer(bytes(33))))
    other_secret = _hand(gcm_bytes(master, secret_of=UNKNOWN), "sealed with another secret under the known key id")
    to_the_site_iv = master[: 8 + 8 + 4 + 1 + 4 + 4 + 4 + 12]
    return [
        *out,
        failure(7, "v4, another secret under the key id", other_secret, "master_layer"),
        failure(7, "v4, empty master layer", _hand(gcm_bytes(b""), "sealed and empty"), "master_layer"),
        failure(7, "v4, master layer 1 byte too short", _hand(gcm_bytes(to_the_site_iv[:-1]), "cut"), "master_layer"),
        failure(10, "v4, master layer ends at the site iv", _hand(gcm_bytes(to_the_site_iv), "cut"), "site_layer"),
        failure(
            7, "v4 said to be v3", _hand(gcm_bytes(master, b"\x03\x70", UNKNOWN), "and another secret"), "master_layer"
        ),
        success(
            7, "v3 and v4 share a layout", _hand(gcm_bytes(master, b"\x03\x70"), "v4's bytes"), uid=standard(bytes(33))
        ),
    ]


def _v2_master_layer() -> list[dict[str, Any]]:
    master = v2_master_layer(pkcs7(v2_site_layer()))
    good = v2_bytes(pkcs7(master))
    assert len(master) % 16 == 12, "four bytes of padding"
    paddings = {
        "0": master + bytes(4),
        "17": master + bytes(3) + b"\x11",
        "17, seventeen times": master[:-13] + b"\x11" * 17,
        "255": master + b"\xff" * 4,
        "4, but one byte is another": master + b"\4\3\4\4",
        "5, one more than there is": master + b"\5" * 4,
    }
    lengths = {
        "no block": good[: 5 + 16],
        "part of an iv": good[: 5 + 15],
        "half a block": good[:-8],
        "a byte added": good + b"\0",
    }
    other_secret = _hand(
        v2_bytes(pkcs7(master), UNKNOWN)[:1] + u32(MASTER) + v2_bytes(pkcs7(master), UNKNOWN)[5:], "resealed"
    )
    return [
        *(
            failure(7, f"v2, padding {n}", _hand(v2_bytes(p), "wrong padding"), "master_layer")
            for n, p in paddings.items()
        ),
        *(failure(7, f"v2, {n}", _hand(raw, n), "master_layer") for n, raw in lengths.items()),
        failure(7, "v2, another secret under the key id", other_secret, "master_layer"),
        failure(7, "v2, empty master layer", _hand(v2_bytes(pkcs7(b"")), "16 bytes of padding"), "master_layer"),
        failure(7, "v2, master layer of 11 bytes", _hand(v2_bytes(pkcs7(master[:11])), "cut"), "master_layer"),
        failure(10, "v2, master layer ends at the key id", _hand(v2_bytes(pkcs7(master[:12])), "cut"), "site_layer"),
    ]


def _expiry() -> list[dict[str, Any]]:
    both_wrong = build(4, site_key=UNKNOWN, expires_ms=NOW_MS - 1)
    too_long = build(4, expires_ms=NOW_MS - 1, generated_ms=0)
    out = []
    for version in (2, 3, 4):
        out += [
            success(8, f"v{version} expires now", build(version, expires_ms=NOW_MS)),
            failure(8, f"v{version} expired 1 ms ago", build(version, expires_ms=NOW_MS - 1), "expired"),
            failure(8, f"v{version} expired before 1970", build(version, expires_ms=-1), "expired"),
            success(8, f"v{version} never expires", build(version, expires_ms=_I64_MAX), keys="maximum missing"),
        ]
    return [
        *out,
        failure(8, "the expiry comes before the site key", both_wrong, "expired"),
        failure(8, "the expiry comes before the domain", build(4, privacy_bits=2, expires_ms=NOW_MS - 1), "expired"),
        failure(8, "the expiry comes before the lifetime", too_long, "expired"),
    ]


def _site_key() -> list[dict[str, Any]]:
    out = [failure(9, f"v{v}, unknown", build(v, site_key=UNKNOWN), "site_key_unknown") for v in (2, 3, 4)]
    both_wrong = build(4, site_key=UNKNOWN, generated_ms=0)
    broken = gcm_master_layer(u32(UNKNOWN) + bytes(12))
    return [
        *out,
        failure(9, "the site key comes before the lifetime", both_wrong, "site_key_unknown"),
        failure(
            9, "the site key comes before its layer", _hand(gcm_bytes(broken), "no site layer"), "site_key_unknown"
        ),
    ]


def _gcm_site_layer() -> list[dict[str, Any]]:
    sealed = gcm_site(gcm_site_layer(bytes(range(33))))
    broken = {
        "last bit of the tag flipped": sealed[:-1] + bytes([sealed[-1] ^ 1]),
        "a byte cut off": sealed[:-1],
        "a byte added": sealed + b"\0",
        "no tag": sealed[: 4 + 12 + 15],
        "another secret under the key id": gcm_site(gcm_site_layer(bytes(33)), secret_of=UNKNOWN),
        "empty": gcm_site(b""),
        "raw uid of 31 bytes": gcm_site(gcm_site_layer(bytes(31))),
    }
    uids = {"32": bytes(range(32)), "33": bytes(range(33))}
    no_domain = gcm_site(gcm_site_layer(bytes(31)).replace(bytes(16), bytes(15) + b"\2", 1))
    return [
        *(
            failure(10, f"v4, {name}", _hand(gcm_bytes(gcm_master_layer(site)), name), "site_layer")
            for name, site in broken.items()
        ),
        *(
            success(
                10,
                f"v4, raw uid of {name} bytes",
                _hand(gcm_bytes(gcm_master_layer(gcm_site(gcm_site_layer(uid)))), "both layers sealed again"),
                uid=standard(uid),
            )
            for name, uid in uids.items()
        ),
        failure(
            10,
            "the site layer comes before the domain",
            _hand(gcm_bytes(gcm_master_layer(no_domain)), "raw uid too short, generated on the client side"),
            "site_layer",
        ),
    ]


def _v2_site_layer() -> list[dict[str, Any]]:
    site = v2_site_layer()
    assert len(site) % 16 == 0, "a whole block of padding"
    uid_43 = b"u" * 43
    paddings = {
        "0": site + bytes(16),
        "17": site + b"\x11" * 16,
        "17, seventeen times": site[:-1] + b"\x11" * 17,
        "16, but one byte is another": site + b"\x10" * 14 + b"\x0f\x10",
    }
    layers = {
        "empty": b"",
        "7 bytes": site[:7],
        "19 bytes": v2_site_layer(b"")[:19],
        "id_len 1 past the end": v2_site_layer(id_length=45),
        "id_len 1 too short": v2_site_layer(id_length=43),
        "id_len up to the end": v2_site_layer(id_length=44 + 12),
        "id_len of 4 GiB": v2_site_layer(id_length=2**32 - 1),
        "a byte behind the end": site + b"\0",
        "bad UTF-8": v2_site_layer(b"\xff" * 44),
        "UTF-8 cut in a character": v2_site_layer(b"u" * 43 + b"\xc3"),
        "UTF-8 of a surrogate": v2_site_layer(b"u" * 41 + b"\xed\xa0\x80"),
        "bad UTF-8, before the domain": v2_site_layer(b"\xff" * 44, privacy_bits=2),
    }
    unpadded = v2_master_layer(pkcs7(site))[:-8]

    def token(site_padded: bytes, how: str) -> Made:
        return _hand(v2_bytes(pkcs7(v2_master_layer(site_padded))), how)

    return [
        *(
            failure(10, f"v2, padding {name}", token(padded, "wrong padding"), "site_layer")
            for name, padded in paddings.items()
        ),
        *(failure(10, f"v2, {name}", token(pkcs7(layer), name), "site_layer") for name, layer in layers.items()),
        failure(10, "v2, half a block", _hand(v2_bytes(pkcs7(unpadded)), "cut, then sealed"), "site_layer"),
        success(10, "v2, padding 16", token(site + b"\x10" * 16, "a block of padding")),
        success(10, "v2, padding 1", token(v2_site_layer(uid_43) + b"\1", "a byte of padding"), uid=uid_43.decode()),
        success(10, "v2, established as built", build(2, established_ms=-1, site_key=SITE), established=-1),
        success(10, "v4, established as built", build(4, established_ms=-_I64_MAX), established=-_I64_MAX),
        success(10, "v2, both layers by hand", token(pkcs7(site), "as build_v2"), established=DEFAULTS.established_ms),
    ]
