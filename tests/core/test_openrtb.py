"""Bid requests in files, names in them, limits, and hostile ones."""

import json
import tracemalloc
from collections.abc import Generator

import pytest

from bidstream_svc.core.decrypt import Verdict
from bidstream_svc.core.errors import BidRequestError
from bidstream_svc.core.identity import IdentityScope
from bidstream_svc.core.openrtb import (
    MAX_ENTRIES,
    BidRequestDecryptor,
    bind_keys,
    decrypt_bid_request,
    finish_if_steps,
    rewrite_bid_request,
)
from bidstream_svc.core.openrtb.bid_names import app_id_in_store_url, host_of
from bidstream_svc.core.openrtb.json_check import finish
from bidstream_svc.core.status import DecryptionStatus
from tests.core.openrtb_cases import BID_REQUESTS, DIRECTORY, REFUSED, files
from tests.core.openrtb_compare import KEYS, compare
from tests.core.openrtb_strategies import TOKENS
from tests.vectors.inputs import NOW_MS, RAW_UID

MAX_BYTES = 512 * 1024


def _eid(*tokens: str, source: str = "uidapi.com") -> dict[str, object]:
    return {"source": source, "uids": [{"id": token} for token in tokens]}


def _request(*eids: object, **fields: object) -> bytes:
    return json.dumps({**fields, "user": {"eids": eids}}).encode()


@pytest.mark.parametrize("name", BID_REQUESTS)
def test_bid_request(name: str) -> None:
    body, answer, rewritten = (
        (DIRECTORY / f"{name}.{kind}").read_bytes() for kind in ("request", "answer", "rewritten")
    )
    found = compare(body)
    assert found is not None
    assert found.answer() == json.loads(answer)
    assert found.rewritten.encode() == rewritten
    assert rewrite_bid_request(rewritten, KEYS, NOW_MS)[0].count(b'"') <= rewritten.count(b'"')


@pytest.mark.parametrize("name", REFUSED)
def test_what_is_not_a_json_object_is_refused(name: str) -> None:
    body = (DIRECTORY / f"{name}.refused").read_bytes()
    assert compare(body) is None
    for function in (decrypt_bid_request, rewrite_bid_request):
        with pytest.raises(BidRequestError, match="not a JSON object") as caught:
            function(body, KEYS, NOW_MS)
        assert caught.value.__cause__ is None


def test_generator_reproduces_the_committed_files() -> None:
    committed = {path.name: path.read_bytes() for path in DIRECTORY.iterdir()}
    assert committed == files()


def test_white_space_between_values_stays_where_nothing_is_removed() -> None:
    body = (DIRECTORY / "white-space.request").read_bytes()
    rewritten, _ = rewrite_bid_request(body, KEYS, NOW_MS)
    assert rewritten == body.replace(TOKENS["V4"].encode(), RAW_UID.encode())


@pytest.mark.parametrize("count", [MAX_ENTRIES, MAX_ENTRIES + 1, 3 * MAX_ENTRIES])
def test_at_most_so_many_entries_are_decrypted(count: int) -> None:
    body = _request(*[_eid(TOKENS["V4"]) for _ in range(count)])
    assert len(decrypt_bid_request(body, KEYS, NOW_MS).ids) == MAX_ENTRIES
    rewritten, statuses = rewrite_bid_request(body, KEYS, NOW_MS)
    assert rewritten.count(RAW_UID.encode()) == len(statuses) == MAX_ENTRIES
    assert TOKENS["V4"].encode() not in rewritten


def test_a_token_is_decrypted_once_for_each_programme() -> None:
    calls: list[object] = []

    def count(token: object, _names: object, _now_ms: int) -> Verdict:
        calls.append(token)
        return DecryptionStatus.SUCCESS, "uid", 5, None

    decryptor = BidRequestDecryptor(dict.fromkeys(IdentityScope, count))
    body = _request(_eid("t", "t", "u"), _eid("t", source="euid.eu"))
    assert len(finish_if_steps(decryptor.find(body, NOW_MS)).ids) == 4
    assert calls == ["t", "u", "t"]


def test_a_programme_without_keys_is_not_initialized() -> None:
    body = _request(_eid(TOKENS["V4"]), _eid(TOKENS["EUID"], source="euid.eu"))
    assert [found.status for found in decrypt_bid_request(body, KEYS[:1], NOW_MS).ids] == ["SUCCESS", "NOT_INITIALIZED"]


