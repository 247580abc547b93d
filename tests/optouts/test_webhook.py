"""What is read from a request to the webhook, without any I/O."""

import base64
from urllib.parse import quote

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bidstream_svc.core.identity import IdentityScope
from bidstream_svc.optouts.optout_records import OptOut
from bidstream_svc.optouts.webhook import Malformed, Webhook

NOW_S = 1_760_000_000
UID2, EUID = IdentityScope.UID2, IdentityScope.EUID
LONG_UID2, LONG_EUID, SHORT = b"\x00" + bytes(32), b"\x10" + bytes(32), bytes(range(32))


def read(query: str, path: str = "/optout", scope: IdentityScope = UID2) -> OptOut | Malformed:
    return Webhook("/optout", "identity", "timestamp", scope).read(path, query, NOW_S)


def query_of(raw_id: bytes, rest: str = "&timestamp=1700000000") -> str:
    return f"identity={quote(base64.b64encode(raw_id).decode(), safe='')}{rest}"


@given(
    raw_id=st.binary(min_size=32, max_size=33),
    time_s=st.integers(1, 2**32 - 1),
    is_encoded=st.booleans(),
    is_url_alphabet=st.booleans(),
    is_padded=st.booleans(),
)
def test_every_spelling_of_an_id_is_read(
    *, raw_id: bytes, time_s: int, is_encoded: bool, is_url_alphabet: bool, is_padded: bool
) -> None:
    text = (base64.urlsafe_b64encode if is_url_alphabet else base64.b64encode)(raw_id).decode()
    text = text if is_padded else text.rstrip("=")
    found = read(f"x=1&identity={quote(text, safe='') if is_encoded else text}&timestamp={time_s}", "/optout/uid2")
    assert found == OptOut(UID2, raw_id, NOW_S, time_s)


@given(st.binary(min_size=32, max_size=33))
def test_a_plus_sign_that_became_a_space_is_read(raw_id: bytes) -> None:
    text = base64.b64encode(raw_id).decode().replace("+", "%20")
    assert read(f"identity={text}", "/optout/uid2") == OptOut(UID2, raw_id, NOW_S)


@given(st.binary(min_size=32, max_size=33), st.sampled_from(["%20{}", "{}%20", "%20{}%20", " {} "]))
def test_a_space_around_an_id_does_not_make_it_another_one(raw_id: bytes, around: str) -> None:
    text = around.format(base64.b64encode(raw_id).decode())
    assert read(f"identity={text}", "/optout/uid2") == OptOut(UID2, raw_id, NOW_S)


@pytest.mark.parametrize(
    ("raw_id", "path", "default", "scope"),
    [
        (LONG_UID2, "/optout", EUID, UID2),
        (LONG_EUID, "/optout", UID2, EUID),
        (SHORT, "/optout", UID2, UID2),
        (SHORT, "/optout", EUID, EUID),
        (SHORT, "/optout/euid", UID2, EUID),
        (SHORT, "/optout/uid2/", EUID, UID2),
        (LONG_UID2, "/optout/euid", UID2, EUID),
        (LONG_UID2, "/optout/", EUID, UID2),
    ],
)
def test_the_programme(raw_id: bytes, path: str, default: IdentityScope, scope: IdentityScope) -> None:
    assert read(query_of(raw_id), path, default) == OptOut(scope, raw_id, NOW_S, 1_700_000_000)


@pytest.mark.parametrize(
    "time",
    ["", "&timestamp=", "&timestamp=-1", "&timestamp=0", "&timestamp=1e9", "&timestamp=" + "9" * 5000, "&time=1"],
)
def test_an_id_without_a_usable_time_counts(time: str) -> None:
    assert read(query_of(SHORT, time)) == OptOut(UID2, SHORT, NOW_S, None)


@pytest.mark.parametrize(
    ("query", "text"),
    [
        ("", ""),
        ("timestamp=1700000000", "timestamp=1700000000"),
        ("identity=", ""),
        ("identity=abc", "abc"),
        ("identity=%41%41", "AA"),
        ("identity=" + "A" * 5000, "A" * 512),
        (query_of(bytes(31)), base64.b64encode(bytes(31)).decode()),
        (query_of(bytes(34)), base64.b64encode(bytes(34)).decode()),
        ("identity=%ff%00%zz", "\N{REPLACEMENT CHARACTER}\0%zz"),
        ("x=" + "y" * 5000, "x=" + "y" * 510),
    ],
)
def test_what_is_not_an_id_is_told_with_what_was_sent(query: str, text: str) -> None:
    found = read(query)
    assert isinstance(found, Malformed)
    assert found.text == text
    assert not text or text not in found.problem


@given(st.text())
def test_nothing_raises(query: str) -> None:
    assert isinstance(read(query), OptOut | Malformed)


@pytest.mark.parametrize("other", [query_of(bytes(32)), "identity=", "identity=abc"])
def test_of_several_ids_none_is_lost(other: str) -> None:
    """They are kept aside together: the 200 is for all of them."""
    query = f"{query_of(SHORT)}&{other}"
    assert read(query) == Malformed("several ids", query)


def test_an_id_that_is_repeated_counts() -> None:
    assert read(f"{query_of(SHORT)}&{query_of(SHORT)}") == OptOut(UID2, SHORT, NOW_S, 1_700_000_000)


@pytest.mark.parametrize(
    ("path", "paths", "others"),
    [
        ("/optout", ["/optout", "/optout/", "/optout/uid2", "/optout/euid"], ["/", "/optouts", "/optout/UID2", ""]),
        ("/", ["/", "", "/uid2", "/euid/"], ["/optout"]),
        ("/a/b", ["/a/b", "/a/b/euid"], ["/a", "/b", "/a/b/c"]),
    ],
)
def test_the_paths(path: str, paths: list[str], others: list[str]) -> None:
    webhook = Webhook(path, "identity", "timestamp", UID2)
    assert all(map(webhook.has_path, paths))
    assert not any(map(webhook.has_path, others))
