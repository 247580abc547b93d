"""Tokens of the published SDK decrypt here and ours decrypt there, with the same verdicts."""

import datetime as dt
import json
from base64 import b64encode
from dataclasses import replace
from typing import Any

import pytest
import uid2_client
from hypothesis import given
from hypothesis import strategies as st
from uid2_client.advertising_token_version import AdvertisingTokenVersion
from uid2_client.client_type import ClientType

from bidstream_svc.core.decrypt import decrypt
from bidstream_svc.core.identity import IdentityScope, IdentityType
from bidstream_svc.core.key_response import parse_key_response
from bidstream_svc.core.status import DecryptionStatus
from bidstream_svc.core.token import BUILDERS, TokenContent
from tests.core.strategies import token_key
from tests.vectors.inputs import DEFAULTS, HOUR_MS, LISTED_SITE, MASTER, NOW_MS, SECRETS, SITE, UNKNOWN
from tests.vectors.load import key_response, key_snapshot, load

KEYS_OF_SCOPE = {IdentityScope.UID2: "uid2", IdentityScope.EUID: "euid"}
VERSIONS = pytest.mark.parametrize("version", [2, 3, 4])
PEOPLE = pytest.mark.parametrize(
    ("scope", "identity_type"),
    [pytest.param(s, t, id=f"{s.name}-{t.name}") for s in IdentityScope for t in IdentityType],
)


def _utc(unix_ms: int) -> dt.datetime:
    return dt.datetime.fromtimestamp(unix_ms / 1000, tz=dt.UTC)


def _raw_uid(scope: IdentityScope, identity_type: IdentityType) -> str:
    """A raw uid whose first byte tells scope and type, as operators make them; the SDK reads the type from it."""
    return b64encode(bytes([scope << 4 | identity_type << 2, *range(1, 33)])).decode()


def _their_key(key_id: int) -> Any:
    return uid2_client.EncryptionKey(key_id, -1, _utc(0), _utc(0), _utc(NOW_MS + HOUR_MS), SECRETS[key_id])


def _their_token(version: int, scope: IdentityScope, raw_uid: str, *, master: int = MASTER, **times: Any) -> str:
    their_version = AdvertisingTokenVersion({2: 2, 3: 112, 4: 128}[version])
    token: str = uid2_client.UID2TokenGenerator.generate_uid_token(
        raw_uid,
        _their_key(master),
        LISTED_SITE,
        _their_key(SITE),
        scope.value,
        their_version,
        identity_established=times.get("established", _utc(DEFAULTS.established_ms)),
        token_generated=times.get("generated", _utc(DEFAULTS.generated_ms)),
        token_expiry=times.get("expiry", _utc(DEFAULTS.expires_ms)),
    )
    return token


def _our_token(version: int, content: TokenContent) -> str:
    return BUILDERS[version](content, token_key(version, MASTER, 0), token_key(version, SITE, 1))


def _their_verdict(token: str, keys: str, now_ms: int = NOW_MS) -> Any:
    parsed = uid2_client.refresh_keys_util.parse_keys_json(key_response(keys)[0]["body"])
    assert parsed.success
    return uid2_client.decrypt_token(token, parsed.keys, "example.com", ClientType.BIDSTREAM, _utc(now_ms))


@VERSIONS
@PEOPLE
def test_published_tokens_decrypt_here(version: int, scope: IdentityScope, identity_type: IdentityType) -> None:
    raw_uid = _raw_uid(scope, identity_type)
    token = _their_token(version, scope, raw_uid)
    verdict = decrypt(token, None, key_snapshot(KEYS_OF_SCOPE[scope]), NOW_MS)
    assert verdict == (DecryptionStatus.SUCCESS, raw_uid, DEFAULTS.established_ms, None)


@VERSIONS
@PEOPLE
def test_our_tokens_decrypt_there(version: int, scope: IdentityScope, identity_type: IdentityType) -> None:
    raw_uid = _raw_uid(scope, identity_type)
    token = _our_token(version, replace(DEFAULTS, raw_uid=raw_uid, scope=scope, identity_type=identity_type))
    theirs = _their_verdict(token, KEYS_OF_SCOPE[scope])
    assert theirs.success
    assert theirs.uid == raw_uid
    assert theirs.established == _utc(DEFAULTS.established_ms)
    assert theirs.site_id == LISTED_SITE
    assert theirs.identity_scope == scope
    assert theirs.identity_type == (None if version == 2 else identity_type)
    assert theirs.expiry == _utc(DEFAULTS.expires_ms)