def test_sources_may_be_others() -> None:
    decryptor = bind_keys(KEYS, {"example.org": IdentityScope.EUID})
    body = _request(_eid(TOKENS["V4"]), _eid(TOKENS["EUID"], source="Example.ORG"))
    (found,) = finish_if_steps(decryptor.find(body, NOW_MS)).ids
    assert (found.path, found.scope, found.status) == ("/user/eids/1/uids/0", "EUID", "SUCCESS")


def test_a_request_shows_neither_tokens_nor_ids() -> None:
    shown = repr(decrypt_bid_request(_request(_eid(TOKENS["V4"]), id="secret"), KEYS, NOW_MS))
    assert TOKENS["V4"] not in shown
    assert RAW_UID not in shown
    assert "secret" not in shown


def test_the_id_of_a_request() -> None:
    def id_of(spelling: str) -> str | None:
        return decrypt_bid_request(f'{{"id":{spelling}}}'.encode(), KEYS, NOW_MS).id

    assert [id_of(text) for text in ('"a"', '"\\u0061"', '"\\ud800"', "7", "null", '{"x":"y"}')] == [
        *("a", "a", "\N{REPLACEMENT CHARACTER}"),
        *(None, None, None),
    ]


@pytest.mark.parametrize(
    ("url", "host"),
    [
        ("example.com", "example.com"),
        ("https://example.com", "example.com"),
        ("HTTPS://Example.com:8080/x", "Example.com"),
        ("//example.com/x", "example.com"),
        (r"http:\\example.com\x", "example.com"),
        ("example.com:80", "example.com"),
        ("example.com?u=https://other.org/", "example.com"),
        ("example.com/https://other.org/", "example.com"),
        ("example.com#x", "example.com"),
        ("https://user:word@example.com/", "example.com"),
        ("https://other.org@example.com/", "example.com"),
        ("https://example.com/@other.org", "example.com"),
        ("  https://example.com ", "example.com"),
        ("https:///example.com", "example.com"),
        ("https://[2001:db8::1]:80/", "[2001:db8::1]"),
        ("https://", ""),
        ("", ""),
    ],
)
def test_host_of(url: str, host: str) -> None:
    assert host_of(url) == host


@pytest.mark.parametrize(
    ("url", "app_id"),
    [
        ("https://apps.apple.com/us/app/some-name/id123456789", "123456789"),
        ("https://apps.apple.com/app/id123456789?mt=8#x", "123456789"),
        ("http://itunes.apple.com/us/app/id123456789/", "123456789"),
        ("https://apps.apple.com/us/app/id123456789/reviews", ""),
        ("https://apps.apple.com/us/app/idx", ""),
        ("https://play.google.com/store/apps/details?id=com.acme.shooter", "com.acme.shooter"),
        ("https://play.google.com/store/apps/details?hl=en&id=com.acme.shooter&x=y", "com.acme.shooter"),
        (r"https://play.google.com/store/apps/details?id\u003dcom.acme.shooter\u0026hl=en", "com.acme.shooter"),
        ("market://details?id=com.acme.shooter", "com.acme.shooter"),
        ("https://play.google.com/store/apps/details?xid=com.acme.shooter", ""),
        ("https://example.com/?id=com.acme.shooter", ""),
        ("https://example.com/play.google.com?id=com.acme.shooter", ""),
        ("https://play.google.com", ""),
        ("", ""),
    ],
)
def test_app_id_in_store_url(url: str, app_id: str) -> None:
    assert app_id_in_store_url(url) == app_id


_Hostile = tuple[str, str, str]


def _list(pattern: str) -> _Hostile:
    return f'{{"user":{{"eids":[{json.dumps(_eid(TOKENS["V4"]))}]}},"x":[', pattern, "0]}"


