"""Key responses: optional fields, invalid responses, and no secrets in reprs."""

import json
from base64 import b64encode
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime
from threading import Barrier
from typing import Any, cast

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bidstream_svc.core import key_response as key_response_module
from bidstream_svc.core.decrypt import decrypt
from bidstream_svc.core.errors import KeyResponseError
from bidstream_svc.core.identity import IdentityScope
from bidstream_svc.core.key_response import parse_in_steps, parse_key_response
from bidstream_svc.core.keys import DEFAULT_CLOCK_SKEW_S, NOTHING_SKIPPED, Key, KeyPurpose, KeySnapshot, Site
from bidstream_svc.core.sharing import encrypt_raw_uid
from bidstream_svc.core.status import DecryptionStatus, FailureReason
from tests.core.strategies import anything
from tests.vectors.inputs import LISTED_SITE, MASTER, NOW_MS, NOW_S, SECRETS, SITE, build
from tests.vectors.load import key_response, key_snapshot

SECRET = SECRETS[MASTER]
KEY: dict[str, Any] = {"id": 7, "secret": b64encode(SECRET).decode(), "expires": NOW_S}


def _parse(purpose: KeyPurpose = KeyPurpose.BIDSTREAM, **body: Any) -> KeySnapshot:
    return parse_key_response(json.dumps({"body": {"keys": [KEY]} | body}), purpose)


def test_a_minimal_response() -> None:
    keys = _parse()
    assert keys.scope is IdentityScope.UID2
    assert keys.max_lifetime_ms is None
    assert keys.clock_skew_ms == DEFAULT_CLOCK_SKEW_S * 1000 == 1_800_000
    assert keys.last_expiry_ms == NOW_S * 1000
    assert keys.sites == {}
    assert keys.skipped_keys == keys.skipped_sites == NOTHING_SKIPPED
    assert keys.checks_domains
    assert keys.caller_site_id is keys.master_keyset_id is keys.default_keyset_id is keys.token_expiry_s is None
    key = keys.keys[7]
    assert (key.key_id, key.secret, key.expires_s) == (7, SECRET, NOW_S)
    assert key.activates_s is key.keyset_id is key.site_id is None


OPTIONAL = [
    "site_data",
    "identity_scope",
    "max_bidstream_lifetime_seconds",
    "max_sharing_lifetime_seconds",
    "allow_clock_skew_seconds",
    "caller_site_id",
    "master_keyset_id",
    "default_keyset_id",
    "token_expiry_seconds",
]


@pytest.mark.parametrize("field", OPTIONAL)
def test_optional_fields_may_be_null(field: str) -> None:
    body: dict[str, Any] = {field: None}
    missing, null = _parse(), _parse(**body)
    for name in KeySnapshot.__slots__:
        if name not in {"master_gcm_ciphers", "site_gcm_ciphers", "domain_names", "local"}:
            assert getattr(null, name) == getattr(missing, name)


def test_a_key_may_miss_what_decrypting_does_not_need() -> None:
    keys = _parse(keys=[KEY | {"created": None, "activates": None, "keyset_id": None, "site_id": 5}])
    assert keys.keys[7].activates_s is None


def test_a_complete_response() -> None:
    response: dict[str, Any] = {
        "keys": [KEY | {"created": 1, "activates": 2, "keyset_id": 3}, KEY | {"id": 8, "expires": NOW_S + 1}],
        "identity_scope": "EUID",
        "max_bidstream_lifetime_seconds": 10,
        "max_sharing_lifetime_seconds": 20,
        "allow_clock_skew_seconds": 0,
        "caller_site_id": 11,
        "master_keyset_id": 1,
        "default_keyset_id": 99,
        "token_expiry_seconds": 3600,
        "site_data": [{"id": 5, "domain_names": ["A.example. "]}],
        "something_new": {"is": ["ignored"]},
    }
    bidstream, sharing = _parse(**response), _parse(KeyPurpose.SHARING, **response)
    assert bidstream.scope is sharing.scope is IdentityScope.EUID
    assert (bidstream.max_lifetime_ms, sharing.max_lifetime_ms) == (10_000, 20_000)
    assert (bidstream.checks_domains, sharing.checks_domains) == (True, False)
    assert bidstream.clock_skew_ms == 0
    assert bidstream.last_expiry_ms == (NOW_S + 1) * 1000
    assert (sharing.caller_site_id, sharing.master_keyset_id, sharing.default_keyset_id) == (11, 1, 99)
    assert bidstream.caller_site_id is bidstream.token_expiry_s is None
    assert (bidstream.keys[7].activates_s, bidstream.keys[7].keyset_id) == (2, 3)
    assert bidstream.domain_names[5] == {"a.example"}


