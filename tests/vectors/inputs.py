"""Inputs of the vectors: a time, key responses, and tokens with fixed keys and IVs. All are synthetic."""

from base64 import b64encode
from dataclasses import fields
from typing import Any, NamedTuple

from bidstream_svc.core.token import BUILDERS, TokenContent, TokenKey
from tests.core import assemble

NOW_MS = 1_700_000_000_000
NOW_S = NOW_MS // 1000
HOUR_MS = 3_600_000
MAX_LIFETIME_MS = 259_200_000
CLOCK_SKEW_MS = 600_000
DEFAULT_CLOCK_SKEW_MS = 1_800_000

MASTER, SITE, EXPIRED_MASTER, EXPIRED_SITE, UNKNOWN = 101, 202, 301, 302, 999
# The first byte of these ids stands where v3 and v4 have their version.
MASTER_LIKE_V3, MASTER_LIKE_V4 = 0x70000065, 0x80000065

SECRETS = {
    MASTER: b"made-up secret of the master key",
    SITE: b"made-up secret of a site's key !",
    EXPIRED_MASTER: b"made-up secret, an old masterkey",
    EXPIRED_SITE: b"made-up secret, an old site key ",
    MASTER_LIKE_V3: b"made-up secret, looks like a v3 ",
    MASTER_LIKE_V4: b"made-up secret, looks like a v4 ",
    UNKNOWN: b"made-up secret nobody has a copy",
}
EXPIRED = {EXPIRED_MASTER, EXPIRED_SITE}

LISTED_SITE, NO_NAMES_SITE, MISSING_NAMES_SITE, NULL_NAMES_SITE, UNLISTED_SITE = 10, 11, 12, 13, 77

CBC_IVS = bytes(range(0x10, 0x20)), bytes(range(0x20, 0x30))
GCM_IVS = bytes(range(0x30, 0x3C)), bytes(range(0x40, 0x4C))

_BODY: dict[str, Any] = {
    "keys": [
        {
            "id": key_id,
            "created": NOW_S - 90 * 86_400,
            "activates": NOW_S - 89 * 86_400,
            "expires": NOW_S - 1 if key_id in EXPIRED else NOW_S + 30 * 86_400,
            "secret": b64encode(secret).decode(),
        }
        for key_id, secret in SECRETS.items()
        if key_id != UNKNOWN
    ],
    "max_bidstream_lifetime_seconds": MAX_LIFETIME_MS // 1000,
    "identity_scope": "UID2",
    "allow_clock_skew_seconds": CLOCK_SKEW_MS // 1000,
    "site_data": [
        {
            "id": LISTED_SITE,
            "domain_names": [
                "example.com",
                "Example.CO.UK.",
                "com.acme.shooter",
                "192.0.2.7",
                "shop.example.net",
                "xn--bcher-kva.de",
                "straße.de",
            ],
        },
        {"id": NO_NAMES_SITE, "domain_names": []},
        {"id": MISSING_NAMES_SITE},
        {"id": NULL_NAMES_SITE, "domain_names": None},
    ],
}


def _response(*without: str, **changed: Any) -> dict[str, Any]:
    body = {name: value for name, value in _BODY.items() if name not in without}
    return {"purpose": "bidstream", "response": {"body": body | changed, "status": "success"}}


def _expiring(expires_s: int, *, only: set[int]) -> list[dict[str, Any]]:
    return [key | {"expires": expires_s if key["id"] in only else NOW_S} for key in _BODY["keys"]]


KEY_RESPONSES: dict[str, dict[str, Any]] = {
    "uid2": _response(),
    "euid": _response(identity_scope="EUID"),
    "scope missing": _response("identity_scope"),
    "scope null": _response(identity_scope=None),
    "no keys": _response(keys=[]),
    "all expire now": _response(keys=_expiring(NOW_S, only=set())),
    "unrelated key left": _response(keys=_expiring(NOW_S + 1, only={MASTER_LIKE_V3})),
    "maximum missing": _response("max_bidstream_lifetime_seconds"),
    "maximum null": _response(max_bidstream_lifetime_seconds=None),
    "maximum zero": _response(max_bidstream_lifetime_seconds=0),
    "skew missing": _response("allow_clock_skew_seconds"),
    "skew null": _response(allow_clock_skew_seconds=None),
    "skew zero": _response(allow_clock_skew_seconds=0),
    "site_data missing": _response("site_data"),
    "site_data null": _response(site_data=None),
    "sharing": _response("site_data", max_sharing_lifetime_seconds=7200, token_expiry_seconds="3600")
    | {"purpose": "sharing"},
}

