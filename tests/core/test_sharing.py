"""Raw uids into sharing tokens: what the token holds, which key is used, and what is refused."""

import base64
import json
from typing import Any

import pytest

from bidstream_svc.core.crypto import open_gcm
from bidstream_svc.core.decrypt import decrypt
from bidstream_svc.core.identity import IdentityScope, IdentityType
from bidstream_svc.core.key_response import parse_key_response
from bidstream_svc.core.keys import KeyPurpose, KeySnapshot
from bidstream_svc.core.sharing import DEFAULT_TOKEN_LIFETIME_S, Encryption, EncryptionStatus, encrypt_raw_uid
from bidstream_svc.core.status import DecryptionStatus
from bidstream_svc.core.token import BUILDERS, TokenContent, TokenKey
from bidstream_svc.core.token_details import read_details

NOW_S = 1_700_000_000
NOW_MS = NOW_S * 1000
UID = base64.b64encode(bytes([0]) + b"r" * 32).decode()
PHONE_UID = base64.b64encode(bytes([4]) + b"r" * 32).decode()
SHORT_UID = base64.b64encode(b"\x04" + b"r" * 31).decode()
IVS: dict[str, Any] = {"master_iv": bytes(12), "site_iv": bytes(range(12))}


def key(key_id: int, keyset_id: int | None, activates_s: int | None = NOW_S - 9, expires_s: int = NOW_S + 9) -> Any:
    secret = base64.b64encode(bytes([key_id]) * 32).decode()
    return {"id": key_id, "keyset_id": keyset_id, "activates": activates_s, "expires": expires_s, "secret": secret}


def snapshot(keys: list[Any], **fields: Any) -> KeySnapshot:
    body = {"keys": keys, "caller_site_id": 101, "master_keyset_id": 1, "default_keyset_id": 2} | fields
    return parse_key_response(json.dumps({"body": body}), KeyPurpose.SHARING)


def test_token_says_who_shares_what_and_until_when() -> None:
    keys = snapshot([key(1, 1), key(2, 2)], token_expiry_seconds="60", identity_scope="EUID")
    status, token = encrypt_raw_uid(UID, keys, NOW_MS, **IVS)
    assert status is EncryptionStatus.SUCCESS
    assert token is not None
    assert decrypt(token, None, keys, NOW_MS) == (DecryptionStatus.SUCCESS, UID, NOW_MS, None)
    long_keys = snapshot([key(1, 1, expires_s=NOW_S + 99), key(2, 2)], identity_scope="EUID")
    assert decrypt(token, None, long_keys, NOW_MS + 60_000)[0] is DecryptionStatus.SUCCESS
    assert decrypt(token, None, long_keys, NOW_MS + 60_001)[0] is DecryptionStatus.EXPIRED_TOKEN


def test_token_without_an_expiry_given_lives_for_thirty_days() -> None:
    keys = snapshot([key(1, 1, expires_s=2 * NOW_S), key(2, 2)])
    token = encrypt_raw_uid(UID, keys, NOW_MS, **IVS).token
    assert decrypt(token, None, keys, NOW_MS + DEFAULT_TOKEN_LIFETIME_S * 1000)[0] is DecryptionStatus.SUCCESS
    assert decrypt(token, None, keys, NOW_MS + DEFAULT_TOKEN_LIFETIME_S * 1000 + 1)[0] is DecryptionStatus.EXPIRED_TOKEN


@pytest.mark.parametrize("scope", list(IdentityScope))
@pytest.mark.parametrize(("uid", "type_bits"), [(UID, 0), (PHONE_UID, 0b100), (SHORT_UID, 0)])
def test_prefix_byte(uid: str, type_bits: int, scope: IdentityScope) -> None:
    keys = snapshot([key(1, 1), key(2, 2)], identity_scope=scope.name)
    token = encrypt_raw_uid(uid, keys, NOW_MS, **IVS).token
    assert token is not None
    assert base64.urlsafe_b64decode(token + "==")[:2] == bytes([scope << 4 | type_bits | 3, 128])