# Notations of 259200.
NOTATIONS = ["259200", "259200.0", "2592e2", '"259200"', '"259200.0"']


@pytest.mark.parametrize("notation", NOTATIONS)
@pytest.mark.parametrize("purpose", KeyPurpose)
def test_integers_may_be_written_as_fractions_of_zero_and_as_text(purpose: KeyPurpose, notation: str) -> None:
    integers = dict.fromkeys(("id", "expires", "activates", "created", "keyset_id"), 259200)
    plain: dict[str, Any] = {
        "keys": [KEY | {"id": 1}, KEY | integers],
        "site_data": [{"id": 259200, "domain_names": ["a.example"]}],
        **{name: 259200 for name in OPTIONAL if name.endswith(("_seconds", "_id"))},
    }
    written = json.dumps({"body": plain}).replace("259200", notation)
    expected, keys = _parse(purpose, **plain), parse_key_response(written, purpose)
    assert (keys.skipped_keys, keys.skipped_sites) == (NOTHING_SKIPPED, NOTHING_SKIPPED)
    for name in ("keys", "sites", "max_lifetime_ms", "clock_skew_ms", "last_expiry_ms", "caller_site_id"):
        assert getattr(keys, name) == getattr(expected, name)
    for name in ("master_keyset_id", "default_keyset_id", "token_expiry_s"):
        assert getattr(keys, name) == (259200 if purpose is KeyPurpose.SHARING else None)
    assert keys.max_lifetime_ms == keys.clock_skew_ms == 259_200_000
    assert keys.domain_names[259200] == {"a.example"}


def test_keys_and_sites_have_the_same_fields_in_both_decoders() -> None:
    assert key_response_module._LenientKey.__struct_encode_fields__ == Key.__struct_encode_fields__
    assert key_response_module._LenientSite.__struct_encode_fields__ == Site.__struct_encode_fields__


@pytest.mark.parametrize("expires", [2**63 - 1, '"9223372036854775807"', 9e18])
def test_an_expiry_beyond_any_date_is_the_last_date(expires: object) -> None:
    keys = parse_key_response(json.dumps({"body": {"keys": [KEY]}}).replace(str(NOW_S), str(expires)))
    assert datetime.fromtimestamp(keys.last_expiry_ms / 1000, UTC).year == 9999


@pytest.mark.parametrize("length", [16, 24, 32])
def test_lengths_of_aes_keys(length: int) -> None:
    secret = bytes(range(length))
    assert _parse(keys=[KEY | {"secret": b64encode(secret).decode()}]).keys[7].secret == secret


