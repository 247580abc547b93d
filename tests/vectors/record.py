"""One vector: a token, the time, domain and keys, and the expected verdict, stated by hand."""

from typing import Any

from tests.vectors.inputs import DEFAULTS, NOW_MS, RAW_UID, Made

# docs/protocol.md, "The verdict", copied by hand: nothing here is taken from the code that is tested.
STATUS_OF_REASON = {
    "no_keys": "NOT_INITIALIZED",
    "keys_expired": "KEYS_NOT_SYNCED",
    "not_a_token": "INVALID_PAYLOAD",
    "bad_encoding": "INVALID_PAYLOAD",
    "version_unknown": "VERSION_NOT_SUPPORTED",
    "identity_scope": "INVALID_PAYLOAD",
    "master_key_unknown": "NOT_AUTHORIZED_FOR_KEY",
    "master_layer": "INVALID_PAYLOAD",
    "expired": "EXPIRED_TOKEN",
    "site_key_unknown": "NOT_AUTHORIZED_FOR_KEY",
    "site_layer": "INVALID_PAYLOAD",
    "domain_missing": "DOMAIN_NAME_CHECK_FAILED",
    "site_unknown": "DOMAIN_NAME_CHECK_FAILED",
    "domain_not_listed": "DOMAIN_NAME_CHECK_FAILED",
    "lifetime_too_long": "INVALID_TOKEN_LIFETIME",
    "generated_in_future": "INVALID_TOKEN_LIFETIME",
    "opted_out_at_generation": "USER_OPTED_OUT",
    "opted_out": "USER_OPTED_OUT",
    "optouts_not_synced": "OPTOUTS_NOT_SYNCED",
}


def failure(
    line: int,
    name: str,
    made: Made,
    reason: str,
    *,
    keys: str | None = "uid2",
    domain: Any = None,
    now_ms: int = NOW_MS,
    optouts: Any = None,
) -> dict[str, Any]:
    return {
        "name": name,
        "line": line,
        "provenance": made.provenance,
        "keys": keys,
        "token": made.token,
        "domain": domain,
        "now_ms": now_ms,
        **_given(optouts),
        "status": STATUS_OF_REASON[reason],
        "reason": reason,
        "uid": None,
        "established": None,
    }


def success(
    line: int,
    name: str,
    made: Made,
    *,
    keys: str = "uid2",
    domain: Any = None,
    now_ms: int = NOW_MS,
    uid: str = RAW_UID,
    established: int = DEFAULTS.established_ms,
    optouts: Any = None,
) -> dict[str, Any]:
    return {
        "name": name,
        "line": line,
        "provenance": made.provenance,
        "keys": keys,
        "token": made.token,
        "domain": domain,
        "now_ms": now_ms,
        **_given(optouts),
        "status": "SUCCESS",
        "reason": None,
        "uid": uid,
        "established": established,
    }


def _given(optouts: Any) -> dict[str, Any]:
    return {} if optouts is None else {"optouts": optouts}
