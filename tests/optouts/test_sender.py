"""The requests of the sender, byte by byte, and what it makes up."""

from base64 import b64decode
from urllib.parse import parse_qs, urlsplit

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bidstream_svc import __version__
from bidstream_svc.core.errors import ConfigurationError
from bidstream_svc.core.identity import IdentityScope
from bidstream_svc.optouts.optout_records import scope_of_raw_id
from bidstream_svc.optouts.sender import (
    ACCEPTED,
    RETRIED,
    Endpoint,
    NextStep,
    OptOutEntry,
    RequestBuilder,
    SenderHabits,
    made_up_entries,
    next_step,
    with_duplicates,
)
from bidstream_svc.optouts.sender_report import fault_of

URL = "http://127.0.0.1:45683/optout"
# Base64 with all that needs percent-encoding: `+`, `/` and `=`.
RAW_ID = b"\xfb\xff" * 16
ENTRY = OptOutEntry(7, RAW_ID, 1_700_000_000)
# What java.net.http.HttpClient of OpenJDK 17.0.15 sent for a GET without a body, and for a POST, on the first request
# of a connection and on later ones.
JAVA = """\
{method} {target} HTTP/1.1
Connection: Upgrade, HTTP2-Settings
Content-Length: 0
Host: 127.0.0.1:45683
HTTP2-Settings: AAEAAEAAAAIAAAAAAAMAAAAAAAQBAAAAAAUAAEAAAAYABgAA
Upgrade: h2c
User-Agent: Java-http-client/17.0.15
Authorization: Bearer x

"""


def target_of(request: bytes) -> str:
    return request.split(b" ")[1].decode()


@pytest.mark.parametrize("method", ["GET", "POST"])
def test_the_head_is_that_of_java(method: str) -> None:
    habits = SenderHabits(method=method, headers=(("Authorization", "Bearer x"),))
    sent = RequestBuilder(Endpoint(URL), habits).build(ENTRY).decode()
    shown = JAVA.format(method=method, target=target_of(sent.encode())).replace("\n", "\r\n")
    assert sent == shown.replace("Java-http-client/17.0.15", f"bidstream-svc/{__version__}")


def test_the_id_is_percent_encoded_base64() -> None:
    target = target_of(RequestBuilder(Endpoint(URL), SenderHabits()).build(ENTRY))
    path, _, query = target.partition("?")
    identity, _, time = query.partition("&")
    assert path == "/optout"
    assert time == "timestamp=1700000000"
    assert not set("+/=") & set(identity.removeprefix("identity="))
    assert b64decode(parse_qs(query)["identity"][0], validate=True) == RAW_ID


def test_no_upgrade_is_offered_over_tls_or_when_it_is_off() -> None:
    assert b"h2c" in RequestBuilder(Endpoint(URL), SenderHabits()).build(ENTRY)
    for url, habits in (
        ("https://dsp.example/optout", SenderHabits()),
        (URL, SenderHabits(offers_h2c=False)),
    ):
        head = RequestBuilder(Endpoint(url), habits).build(ENTRY).lower()
        assert b"upgrade" not in head
        assert b"http2-settings" not in head


@given(
    raw_id=st.binary(min_size=32, max_size=33),
    time_s=st.integers(0, 2**32 - 1),
    names=st.lists(st.text("az09_.~-&= ü", min_size=1, max_size=9), min_size=2, max_size=2, unique=True),
    query=st.sampled_from(["", "?partner=7", "?partner=7&"]),
)
def test_what_is_built_parses_back(raw_id: bytes, time_s: int, names: list[str], query: str) -> None:
    habits = SenderHabits(id_parameter=names[0], time_parameter=names[1])
    target = target_of(RequestBuilder(Endpoint(URL + query), habits).build(OptOutEntry(1, raw_id, time_s)))
    values = parse_qs(urlsplit(target).query)
    assert b64decode(values[names[0]][0], validate=True) == raw_id
    assert values[names[1]] == [str(time_s)]
    assert values.get("partner", ["7"]) == ["7"]
    assert (query != "") == ("partner" in values)