BAD_KEY_FIELDS: dict[str, list[Any]] = {
    "id": [None, "seven", "", " 7", 7.5, "7.5", True, 2**63, -(2**63) - 1, 10**30, 1e300, "9" * 20],
    "expires": [None, "soon", "null", 1.5, [], True, False, {}, "NaN", "1e5"],
    "secret": [
        *(None, 5, "", "!!!!", "AAAA", KEY["secret"][:-1], "-" * 42 + "8="),
        *(b64encode(bytes(31)).decode(), b64encode(bytes(33)).decode()),
    ],
}
# Decryption needs none of these.
ODD_KEY_FIELDS: dict[str, list[Any]] = {
    "activates": ["now", "null", 1.5, True],
    "created": ["null", 2**64, 1.5, {}],
    "keyset_id": [[1], "null", 1.5],
    "site_id": [1.5, "five", []],
}
BAD_BODY_FIELDS: dict[str, list[Any]] = {
    "identity_scope": ["euid", "", "UID3", 1],
    "max_bidstream_lifetime_seconds": ["a day", "null", 1.5, "1.5", 1e300, 10**30],
    "allow_clock_skew_seconds": ["", True, [], 2**63],
    "site_data": [{}, 5, ""],
}
BAD_RESPONSES: dict[str, str | bytes] = {
    "empty": b"",
    "no JSON": b"<html>502 Bad Gateway</html>",
    "cut": b'{"body":{"keys":[',
    "more behind it": b'{"body":{"keys":[]}}x',
    "null": b"null",
    "a list": b"[]",
    "no body": b"{}",
    "null body": b'{"body":null}',
    "an error": b'{"status":"client_error","message":"sorry"}',
    "no keys": b'{"body":{}}',
    "null keys": b'{"body":{"keys":null}}',
    "a null key": b'{"body":{"keys":[null]}}',
    **{
        f"{number} as {name}": json.dumps({"body": {"keys": [KEY], name: 5}}).replace("5}", number + "}")
        for number in ("NaN", "Infinity", "-Infinity", "1e400", "-1e400")
        for name in ("allow_clock_skew_seconds", "max_bidstream_lifetime_seconds")
    },
    "no UTF-8": b'{"body":{"keys":[],"identity_scope":"\xff"}}',
    "a lone surrogate": '{"body":{"keys":[]}}\ud800',
    "nested too deep": b'{"body":{"keys":[],"unknown":' + b"[" * 100_000 + b"]" * 100_000 + b"}}",
    **{
        f"key with {name} {value!r:.40}": json.dumps({"body": {"keys": [KEY | {name: value}]}})
        for name, values in BAD_KEY_FIELDS.items()
        for value in values
    },
    **{
        f"key without {name}": json.dumps({"body": {"keys": [{k: v for k, v in KEY.items() if k != name}]}})
        for name in KEY
    },
    **{
        f"{name} {value!r:.40}": json.dumps({"body": {"keys": [KEY], name: value}})
        for name, values in BAD_BODY_FIELDS.items()
        for value in values
    },
}


@pytest.mark.parametrize("response", [pytest.param(r, id=name) for name, r in BAD_RESPONSES.items()])
def test_bad_response(response: str | bytes) -> None:
    with pytest.raises(KeyResponseError, match=r"^key response: ") as caught:
        parse_key_response(response)
    shown = str(caught.value)
    assert len(shown) < 200
    for part in (KEY["secret"], "made-up", "Bad Gateway", "sorry", "soon", "an hour"):
        assert part not in shown


ODD_SHARING_FIELDS: dict[str, list[Any]] = {
    "token_expiry_seconds": ["", "an hour", "1.5", 1.5, "9" * 5000],
    "max_sharing_lifetime_seconds": [1.5, "", {}],
    "caller_site_id": ["null"],
    "master_keyset_id": [1.5],
    "default_keyset_id": [[]],
}


@pytest.mark.parametrize(("name", "value"), [(name, v) for name, values in ODD_SHARING_FIELDS.items() for v in values])
def test_a_malformed_field_is_refused_only_where_it_is_needed(name: str, value: object) -> None:
    body = {name: value}
    assert set(_parse(KeyPurpose.BIDSTREAM, **body).keys) == {7}
    with pytest.raises(KeyResponseError, match=f"^key response: .*{name}"):
        _parse(KeyPurpose.SHARING, **body)
    _parse(KeyPurpose.SHARING, max_bidstream_lifetime_seconds=1.5)