@VERSIONS
@pytest.mark.parametrize(
    ("times", "master", "status"),
    [
        ({}, UNKNOWN, "NOT_AUTHORIZED_FOR_KEY"),
        ({"expiry": _utc(NOW_MS)}, MASTER, "SUCCESS"),
        ({"expiry": _utc(NOW_MS - 1000)}, MASTER, "EXPIRED_TOKEN"),
        ({"expiry": _utc(NOW_MS + 100 * 24 * HOUR_MS)}, MASTER, "INVALID_TOKEN_LIFETIME"),
    ],
)
def test_verdicts_on_published_tokens_agree(version: int, times: dict[str, Any], master: int, status: str) -> None:
    token = _their_token(
        version, IdentityScope.UID2, _raw_uid(IdentityScope.UID2, IdentityType.EMAIL), master=master, **times
    )
    assert decrypt(token, None, key_snapshot("uid2"), NOW_MS)[0] == status
    # The SDK has names of its own for what the reference calls NOT_AUTHORIZED_FOR_KEY.
    assert _their_verdict(token, "uid2").status.name.replace("_MASTER", "") == status


# What the SDK makes of a good token otherwise than the protocol says: its clock ends with the year 9999, and it reads
# the time of establishment without a sign.
DIFFERENT_THERE = {
    *("v2 never expires", "v3 never expires", "v4 never expires"),
    *("v2, the largest numbers", "v3, the largest numbers", "v4, the largest numbers"),
    *("v2, established as built", "v4, established as built"),
}


def _is_good_there(vector: dict[str, Any]) -> bool:
    try:
        theirs = _their_verdict(vector["token"], vector["keys"], vector["now_ms"])
    except (uid2_client.EncryptionError, OverflowError, ValueError):
        return False
    expected = "SUCCESS", vector["uid"], _utc(vector["established"])
    return (theirs.status.name, theirs.uid, theirs.established) == expected


def test_our_good_vectors_are_good_there() -> None:
    # Keys for sharing would be judged as those of a sharer there, which `_their_verdict` is not.
    good = [v for v in load("own.json") if v["status"] == "SUCCESS" and v["keys"] != "sharing"]
    assert {vector["name"] for vector in good if not _is_good_there(vector)} == DIFFERENT_THERE


@given(
    version=st.sampled_from([2, 3, 4]),
    raw=st.binary(min_size=32, max_size=33),
    established_ms=st.integers(0, 4_000_000_000_000),
    site_id=st.integers(0, 2**32 - 1),
)
def test_our_tokens_decrypt_there_whatever_the_content(
    version: int, raw: bytes, established_ms: int, site_id: int
) -> None:
    raw_uid = b64encode(raw).decode()
    token = _our_token(version, replace(DEFAULTS, raw_uid=raw_uid, established_ms=established_ms, site_id=site_id))
    theirs = _their_verdict(token, "uid2")
    assert (theirs.status.name, theirs.uid, theirs.site_id) == ("SUCCESS", raw_uid, site_id)
    # Their float seconds may be off by a microsecond.
    assert abs(theirs.established - _utc(established_ms)) <= dt.timedelta(microseconds=1)


def test_the_published_sdk_reads_the_privacy_bit_from_the_other_end() -> None:
    """The one place where the protocol says not to follow the SDK; if this fails, the SDK was mended."""
    right_end = _our_token(4, replace(DEFAULTS, privacy_bits=0x2))
    wrong_end = _our_token(4, replace(DEFAULTS, privacy_bits=0x40000000))
    assert not _their_verdict(right_end, "uid2").is_client_side_generated
    assert _their_verdict(wrong_end, "uid2").is_client_side_generated
    assert decrypt(right_end, None, key_snapshot("uid2"), NOW_MS)[0] is DecryptionStatus.DOMAIN_NAME_CHECK_FAILED
    assert decrypt(wrong_end, None, key_snapshot("uid2"), NOW_MS)[0] is DecryptionStatus.SUCCESS


@PEOPLE
def test_published_sharing_tokens_decrypt_here(scope: IdentityScope, identity_type: IdentityType) -> None:
    """Made as a sharer makes them: key sets chosen from a key response, the real clock, the expiry as text."""
    now_s = int(dt.datetime.now(tz=dt.UTC).timestamp())
    secrets = {MASTER: 1, SITE: 99999}
    body = {
        "keys": [
            {
                "id": key_id,
                "keyset_id": keyset_id,
                "created": now_s - 10,
                "activates": now_s - 10,
                "expires": now_s + 3600,
                "secret": b64encode(SECRETS[key_id]).decode(),
            }
            for key_id, keyset_id in secrets.items()
        ],
        "caller_site_id": LISTED_SITE,
        "master_keyset_id": 1,
        "default_keyset_id": 99999,
        "token_expiry_seconds": "3600",
        "identity_scope": scope.name,
    }
    raw_uid = _raw_uid(scope, identity_type)
    their_keys = uid2_client.refresh_keys_util.parse_keys_json(body).keys
    encrypted = uid2_client.encrypt(raw_uid, None, their_keys)
    ours = decrypt(encrypted.encrypted_data, None, parse_key_response(json.dumps({"body": body})), now_s * 1000)
    assert ours[:2] == (DecryptionStatus.SUCCESS, raw_uid)
