"""The native shortcut for whole bid requests says what Python says, or nothing."""

import json
from pathlib import Path
from random import Random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from bidstream_svc.core.decrypt import bind_decrypt
from bidstream_svc.core.identity import IdentityScope
from bidstream_svc.core.kernel import BidRequests, build_bid_requests, build_kernel
from bidstream_svc.core.openrtb import MAX_ENTRIES, SOURCES, BidRequestDecryptor, finish_if_steps
from tests.core.openrtb_cases import DIRECTORY
from tests.core.openrtb_compare import KEYS
from tests.core.openrtb_native_inputs import MEMBERS, damaged
from tests.core.openrtb_native_property import Checked, run
from tests.core.openrtb_strategies import TOKENS, any_bid_requests, usual_bid_requests
from tests.vectors.inputs import NOW_MS, RAW_UID

CHECKED = Checked()
MANY = 400
MAX_PLAIN_BYTES = 32 * 1024
# Every token is good, and everything on the way to it is plain.
ANSWERED = {
    *("2.5-app", "2.6-ctv", "2.6-many-members-of-an-eid", "2.6-site", "3.0", "all-versions", "both-places-ext-first"),
    *("both-places-same-token", "depth-64", "device-eids", "empty", "first-candidate-counts", "foreign-sources"),
    *("no-user", "not-ascii", "numbers-as-they-came", "same-token-elsewhere", "source-in-upper-case"),
    *("source-with-a-space", "two-programmes", "white-space"),
}
FILES = [path for path in sorted(DIRECTORY.iterdir()) if path.suffix in {".request", ".refused"}]


def native(programmes: int = 2, sources: dict[str, IdentityScope] | None = None) -> BidRequests:
    found = build_bid_requests([build_kernel(keys) for keys in KEYS[:programmes]], sources or SOURCES)
    assert found is not None
    return found


def request(*tokens: str, source: str = "uidapi.com", **fields: object) -> bytes:
    uids = [{"id": TOKENS.get(token, token)} for token in tokens]
    return json.dumps({"user": {"eids": [{"source": source, "uids": uids}]}, **fields}).encode()


@pytest.mark.parametrize("path", [pytest.param(path, id=path.name) for path in FILES])
def test_files(path: Path) -> None:
    outcome = CHECKED.check(path.read_bytes())
    if path.suffix == ".refused":
        assert outcome == "refused"
    else:
        assert (outcome == "answered") == (path.stem in ANSWERED)


def test_plain_bid_requests_and_damaged_ones() -> None:
    counts = run(seed=0, count=MANY)
    assert counts["plain: answered"] == MANY
    assert min(counts[f"damaged: {outcome}"] for outcome in ("answered", "left to Python", "refused")) > MANY // 20


@settings(max_examples=60)
@given(any_bid_requests | usual_bid_requests, st.randoms(use_true_random=False))
def test_any_bid_request(body: bytes, random: Random) -> None:
    CHECKED.check(body)
    CHECKED.check(damaged(random, body))


@pytest.mark.parametrize("member", MEMBERS)
def test_any_member_in_any_object(member: bytes) -> None:
    body = request("CLIENT_SIDE", "V4", site={"domain": "example.com"})
    for before, opening, behind in (
        body.partition(part) for part in (b"{", b'"user": {', b'"site": {', b"[{", b'[{"id')
    ):
        inside, outside = (opening, b"") if opening.endswith(b"{") else (b"[{", b'"id')
        CHECKED.check(before + inside + member + outside + behind)


@settings(max_examples=60)
@given(st.binary(max_size=40) | st.text('{}[]":,\\u0e1.-+ ', max_size=30).map(str.encode))
def test_any_text_as_a_value(text: bytes) -> None:
    CHECKED.check(b'{"x":%b}' % text)
    CHECKED.check(b'{"x":"%b"}' % text)


@pytest.mark.parametrize(
    "number",
    ["0", "-0", "01", "-", "1.", ".1", "1e", "1e+", "1E-05", "1e999999999999999999999", "0x1", "+1", "1_0", "9" * 5000],
)
def test_numbers(number: str) -> None:
    CHECKED.check(f'{{"x":{number}}}'.encode())


@pytest.mark.parametrize("count", [MAX_ENTRIES, MAX_ENTRIES + 1])
def test_so_many_entries_are_answered(count: int) -> None:
    assert (CHECKED.check(request(*["V4"] * count)) == "answered") == (count == MAX_ENTRIES)


@pytest.mark.parametrize("more", [0, 1])
def test_a_long_body_is_left_to_python(more: int) -> None:
    body = request("V4", x="")
    body = body.replace(b'""', b'"%b"' % (b"x" * (MAX_PLAIN_BYTES - len(body) + more)))
    assert (native().find(body, NOW_MS) is None) == (more == 1)


@pytest.mark.parametrize(
    ("site", "matched"),
    [
        ({"domain": "example.com"}, "site.domain"),
        ({"domain": "", "page": "https://example.com/"}, "site.page"),
        ({"domain": "other.org", "page": "https://example.com/"}, None),
        ({"domain": "user@example.com"}, None),
        ({"domain": "example.com:80"}, None),
        ({"domain": " example.com"}, None),
        ({"domain": "[example.com]"}, None),
        ({"domain": "//example.com"}, None),
    ],
)
def test_names(site: dict[str, str], matched: str | None) -> None:
    body = request("CLIENT_SIDE", site=site)
    CHECKED.check(body)
    found = native().find(body, NOW_MS)
    assert (found and json.loads(found[0])["ids"][0]["matched"]) == matched


def test_a_name_that_python_has_decided_about() -> None:
    checked = Checked()
    body = request("CLIENT_SIDE", site={"page": "http://www.Example.com/"})
    assert checked.learning.find(body, NOW_MS) is None
    checked.check(body)
    assert checked.learning.find(body, NOW_MS) is not None
    checked.check(body)


def test_a_programme_without_keys_is_left_to_python() -> None:
    assert native(1).find(request("V4"), NOW_MS) is not None
    assert native(1).find(request("EUID", source="euid.eu"), NOW_MS) is None
    assert native(0).find(request("V4"), NOW_MS) is None


def test_sources_may_be_others() -> None:
    found = native(sources={"example.org": IdentityScope.EUID}).find(request("EUID", source="Example.ORG"), NOW_MS)
    assert found is not None
    assert found[2] == (0, 1)
    with pytest.raises(ValueError, match="no such programme"):
        BidRequests([], [("x", 2)])


def test_the_decryptor_asks_it_first_and_counts() -> None:
    counted: list[tuple[int, ...]] = []
    decrypt = {keys.scope: bind_decrypt(keys) for keys in KEYS}
    decryptor = BidRequestDecryptor(decrypt, SOURCES, native(), lambda tokens: counted.append(tuple(tokens)))
    plain = BidRequestDecryptor(decrypt)
    for tokens, counts in ((("V4", "V4", "V3"), [(2, 0)] * 2), (("V4", "EXPIRED"), []), ((), [(0, 0)] * 2)):
        body = request(*tokens, id="r")
        counted.clear()
        assert finish_if_steps(decryptor.answer(body, NOW_MS)) == finish_if_steps(plain.answer(body, NOW_MS))
        assert finish_if_steps(decryptor.rewrite(body, NOW_MS)) == finish_if_steps(plain.rewrite(body, NOW_MS))
        assert counted == counts
    assert RAW_UID.encode() in finish_if_steps(decryptor.answer(request("V4"), NOW_MS))[0]