@pytest.mark.parametrize("purpose", KeyPurpose)
@pytest.mark.parametrize(("name", "value"), [(name, v) for name, values in ODD_KEY_FIELDS.items() for v in values])
def test_a_key_with_an_odd_field_decrypts_and_does_not_encrypt(purpose: KeyPurpose, name: str, value: object) -> None:
    odd = KEY | {"keyset_id": 1, "activates": 1, "expires": NOW_S + 9, name: value}
    sharing = dict.fromkeys(("caller_site_id", "master_keyset_id", "default_keyset_id"), 1)
    keys = _parse(purpose, keys=[odd], **sharing)
    assert keys.skipped_keys == NOTHING_SKIPPED
    assert (keys.keys[7].secret, keys.keys[7].expires_s) == (SECRET, NOW_S + 9)
    assert keys.master_gcm_ciphers[7] is not None
    if purpose is KeyPurpose.SHARING:
        raw_uid = b64encode(bytes(32)).decode()
        made = encrypt_raw_uid(raw_uid, keys, NOW_MS, master_iv=bytes(12), site_iv=bytes(12))
        unused = name == "created"
        assert made.status == ("SUCCESS" if unused else "NOT_AUTHORIZED_FOR_MASTER_KEY")


MALFORMED_KEYS: list[Any] = [
    *(None, 5, "text", [], {}),
    *({k: v for k, v in KEY.items() if k != name} for name in KEY),
    *(KEY | {name: value} for name, values in BAD_KEY_FIELDS.items() for value in values),
]
MALFORMED_SITES: list[Any] = [None, 5, [], {}, {"domain_names": []}, {"id": "five"}, {"id": None}, {"id": 1.5}]


@pytest.mark.parametrize("malformed", MALFORMED_KEYS, ids=lambda key: repr(key)[:60])
def test_a_malformed_key_is_skipped_and_named_by_its_place(malformed: object) -> None:
    keys = _parse(keys=[KEY, malformed, KEY | {"id": 8}], site_data=[{"id": 5, "domain_names": ["a.example"]}])
    assert set(keys.keys) == {7, 8}
    assert set(keys.sites) == {5}
    assert (keys.skipped_keys.count, keys.skipped_sites) == (1, NOTHING_SKIPPED)
    (reason,) = keys.skipped_keys.reasons
    assert reason.startswith("keys[1]: ")
    assert KEY["secret"][:8] not in reason
    assert "soon" not in reason


def test_a_number_too_large_to_read_costs_its_own_key_only() -> None:
    response = json.dumps({"body": {"keys": [KEY, KEY | {"id": 8, "expires": 5}]}}).replace(": 5}", ": 1e400}")
    keys = parse_key_response(response)
    assert (set(keys.keys), keys.skipped_keys.reasons) == ({7}, ("keys[1]: Number out of range - at `$.expires`",))


@pytest.mark.parametrize("malformed", MALFORMED_SITES, ids=repr)
def test_a_malformed_site_is_skipped_and_named_by_its_place(malformed: object) -> None:
    keys = _parse(site_data=[malformed, {"id": 5, "domain_names": ["a.example"]}])
    assert (set(keys.keys), set(keys.sites)) == ({7}, {5})
    assert (keys.skipped_keys, keys.skipped_sites.count) == (NOTHING_SKIPPED, 1)
    assert keys.skipped_sites.reasons[0].startswith("site_data[0]: ")
    assert _parse(site_data=[malformed]).sites == {}, "sites are optional"


def test_malformed_bytes_cost_their_own_key_only() -> None:
    response = json.dumps({"body": {"keys": [KEY, KEY | {"id": 8, "secret": "SECRET"}]}}).encode()
    keys = parse_key_response(response.replace(b"SECRET", b"\xff\xfe"))
    assert (set(keys.keys), keys.skipped_keys.count) == ({7}, 1)


