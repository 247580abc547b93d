"""Vectors for lifetime, clock skew, opt-outs and success."""

from typing import Any

from bidstream_svc.core.identity import IdentityScope, IdentityType
from tests.core.assemble import standard
from tests.vectors.inputs import (
    CLOCK_SKEW_MS,
    DEFAULT_CLOCK_SKEW_MS,
    DEFAULTS,
    HOUR_MS,
    MAX_LIFETIME_MS,
    NOW_MS,
    RAW_UID,
    build,
)
from tests.vectors.record import failure, success

_CENTURY_MS = 100 * 365 * 24 * HOUR_MS


def vectors() -> list[dict[str, Any]]:
    return [*_lifetime(), *_skew(), *_sharing(), *_opted_out(), *_optouts(), *_success()]


def _lifetime() -> list[dict[str, Any]]:
    generated = DEFAULTS.generated_ms
    out = []
    for version in (3, 4):
        longest = build(version, expires_ms=generated + MAX_LIFETIME_MS)
        longer = build(version, expires_ms=generated + MAX_LIFETIME_MS + 1)
        out += [
            success(12, f"v{version}, lifetime at the maximum", longest),
            failure(12, f"v{version}, lifetime 1 ms past the maximum", longer, "lifetime_too_long"),
        ]
    for keys in ("maximum missing", "maximum null"):
        forever = build(4, expires_ms=NOW_MS + _CENTURY_MS)
        out.append(success(12, f"{keys}: no limit", forever, keys=keys))
    at_once = build(4, expires_ms=NOW_MS, generated_ms=NOW_MS)
    return [
        *out,
        success(12, "v2, what is left at the maximum", build(2, expires_ms=NOW_MS + MAX_LIFETIME_MS)),
        failure(
            12, "v2, what is left 1 ms past it", build(2, expires_ms=NOW_MS + MAX_LIFETIME_MS + 1), "lifetime_too_long"
        ),
        success(12, "maximum 0, lifetime 0", at_once, keys="maximum zero"),
        failure(
            12,
            "maximum 0, lifetime 1 ms",
            build(4, expires_ms=NOW_MS, generated_ms=NOW_MS - 1),
            "lifetime_too_long",
            keys="maximum zero",
        ),
        success(12, "expires before it was generated", build(4, expires_ms=NOW_MS, generated_ms=NOW_MS + 1)),
    ]


def _skew() -> list[dict[str, Any]]:
    limits = {
        "uid2": CLOCK_SKEW_MS,
        "skew missing": DEFAULT_CLOCK_SKEW_MS,
        "skew null": DEFAULT_CLOCK_SKEW_MS,
        "skew zero": 0,
    }
    out = []
    for version in (3, 4):
        for keys, limit_ms in limits.items():
            at, past = (
                build(version, generated_ms=NOW_MS + limit_ms),
                build(version, generated_ms=NOW_MS + limit_ms + 1),
            )
            out += [
                success(12, f"v{version}, {keys}: {limit_ms} ms in the future", at, keys=keys),
                failure(
                    12, f"v{version}, {keys}: {limit_ms + 1} ms in the future", past, "generated_in_future", keys=keys
                ),
            ]
    both = build(4, generated_ms=NOW_MS + CLOCK_SKEW_MS + 1, expires_ms=NOW_MS + 2 * MAX_LIFETIME_MS)
    return [
        *out,
        success(12, "v2 is never of the future", build(2, generated_ms=NOW_MS + _CENTURY_MS), keys="skew zero"),
        failure(12, "the lifetime comes before the skew", both, "lifetime_too_long"),
    ]


def _sharing() -> list[dict[str, Any]]:
    longest = build(4, expires_ms=DEFAULTS.generated_ms + 7_200_000)
    longer = build(4, expires_ms=DEFAULTS.generated_ms + 7_200_001)
    return [
        success(12, "keys for sharing: lifetime at their maximum", longest, keys="sharing"),
        failure(12, "keys for sharing: lifetime 1 ms past it", longer, "lifetime_too_long", keys="sharing"),
    ]