@pytest.mark.parametrize(
    "url",
    ["", "dsp.example/optout", "ftp://dsp.example/optout", "http://", "http://[::1/", "http://h:99999", "unix:/x"],
)
def test_a_url_that_is_none(url: str) -> None:
    with pytest.raises(ConfigurationError, match="not an http or https URL"):
        Endpoint(url)


def test_a_url_with_a_password_is_refused_without_repeating_it() -> None:
    with pytest.raises(ConfigurationError) as refused:
        Endpoint("https://partner:sensitive@dsp.example/optout")
    assert "sensitive" not in str(refused.value)


@pytest.mark.parametrize(
    ("url", "host", "port", "authority", "target"),
    [
        ("http://dsp.example", "dsp.example", 80, "dsp.example", "/"),
        ("https://DSP.example/a%2fb?x=%20", "dsp.example", 443, "dsp.example", "/a%2Fb?x=%20"),
        ("http://[::1]:81/o#fragment", "::1", 81, "[::1]:81", "/o"),
    ],
)
def test_an_endpoint(url: str, host: str, port: int, authority: str, target: str) -> None:
    endpoint = Endpoint(url)
    assert (endpoint.host, endpoint.port, endpoint.authority) == (host, port, authority)
    assert endpoint.target == target or endpoint.target == target.replace("%20", "+")


@pytest.mark.parametrize(
    "header", [("", "x"), ("A B", "x"), ("A", "x\r\nB: y"), ("A", "x\0"), ("Host", "x"), ("content-length", "1")]
)
def test_a_fixed_header_that_is_refused(header: tuple[str, str]) -> None:
    with pytest.raises(ConfigurationError, match="fixed header"):
        RequestBuilder(Endpoint(URL), SenderHabits(headers=(header,)))


def test_no_repr_shows_a_raw_uid_or_a_secret() -> None:
    habits = SenderHabits(headers=(("Authorization", "sensitive"),))
    shown = repr([habits, ENTRY, Endpoint("http://h/?sensitive"), RequestBuilder(Endpoint(URL), habits)])
    assert "sensitive" not in shown
    assert "\\xff" not in shown
    assert "OptOutEntry(7, 32 bytes)" in shown


@pytest.mark.parametrize("scope", IdentityScope)
def test_made_up_ids(scope: IdentityScope) -> None:
    entries = [*made_up_entries(1000, scope, 0, 5)]
    assert entries == [*made_up_entries(1000, scope, 0, 5)]
    assert entries[:10] == [*made_up_entries(10, scope, 0, 5)]
    assert [entry.number for entry in entries] == [*range(1, 1001)]
    others = {entry.raw_id for entry in made_up_entries(1000, scope, 1, 5)}
    assert len(others | {entry.raw_id for entry in entries}) == 2000
    lengths = [len(entry.raw_id) for entry in entries]
    assert set(lengths) == {32, 33}
    assert 300 < lengths.count(33) < 700
    assert {scope_of_raw_id(entry.raw_id) for entry in entries} == {None, scope}


def test_duplicates_follow_what_they_duplicate() -> None:
    entries = [*made_up_entries(1000, IdentityScope.UID2, 0, 5)]
    assert [*with_duplicates(entries, 0, 0)] == entries
    assert [*with_duplicates(entries, 100, 0)] == [entry for entry in entries for _ in range(2)]
    some = [*with_duplicates(entries, 10, 0)]
    assert 1020 < len(some) < 1200
    assert [*dict.fromkeys(some)] == entries


def test_every_status_has_one_meaning() -> None:
    for status in range(100, 600):
        step = next_step(status)
        assert (step is NextStep.NEXT_ENTRY) == (status in {200, 204})
        assert (step is NextStep.RETRY) == (status in {429, 500, 502, 503, 504})
        assert (fault_of(status, None) is None) == (status in ACCEPTED)
    assert next_step(None) is NextStep.STOP
    assert not ACCEPTED & RETRIED