# Some cut a text in the middle of a character. JSON without the strings, which are in the place of X:
@pytest.mark.parametrize("half", [r"\ud83d", r"\uDE00", r"x\uD83d\ud83dx", r"\ud83d\n", r"\\\ud83d", r"\ude00\ud83d"])
@pytest.mark.parametrize(
    ("place", "skipped"),
    [
        ('{"keys": [KEY], "unknown": "X"}', (0, 0)),
        ('{"keys": [KEY, {"id": 8, "secret": "X", "expires": 5}]}', (1, 0)),
        ('{"keys": [KEY, {"id": "X", "secret": "AAAA", "expires": 5}]}', (1, 0)),
        ('{"keys": [KEY, "X"]}', (1, 0)),
        ('{"keys": [KEY, {"X": 1}]}', (1, 0)),
        ('{"keys": [KEY], "site_data": [{"id": 5, "domain_names": ["a.example", "X"], "name": "X"}]}', (0, 1)),
        ('{"keys": [KEY], "site_data": [{"id": 5, "domain_names": ["a.example"]}, {"id": "X"}]}', (0, 1)),
    ],
)
def test_half_a_character_costs_its_own_text_only(place: str, skipped: tuple[int, int], half: str) -> None:
    keys = _parse_text(place.replace("X", half))
    assert set(keys.keys) == {7}
    assert (keys.skipped_keys.count, keys.skipped_sites.count) == skipped
    assert not keys.sites or keys.domain_names[5] == {"a.example"}
    with pytest.raises(KeyResponseError, match=r"^key response: "):
        _parse_text('{"keys": [KEY], "identity_scope": "X"}'.replace("X", half))


def test_whole_characters_and_escaped_backslashes_stay() -> None:
    names = r'"\ud83d\ude00", "\\ud83d", "\ud83d\ude00\ude00"'
    keys = _parse_text('{"keys": [KEY], "site_data": [{"id": 5, "domain_names": [NAMES]}]}'.replace("NAMES", names))
    assert keys.domain_names[5] == {"\U0001f600", r"\ud83d"}
    assert keys.skipped_sites.count == 1


def _parse_text(body: str) -> KeySnapshot:
    return parse_key_response(f'{{"body": {body.replace("KEY", json.dumps(KEY))}}}'.encode())


def test_all_that_is_skipped_is_counted_and_the_first_few_are_named() -> None:
    keys = _parse(keys=[KEY, *[{}] * 1000])
    assert keys.skipped_keys.count == 1000
    assert [reason.partition(":")[0] for reason in keys.skipped_keys.reasons] == [f"keys[{n}]" for n in range(1, 6)]


def test_a_response_of_malformed_keys_only_is_refused() -> None:
    with pytest.raises(KeyResponseError, match=r"^key response: keys\[0\]: .*secret"):
        _parse(keys=[KEY | {"secret": None}, {}])


@given(anything)
def test_any_json_parses_or_is_refused(body: object) -> None:
    for response in (body, {"body": body}, {"body": {"keys": body}}, {"body": {"keys": [], "site_data": body}}):
        try:
            parse_key_response(json.dumps(response, default=repr))
        except KeyResponseError:
            continue


@given(st.binary() | st.text(st.characters(categories=None)))
def test_anything_is_refused(response: bytes | str) -> None:
    with pytest.raises(KeyResponseError):
        parse_key_response(response)


# --- sites