# Operators have two forms of 33 bytes, with and without a version bit, and the higher bits tell environments apart.
@pytest.mark.parametrize("high_bits", [0b000, 0b001, 0b011, 0b101])
@pytest.mark.parametrize("scope", list(IdentityScope))
@pytest.mark.parametrize("kind", list(IdentityType))
@pytest.mark.parametrize("version", [2, 3, 4])
def test_both_forms_of_33_bytes(high_bits: int, scope: IdentityScope, kind: IdentityType, version: int) -> None:
    first = high_bits << 5 | scope << 4 | kind << 2
    uid = base64.b64encode(bytes([first]) + b"r" * 32).decode()
    keys = snapshot([key(1, 1), key(2, 2)], identity_scope=scope.name)
    token = encrypt_raw_uid(uid, keys, NOW_MS, **IVS).token
    details = read_details(token, keys)
    assert details is not None
    assert details.identity_type is kind
    iv = bytes(16 if version == 2 else 12)
    content = TokenContent(raw_uid=uid, site_id=1, expires_ms=NOW_MS, established_ms=NOW_MS, scope=scope)
    built = BUILDERS[version](content, TokenKey(1, bytes([1]) * 32, iv), TokenKey(2, bytes([2]) * 32, iv))
    for made in (token, built):
        assert decrypt(made, None, keys, NOW_MS)[:2] == (DecryptionStatus.SUCCESS, uid)


def layers(token: str, keys: KeySnapshot) -> tuple[bytes, bytes]:
    """The plaintext of the outer and of the inner layer."""
    raw = base64.urlsafe_b64decode(token + "==")
    master_layer = open_gcm(keys.keys[int.from_bytes(raw[2:6], "big")].secret, raw[6:])
    return master_layer, open_gcm(keys.keys[int.from_bytes(master_layer[29:33], "big")].secret, master_layer[33:])


def test_token_was_made_now_by_the_caller() -> None:
    keys = snapshot([key(1, 1), key(2, 2)])
    token = encrypt_raw_uid(UID, keys, NOW_MS, **IVS).token
    assert token is not None
    master_layer, site_layer = layers(token, keys)
    now = NOW_MS.to_bytes(8, "big")
    assert master_layer[8:16] == now, "generated"
    assert master_layer[20] == 1, "by a public operator, as the published SDKs say"
    assert site_layer[:4] == (101).to_bytes(4, "big"), "for the caller's site"
    assert site_layer[20:36] == now + now, "established and refreshed"


def used_key(keys: KeySnapshot, keyset_id: int | None = None) -> int:
    """The id of the key that the inner layer was sealed with."""
    token = encrypt_raw_uid(UID, keys, NOW_MS, **IVS, keyset_id=keyset_id).token
    assert token is not None
    return int.from_bytes(layers(token, keys)[0][29:33], "big")


def test_newest_active_key_of_the_key_set_is_used() -> None:
    keys = snapshot(
        [
            key(1, 1),
            key(2, 2, NOW_S - 3),
            key(3, 2, NOW_S),  # this one, from now on
            key(4, 2, NOW_S + 1),  # not yet
            key(5, 2, NOW_S, NOW_S),  # no longer
            key(6, 3, None),
            key(7, None),
        ]
    )
    assert used_key(keys) == 3
    assert used_key(keys, keyset_id=3) == 6


def test_of_keys_activated_at_the_same_time_the_last_one_is_used() -> None:
    assert used_key(snapshot([key(1, 1), key(3, 2), key(2, 2)])) == 2


def test_of_two_keys_with_one_id_the_last_one_is_used() -> None:
    # Whoever receives the token looks the key up by its id, and finds the last one.
    first, last = key(2, 2), key(2, 2) | {"secret": base64.b64encode(bytes(32)).decode()}
    keys = snapshot([key(1, 1), first, last])
    token = encrypt_raw_uid(UID, keys, NOW_MS, **IVS).token
    assert decrypt(token, None, snapshot([key(1, 1), last]), NOW_MS)[0] is DecryptionStatus.SUCCESS
    assert decrypt(token, None, snapshot([key(1, 1), first]), NOW_MS)[0] is DecryptionStatus.INVALID_PAYLOAD