def _body(hostile: _Hostile, size: int) -> bytes:
    """An opening, a pattern as often as it fits, and a closing."""
    opening, pattern, closing = hostile
    return (opening + pattern * ((size - len(opening) - len(closing)) // len(pattern)) + closing).encode()


_EIDS, _END = '{"user":{"eids":[', "0]}}"
_UIDS, _END_UIDS = '{"user":{"eids":[{"source":"uidapi.com","uids":[', "0]}]}}"
HOSTILE: dict[str, _Hostile] = {
    "arrays": _list("[],"),
    "objects": _list("{},"),
    "deep": _list("[" * 60 + "]" * 60 + ","),
    "strings": _list('"",'),
    "numbers": _list("1,"),
    "spaces": _list("               1,"),
    "backslashes": _list('"\\\\\\\\\\\\\\"",'),
    "surrogates": _list('"\\ud800",'),
    "brackets in strings": _list('"}{",'),
    "empty eids": (_EIDS, "{},", _END),
    "our eids": (_EIDS, '{"source":"uidapi.com","uids":[{"id":""}]},', _END),
    "our uids": (_UIDS, '{"id":"x"},', _END_UIDS),
    "names": ("{", '"user":1,', '"x":1}'),
    "users": ("{", '"user":{"eids":[]},', '"x":1}'),
    "two ids": (_UIDS + "{", '"id":"x",', '"id":"y"}]}]}}'),
    "escaped names": ("{", '"\\u0065":1,', '"x":1}'),
    "spaces before": ("", " ", "{}"),
    "spaces behind": ("{}", " ", ""),
    "one string": ('{"site":{"page":"', "x", '"}}'),
}


@pytest.mark.parametrize("name", HOSTILE)
def test_hostile_bid_requests_are_answered_in_steps(name: str) -> None:
    body = _body(HOSTILE[name], MAX_BYTES)
    assert MAX_BYTES - 200 < len(body) <= MAX_BYTES
    result = bind_keys(KEYS).rewrite(body, NOW_MS)
    assert isinstance(result, Generator), "another connection gets its turn in between"
    finish(result)
    compare(_body(HOSTILE[name], 40_000))


@pytest.mark.parametrize("spaces", [0, 1])
def test_few_tokens_are_decrypted_without_a_turn_for_others(spaces: int) -> None:
    """One that needs a name may take a tenth of a millisecond. The list with spaces has another token in each entry."""
    calls = 0

    def count(_token: object, _names: object, _now_ms: int) -> Verdict:
        nonlocal calls
        calls += 1
        return DecryptionStatus.SUCCESS, "uid", 5, None

    decryptor = BidRequestDecryptor(dict.fromkeys(IdentityScope, count))
    body = _request(*[_eid(TOKENS["V4"] + " " * spaces * index) for index in range(MAX_ENTRIES)])
    for steps in (decryptor.find(body, NOW_MS), decryptor.rewrite(body, NOW_MS)):
        assert isinstance(steps, Generator)
        before = calls
        for _ in steps:
            assert calls <= before + 16
            before = calls
        assert calls <= before + 16
    assert calls == 2 * (MAX_ENTRIES if spaces else 1)


def test_a_long_bid_request_gives_what_a_short_one_does() -> None:
    eids = [_eid(TOKENS[name], TOKENS["EXPIRED"]) for name in ("V4", "V3", "V2", "CLIENT_SIDE")]
    short, long = (_request(*eids, site={"domain": "example.com"}, x="y" * size) for size in (10, 100_000))
    assert decrypt_bid_request(short, KEYS, NOW_MS).to_json() == decrypt_bid_request(long, KEYS, NOW_MS).to_json()
    assert rewrite_bid_request(short, KEYS, NOW_MS)[1] == rewrite_bid_request(long, KEYS, NOW_MS)[1]


@pytest.mark.parametrize("element", ["{}", "0", '{"id":""}'])
@pytest.mark.parametrize("frame", ['{"user":{"eids":[%s]}}', '{"user":{"eids":[{"source":"euid.eu","uids":[%s]}]}}'])
def test_memory_for_many_elements(frame: str, element: str) -> None:
    """Many such requests may be in progress at once, and what they hold is counted by the length of their bodies."""
    body = (frame % ",".join([element] * (48 * 1024 // (1 + len(element))))).encode()
    for method in (bind_keys(KEYS).find, bind_keys(KEYS).rewrite):
        tracemalloc.start()
        try:
            finish_if_steps(method(body, NOW_MS))
            _, peak_bytes = tracemalloc.get_traced_memory()
        finally:
            tracemalloc.stop()
        assert peak_bytes < 12 * len(body)