@pytest.mark.parametrize(
    ("names", "reason"),
    [
        (b"null", None),
        (b"[]", None),
        (b'"example.com"', ": Expected `array`, got `str`"),
        (b"5", ": Expected `array`, got `int`"),
        (b"{}", ": Expected `array`, got `object`"),
        (b"[5]", "[0]: Expected `str`, got `int`"),
        (b'[["example.com"]]', "[0]: Expected `str`, got `array`"),
        (b'["\xff"]', "[0]: 'utf-8' codec can't decode"),
        (b'["example.com\xff"]', "[0]: 'utf-8' codec can't decode"),
        (b'["\xed\xa0\x80"]', "[0]: 'utf-8' codec can't decode"),
    ],
    ids=ascii,
)
def test_malformed_domain_names_list_nothing_and_stop_nothing(names: bytes, reason: str | None) -> None:
    body = key_response("uid2")[0]["body"]
    sites = [{"id": LISTED_SITE, "domain_names": "MALFORMED"}, {"id": 11, "domain_names": ["example.com"]}]
    response = json.dumps({"body": body | {"site_data": sites}}).encode()
    keys = parse_key_response(response.replace(b'"MALFORMED"', names))
    assert keys.domain_names[LISTED_SITE] == frozenset()
    assert keys.skipped_sites.count == (reason is not None)
    assert all(shown.startswith(f"site_data[0].domain_names{reason}") for shown in keys.skipped_sites.reasons)
    malformed, other = (build(4, privacy_bits=2, site_id=site_id).token for site_id in (LISTED_SITE, 11))
    assert decrypt(malformed, "example.com", keys, NOW_MS)[3] is FailureReason.DOMAIN_NOT_LISTED
    assert decrypt(other, "example.com", keys, NOW_MS)[0] is DecryptionStatus.SUCCESS


def test_a_malformed_name_is_skipped_and_counted_and_the_others_are_used() -> None:
    names = ["a.example", None, 5, "B.example", ["c.example"], True]
    keys = _parse(site_data=[{"id": 4, "domain_names": ["d.example"]}, {"id": 5, "domain_names": names}, None])
    assert keys.domain_names[5] == {"a.example", "b.example"}
    assert keys.domain_names[4] == {"d.example"}
    assert keys.skipped_sites.count == 5
    assert [reason.partition(":")[0] for reason in keys.skipped_sites.reasons] == [
        *(f"site_data[1].domain_names[{index}]" for index in (1, 2, 4, 5)),
        "site_data[2]",
    ]
    assert "example" not in str(keys.skipped_sites)


def test_names_are_read_once_and_unknown_sites_are_not_kept() -> None:
    keys = _parse(site_data=[{"id": 5, "domain_names": ["example.com"]}])
    assert keys.domain_names[5] is keys.domain_names[5]
    with pytest.raises(KeyError):
        keys.domain_names[6]
    assert set(keys.domain_names) == {5}


# --- look-ups


def test_ciphers_are_made_once_and_unknown_ids_are_not_kept() -> None:
    keys = _parse()
    assert keys.master_gcm_ciphers[7] is keys.master_gcm_ciphers[7]
    with pytest.raises(KeyError):
        keys.master_gcm_ciphers[8]
    assert set(keys.master_gcm_ciphers) == {7}


def test_the_last_of_two_keys_with_one_id_counts() -> None:
    other = b64encode(bytes(32)).decode()
    assert _parse(keys=[KEY, KEY | {"secret": other}]).keys[7].secret == bytes(32)
    assert _parse(keys=[KEY | {"secret": other}, KEY | {"secret": None}]).keys[7].secret == bytes(32)


@pytest.mark.parametrize("version", [2, 3, 4])
def test_keys_that_are_not_yet_active_decrypt(version: int) -> None:
    body = key_response("uid2")[0]["body"]
    keys = [key | {"activates": NOW_S + 86_400} for key in body["keys"]]
    early = parse_key_response(json.dumps({"body": body | {"keys": keys}}))
    assert decrypt(build(version).token, None, early, NOW_MS)[0] is DecryptionStatus.SUCCESS


def test_reprs_hold_counts_and_ids_only() -> None:
    keys = key_snapshot("uid2")
    assert keys is not None
    assert repr(keys) == f"KeySnapshot(UID2, {len(keys.keys)} keys, 4 sites)"
    assert repr(_parse().keys[7]) == f"Key(key_id=7, expires_s={NOW_S}, keyset_id=None)"
    assert repr(keys.domain_names).endswith("of 4 sites read)")
    shown = f"{keys} {keys!r} {keys.keys} {keys.sites} {keys.domain_names}"
    for part in ("made-up", KEY["secret"], "example", "acme"):
        assert part not in shown