RAW_UID = b64encode(bytes([4 << 2, *range(1, 33)])).decode()
DEFAULTS = TokenContent(
    raw_uid=RAW_UID,
    site_id=LISTED_SITE,
    expires_ms=NOW_MS + HOUR_MS,
    established_ms=NOW_MS - 2400 * HOUR_MS,
    generated_ms=NOW_MS - HOUR_MS,
    refreshed_ms=NOW_MS - HOUR_MS,
    operator_site_id=1,
    operator_type=1,
)


def token_keys(version: int, master_id: int, site_id: int) -> tuple[TokenKey, TokenKey]:
    master_iv, site_iv = CBC_IVS if version == 2 else GCM_IVS
    return TokenKey(master_id, SECRETS[master_id], master_iv), TokenKey(site_id, SECRETS[site_id], site_iv)


class Made(NamedTuple):
    """A token, and how it came about."""

    token: Any
    provenance: str


def build(version: int, master_key: int = MASTER, site_key: int = SITE, **changed: Any) -> Made:
    """A token of our own builder, DEFAULTS but for what is `changed`."""
    content = TokenContent(**{field.name: getattr(DEFAULTS, field.name) for field in fields(DEFAULTS)} | changed)
    token = BUILDERS[version](content, *token_keys(version, master_key, site_key))
    differences = [f"{name}={value!r}" for name, value in changed.items()]
    if (master_key, site_key) != (MASTER, SITE):
        differences.append(f"keys {master_key} and {site_key}")
    return Made(token, f"build_v{version}, {', '.join(differences) or 'defaults'}")


def by_hand(token: Any, how: str) -> Made:
    return Made(token, f"hand-assembled: {how}")


def v2_site_layer(uid: bytes = RAW_UID.encode(), id_length: int | None = None, privacy_bits: int = 0) -> bytes:
    """The plaintext of the inner layer of v2, by default a good one."""
    return (
        assemble.u32(LISTED_SITE)
        + assemble.u32(len(uid) if id_length is None else id_length)
        + uid
        + assemble.u32(privacy_bits)
        + DEFAULTS.established_ms.to_bytes(8, "big")
    )


def v2_master_layer(site_padded: bytes) -> bytes:
    """The plaintext of the outer layer of v2 around the padded plaintext of the inner one."""
    return DEFAULTS.expires_ms.to_bytes(8, "big") + assemble.v2_layer(SITE, SECRETS[SITE], CBC_IVS[1], site_padded)


def v2_bytes(master_padded: bytes, master_key: int = MASTER) -> bytes:
    return b"\x02" + assemble.v2_layer(master_key, SECRETS[master_key], CBC_IVS[0], master_padded)


def gcm_site_layer(raw_uid: bytes) -> bytes:
    """The plaintext of the inner layer of v3 and v4."""
    established, refreshed = DEFAULTS.established_ms.to_bytes(8, "big"), DEFAULTS.refreshed_ms.to_bytes(8, "big")
    return assemble.u32(LISTED_SITE) + bytes(8) + bytes(4) + bytes(4) + established + refreshed + raw_uid


def gcm_master_layer(sealed_site: bytes) -> bytes:
    """The plaintext of the outer layer of v3 and v4 around `site key id | iv | ciphertext | tag`."""
    expires, generated = DEFAULTS.expires_ms.to_bytes(8, "big"), DEFAULTS.generated_ms.to_bytes(8, "big")
    return expires + generated + bytes(4) + b"\1" + bytes(4) + bytes(4) + sealed_site


def gcm_site(plaintext: bytes, secret_of: int = SITE) -> bytes:
    return assemble.gcm_layer(SITE, SECRETS[secret_of], GCM_IVS[1], plaintext)


def gcm_bytes(master_plaintext: bytes, head: bytes = b"\x03\x80", secret_of: int = MASTER) -> bytes:
    return head + assemble.gcm_layer(MASTER, SECRETS[secret_of], GCM_IVS[0], master_plaintext)