def test_until_a_new_key_is_active_the_older_one_encrypts_and_the_new_one_decrypts() -> None:
    master, old, new = key(1, 1), key(2, 2), key(3, 2, activates_s=NOW_S + 1)
    assert used_key(snapshot([master, old, new])) == 2
    assert used_key(snapshot([master, old, new | {"activates": NOW_S}])) == 3
    token = encrypt_raw_uid(UID, snapshot([master, new | {"activates": NOW_S}]), NOW_MS, **IVS).token
    assert decrypt(token, None, snapshot([master, old, new]), NOW_MS)[0] is DecryptionStatus.SUCCESS


@pytest.mark.parametrize(
    "unusable",
    [
        {"caller_site_id": -1},
        {"caller_site_id": 2**32},
        {"token_expiry_seconds": 2**62},
        {"token_expiry_seconds": -(2**62)},
        {"keys": [key(1, 1) | {"id": 2**32}, key(2, 2)]},
        {"keys": [key(1, 1), key(2, 2) | {"id": -1}]},
    ],
    ids=str,
)
def test_numbers_that_no_token_can_hold(unusable: dict[str, Any]) -> None:
    keys = snapshot(**{"keys": [key(1, 1), key(2, 2)]} | unusable)
    assert encrypt_raw_uid(UID, keys, NOW_MS, **IVS) == Encryption(EncryptionStatus.ENCRYPTION_FAILURE)


@pytest.mark.parametrize(
    ("keys", "status"),
    [
        (None, EncryptionStatus.NOT_INITIALIZED),
        (snapshot([]), EncryptionStatus.KEYS_NOT_SYNCED),
        (snapshot([key(1, 1, expires_s=NOW_S)]), EncryptionStatus.KEYS_NOT_SYNCED),
        (snapshot([key(2, 2)]), EncryptionStatus.NOT_AUTHORIZED_FOR_MASTER_KEY),
        (snapshot([key(1, 1), key(2, None)], master_keyset_id=None), EncryptionStatus.NOT_AUTHORIZED_FOR_MASTER_KEY),
        (snapshot([key(1, 1)]), EncryptionStatus.NOT_AUTHORIZED_FOR_KEY),
        (snapshot([key(1, 1), key(2, 2, NOW_S + 1)]), EncryptionStatus.NOT_AUTHORIZED_FOR_KEY),
        (snapshot([key(1, 1, NOW_S + 1), key(2, 2)]), EncryptionStatus.NOT_AUTHORIZED_FOR_MASTER_KEY),
        (snapshot([key(1, 1), key(2, 2)], default_keyset_id=None), EncryptionStatus.NOT_AUTHORIZED_FOR_KEY),
        (snapshot([key(1, 1), key(2, 2)], caller_site_id=None), EncryptionStatus.ENCRYPTION_FAILURE),
    ],
)
def test_unusable_keys(keys: KeySnapshot | None, status: EncryptionStatus) -> None:
    assert encrypt_raw_uid(UID, keys, NOW_MS, **IVS) == Encryption(status)


@pytest.mark.parametrize(
    "uid",
    ["", "AAAA", UID[:-4], UID + "AAAA", UID + "\n", " " + UID, "not base64", UID.rstrip("=")[:-1], "é", None, b"\xff"],
)
def test_invalid_raw_uids(uid: Any) -> None:
    keys = snapshot([key(1, 1), key(2, 2)])
    assert encrypt_raw_uid(uid, keys, NOW_MS, **IVS) == Encryption(EncryptionStatus.ENCRYPTION_FAILURE)


def test_repr_shows_no_token() -> None:
    encryption = encrypt_raw_uid(UID, snapshot([key(1, 1), key(2, 2)]), NOW_MS, **IVS)
    assert repr(encryption) == "Encryption(SUCCESS)"