def _reuse(response: dict[str, Any], previous: KeySnapshot) -> KeySnapshot:
    steps = parse_in_steps(json.dumps({"body": response}), previous=previous)
    while True:
        try:
            next(steps)
        except StopIteration as end:
            return cast("KeySnapshot", end.value)


def test_ciphers_and_names_are_reused_while_keys_and_sites_are_unchanged() -> None:
    other = b64encode(bytes(32)).decode()
    sites = [{"id": number, "domain_names": [f"{number}.example"]} for number in (1, 2, 3)]
    body = {"keys": [KEY | {"id": number} for number in (1, 2, 3)], "site_data": sites}
    held = parse_key_response(json.dumps({"body": body}))
    ciphers = {number: (held.master_gcm_ciphers[number], held.site_gcm_ciphers[number]) for number in (1, 2, 3)}
    names = {number: held.domain_names[number] for number in (1, 2, 3)}

    # 1 as it was, though it expires later; 2 with other contents; 3 gone; 4 new.
    keys = [KEY | {"id": 1, "expires": NOW_S + 9}, KEY | {"id": 2, "secret": other}, KEY | {"id": 4}]
    new = _reuse({"keys": keys, "site_data": [sites[0], sites[1] | {"domain_names": ["else.example"]}]}, held)
    assert (dict(new.master_gcm_ciphers), dict(new.site_gcm_ciphers)) == ({}, {}), "named by no token yet"
    assert new.master_gcm_ciphers[1] == new.site_gcm_ciphers[1]
    assert new.master_gcm_ciphers[1] in ciphers[1]
    assert dict(new.domain_names) == {1: names[1]}
    assert new.master_gcm_ciphers[2] != ciphers[2][0]
    assert new.domain_names[2] == {"else.example"}
    for missing in (new.master_gcm_ciphers, new.domain_names):
        with pytest.raises(KeyError):
            missing[3]
    # What lay unused for a while is still there.
    later = _reuse({"keys": keys}, _reuse({"keys": keys}, new))
    assert later.site_gcm_ciphers[1] in ciphers[1]


def test_parsing_pauses_often_enough_for_other_threads() -> None:
    many = 1_000
    body = {
        "keys": [KEY | {"id": number} for number in range(many)],
        "site_data": [{"id": number, "domain_names": [f"{number}.example"]} for number in range(many)],
    }
    held = parse_key_response(json.dumps({"body": body}))
    for number in range(many):
        assert held.site_gcm_ciphers[number] is not None
        assert held.domain_names[number]
    pauses = list(parse_in_steps(json.dumps({"body": body}), previous=held))
    assert len(pauses) > 4 * many / 100, "keys, sites, and what is reused of either"


def test_one_snapshot_serves_many_threads() -> None:
    response = json.dumps(key_response("uid2")[0])
    keys = parse_key_response(response)  # fresh: threads race for the first use of each cipher, too
    cases = [
        (build(version, privacy_bits=2, established_ms=number).token, number)
        for version in (2, 3, 4)
        for number in range(8)
    ]

    threads = 8
    start = Barrier(threads)
    # Small messages hold the interpreter, so mixed-up ones may not show: look at who holds what, too.
    bound: set[object] = set()

    def decrypt_all(_: int) -> int:
        start.wait()
        wanted = [(DecryptionStatus.SUCCESS, established_ms) for _, established_ms in cases]
        got = [decrypt(token, "www.example.com", keys, NOW_MS) for token, _ in cases * 20]
        bound.add(keys.local.decrypt)
        return sum((v[0], v[2]) == w for v, w in zip(got, wanted * 20, strict=True))

    with ThreadPoolExecutor(threads) as pool:
        assert list(pool.map(decrypt_all, range(threads))) == [len(cases) * 20] * threads
    assert len(bound) == threads, "a cipher context of v2 belongs to one thread"
    assert (set(keys.master_gcm_ciphers), set(keys.site_gcm_ciphers)) == ({MASTER}, {SITE})
