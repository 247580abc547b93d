"""Shortcuts for the usual bid request: whenever one answers, the long way gives the same."""

import json
from collections.abc import Generator

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bidstream_svc.core.decrypt import Verdict, bind_decrypt
from bidstream_svc.core.domains import NameCandidates
from bidstream_svc.core.kernel import IS_NATIVE, build_kernel, count, is_usual_text
from bidstream_svc.core.openrtb import MAX_ENTRIES, SOURCES, ask_kernel_first, bind_keys
from bidstream_svc.core.openrtb.bid_scanner import BidScanner
from bidstream_svc.core.openrtb.json_check import finish, is_shallow, is_utf8
from tests.core.openrtb_compare import KEYS, compare
from tests.core.openrtb_strategies import TOKENS
from tests.vectors.inputs import NOW_MS

needs_kernel = pytest.mark.skipif(not IS_NATIVE, reason="the kernel was not built")
_values = st.recursive(
    st.sampled_from([1, None, "", "é{[", '"', '\\"]}', "x" * 70]),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.sampled_from(["a", "{", "\\"]), inner, max_size=4),
    max_leaves=60,
)


def _depth(value: object) -> int:
    inner = list(value.values()) if isinstance(value, dict) else value if isinstance(value, list) else None
    return 0 if inner is None else 1 + max(map(_depth, inner), default=0)


@needs_kernel
@given(value=_values, max_depth=st.integers(0, 8), ascii_only=st.booleans())
def test_what_the_kernel_calls_usual_is_not_deeper(value: object, max_depth: int, *, ascii_only: bool) -> None:
    text = json.dumps(value, ensure_ascii=ascii_only).encode()
    if is_usual_text(text, max_depth):
        assert _depth(value) <= max_depth
    assert is_usual_text(text, 64) or not is_shallow(text)


@needs_kernel
@given(st.binary(max_size=200))
def test_what_the_kernel_calls_usual_is_utf_8(text: bytes) -> None:
    assert is_utf8(text) or not is_usual_text(text, 64)


@given(st.text("ab").map(str.encode), st.text("ab", min_size=1, max_size=3).map(str.encode))
def test_count(text: bytes, part: bytes) -> None:
    assert count(text, part) == text.count(part)


def _eid(*tokens: str, source: str = "uidapi.com") -> dict[str, object]:
    return {"source": source, "uids": [{"id": TOKENS.get(token, token), "atype": 3} for token in tokens]}


_FOREIGN = _eid("7", source="liveramp.com")
_EMPTY = _eid()


@pytest.mark.parametrize(
    "eids",
    [
        [_eid("EXPIRED")],
        [_FOREIGN, _eid("EXPIRED"), _FOREIGN],
        [_eid("EXPIRED", "V4"), _FOREIGN],
        [_eid("V4", "EXPIRED", "V3")],
        [_eid("EXPIRED", "EXPIRED"), _eid("EXPIRED", "V4")],
        [_EMPTY, _eid("EUID")],
    ],
)
@pytest.mark.parametrize("places", ["eids", "ext", "both", "3.0"])
def test_entries_are_removed_without_a_scan(eids: list[object], places: str) -> None:
    user: dict[str, object] = {"eids": eids} if places != "ext" else {"id": "u"}
    if places in {"ext", "both"}:
        user["ext"] = {"eids": eids}
    request: dict[str, object] = {"id": "r", "user": user, "imp": [{"id": "1"}]}
    if places == "3.0":
        request = {"openrtb": {"request": {"context": request}}}
    body = json.dumps(request, separators=(",", ":")).encode()
    decryptor = bind_keys(KEYS)
    rewritten = decryptor.rewrite(body, NOW_MS)
    assert not isinstance(rewritten, Generator)
    found = decryptor.find(body, NOW_MS)
    assert not isinstance(found, Generator)
    scanner = BidScanner(body, SOURCES, MAX_ENTRIES)
    finish(scanner.read())
    assert rewritten[0] == finish(scanner.rewrite([each.uid for each in found.ids]))
    compare(body)


@pytest.mark.parametrize("other", ['{"x":1}', '{"id":null}'])
@pytest.mark.parametrize("last", ["V4", "EXPIRED"])
def test_an_overridden_id_is_removed_beside_an_entry_without_one(other: str, last: str) -> None:
    uids = f'{{"id":"{TOKENS["V3"]}","id":"{TOKENS[last]}"}},{other}'
    compare(f'{{"user":{{"eids":[{{"source":"uidapi.com","uids":[{uids}]}}]}}}}'.encode())


@needs_kernel
@pytest.mark.parametrize("token", sorted(TOKENS))
@pytest.mark.parametrize(
    "names",
    [
        [],
        [("site.domain", ""), ("site.page", "example.com")],
        [("site.domain", "www.Example.com")],
        [("site.domain", "other.org"), ("site.page", "example.com")],
        [("site.domain", " "), ("app.bundle", "com.acme.shooter")],
    ],
)
def test_the_kernel_is_asked_first(token: str, names: list[tuple[str, str]]) -> None:
    keys = KEYS[0]
    decrypt = bind_decrypt(keys)
    first = ask_kernel_first(build_kernel(keys), decrypt)

    def verdict_of(bound: object) -> tuple[Verdict, str | None]:
        candidates = NameCandidates(lambda: names)
        return bound(TOKENS[token], candidates, NOW_MS), candidates.matched  # type: ignore[operator]

    expected = verdict_of(decrypt)
    assert verdict_of(first) == expected
    assert verdict_of(first) == expected, "now the kernel may know the name"