def _opted_out() -> list[dict[str, Any]]:
    reason = "opted_out_at_generation"
    out = []
    for version in (2, 3, 4):
        opted_out, client_side = build(version, privacy_bits=0x4), build(version, privacy_bits=0x7)
        late = build(version, privacy_bits=0x4, expires_ms=NOW_MS + 2 * MAX_LIFETIME_MS)
        out += [
            failure(13, f"v{version}, bit 0x4", opted_out, reason),
            failure(13, f"v{version}, bit 0x4, keys for sharing", opted_out, reason, keys="sharing"),
            failure(13, f"v{version}, as an operator sets them", client_side, reason, domain="example.com"),
            failure(13, f"v{version}, client side, keys for sharing", client_side, reason, keys="sharing"),
            failure(13, f"v{version}, every bit", build(version, privacy_bits=2**32 - 1), reason, domain="example.com"),
            failure(11, f"v{version}, the domain comes before the opt-out", client_side, "domain_missing"),
            failure(12, f"v{version}, the lifetime comes before the opt-out", late, "lifetime_too_long"),
        ]
    early = build(4, privacy_bits=0x4, generated_ms=NOW_MS + CLOCK_SKEW_MS + 1)
    expired = build(4, privacy_bits=0x4, expires_ms=NOW_MS - 1)
    return [
        *out,
        failure(12, "the skew comes before the opt-out", early, "generated_in_future"),
        failure(8, "the expiry comes before the opt-out", expired, "expired"),
    ]


def _optouts() -> list[dict[str, Any]]:
    ours, others, unknown = {"UID2": [RAW_UID]}, {"EUID": [RAW_UID], "UID2": [RAW_UID[::-1]]}, "not synced"
    empty: dict[str, list[str]] = {"UID2": [], "EUID": []}
    out = []
    for version in (2, 3, 4):
        good, client_side = build(version), build(version, privacy_bits=0x2)
        euid = build(version, scope=IdentityScope.EUID)
        marked = build(version, privacy_bits=0x4)
        late = build(version, expires_ms=NOW_MS + 2 * MAX_LIFETIME_MS)
        expired = build(version, expires_ms=NOW_MS - 1)
        out += [
            failure(13, f"v{version}, in the store", good, "opted_out", optouts=ours),
            failure(13, f"v{version}, in the store, EUID", euid, "opted_out", keys="euid", optouts=others),
            failure(13, f"v{version}, in the store, keys for sharing", good, "opted_out", keys="sharing", optouts=ours),
            failure(
                13,
                f"v{version}, in the store, name listed",
                client_side,
                "opted_out",
                domain="example.com",
                optouts=ours,
            ),
            failure(13, f"v{version}, the store is not synced", good, "optouts_not_synced", optouts=unknown),
            failure(
                13,
                f"v{version}, the token's mark comes before the store",
                marked,
                "opted_out_at_generation",
                optouts=unknown,
            ),
            failure(12, f"v{version}, the lifetime comes before the store", late, "lifetime_too_long", optouts=ours),
            failure(11, f"v{version}, the domain comes before the store", client_side, "domain_missing", optouts=ours),
            failure(8, f"v{version}, the expiry comes before the store", expired, "expired", optouts=unknown),
            success(14, f"v{version}, others are in the store", good, optouts=others),
            success(14, f"v{version}, the store is empty", good, optouts=empty),
        ]
    early = build(4, generated_ms=NOW_MS + CLOCK_SKEW_MS + 1)
    return [*out, failure(12, "the skew comes before the store", early, "generated_in_future", optouts=ours)]


def _success() -> list[dict[str, Any]]:
    out = []
    for version in (2, 3, 4):
        for scope, keys in ((IdentityScope.UID2, "uid2"), (IdentityScope.EUID, "euid")):
            for identity_type in IdentityType:
                first = scope << 4 | identity_type << 2
                uid = standard(bytes([first]) + bytes(range(100, 132)))
                made = build(version, raw_uid=uid, scope=scope, identity_type=identity_type)
                name = f"v{version}, {scope.name}, {identity_type.name.lower()}"
                out.append(success(14, name, made, keys=keys, uid=uid))
        short = standard(bytes(range(200, 232)))
        out.append(success(14, f"v{version}, raw uid of 32 bytes", build(version, raw_uid=short), uid=short))
        full = build(
            version,
            site_id=2**32 - 1,
            publisher_id=2**64 - 1,
            client_key_id=2**32 - 1,
            operator_site_id=2**32 - 1,
            operator_type=255,
            operator_version=2**32 - 1,
            operator_key_id=2**32 - 1,
            established_ms=2**63 - 1,
            refreshed_ms=2**63 - 1,
        )
        out.append(success(14, f"v{version}, the largest numbers", full, established=2**63 - 1))
        out.append(success(14, f"v{version}, established in 1970", build(version, established_ms=0), established=0))
    return out
