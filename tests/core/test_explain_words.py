"""What explanations say: times, what a text is that is no token, names, and what to do."""

import json
from base64 import b64encode, urlsafe_b64encode
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bidstream_svc.core.explain import Explanation, Outcome, explain_bid_request, explain_token
from bidstream_svc.core.explain.name_check import check_names, name_slip, nearest, what_would_pass
from bidstream_svc.core.explain.plain_words import moment, plural, printable, quoted, relative, span, unit_slip
from bidstream_svc.core.explain.token_shape import _slips, describe_kind, describe_slip
from bidstream_svc.core.identity import IdentityScope
from bidstream_svc.core.key_response import parse_key_response
from bidstream_svc.core.openrtb import SOURCES
from bidstream_svc.core.programmes import Programme
from bidstream_svc.core.token import decode_text
from bidstream_svc.devoperator import OperatorState
from bidstream_svc.devoperator.key_endpoints import bidstream_keys
from tests.vectors.inputs import EXPIRED_MASTER, HOUR_MS, NOW_MS, NOW_S, RAW_UID, build
from tests.vectors.load import key_snapshot, optout_check

DAY_MS = 24 * HOUR_MS
V2, V3, V4 = (build(version).token for version in (2, 3, 4))


def explain(token: object, domain: object = None, *keys: str, now_ms: int = NOW_MS, **options: Any) -> Explanation:
    programmes = [Programme(None, key_snapshot(name)) for name in keys or ("uid2",)]
    return explain_token(token, domain, programmes, options.get("requested"), now_ms)


def failed_text(explanation: Explanation) -> str:
    (step,) = [step for step in explanation.steps if step.outcome is Outcome.FAILED]
    return step.text


def text_of(explanation: Explanation, name: str) -> str:
    return next(step.text for step in explanation.steps if step.name == name)


@pytest.mark.parametrize(
    ("duration_ms", "words"),
    [
        (0, "0 s"),
        (999, "999 ms"),
        (1000, "1 s"),
        (59_999, "59 s"),
        (60_000, "1 min"),
        (125_000, "2 min 5 s"),
        (HOUR_MS, "1 h"),
        (2 * HOUR_MS + 300_000, "2 h 5 min"),
        (DAY_MS - 1, "23 h 59 min"),
        (DAY_MS, "1 day"),
        (DAY_MS + HOUR_MS, "1 day 1 h"),
        (-3 * DAY_MS, "3 days"),
        (10 * DAY_MS + 5 * HOUR_MS, "10 days"),
        (730 * DAY_MS, "730 days"),
        (731 * DAY_MS, "2 years"),
        (2**62, "more than 10,000 years"),
    ],
)
def test_spans(duration_ms: int, words: str) -> None:
    assert span(duration_ms) == words


def test_moments() -> None:
    assert moment(NOW_MS) == "2023-11-14T22:13:20Z"
    assert moment(-62_135_596_800_000) == "0001-01-01T00:00:00Z"
    assert moment(2**62) == "after the year 9999"
    assert moment(-(2**62)) == "before the year 1"
    assert relative(NOW_MS, NOW_MS) == "just now (2023-11-14T22:13:20Z)"
    assert relative(NOW_MS + HOUR_MS, NOW_MS) == "in 1 h (2023-11-14T23:13:20Z)"
    assert relative(NOW_MS - 1, NOW_MS) == "1 ms ago (2023-11-14T22:13:19Z)"
    assert (plural(1, "key"), plural(1203, "key"), plural(0, "entry", "entries")) == (
        "1 key",
        "1,203 keys",
        "0 entries",
    )


@given(st.integers(-(2**63), 2**63 - 1), st.integers(-(2**63), 2**63 - 1))
def test_any_time_has_words(time_ms: int, now_ms: int) -> None:
    assert relative(time_ms, now_ms).isprintable()
    assert unit_slip(time_ms).isprintable()


@given(st.text(st.characters(categories=None)))
def test_any_text_can_be_shown(text: str) -> None:
    for shown in (printable(text), quoted(text)):
        assert shown.isprintable()
        assert len(shown) < 1100
    if text.isascii() and text.isprintable() and len(text) <= 100:
        assert printable(text) == text


def test_letters_that_look_alike_are_told_apart() -> None:
    assert quoted("\u0435xample.com") == '"\u0435xample.com" (xn--xample-2of.com)'
    assert printable("a" * 101) == "a" * 100 + "... (101 characters)"


@pytest.mark.parametrize(
    ("token", "words"),
    [
        ("", "it is empty"),
        (" \n", "it is nothing but white space"),
        ("null", "it is the word null, which a program wrote where it had no token"),
        ('"undefined"', "it is the word undefined, which"),
        ("{{advertising_token}}", "it is a template or a macro that was not filled in"),
        ("%%UID2%%", "it is a template or a macro"),
        ("[UID2_TOKEN]", "it is a template or a macro"),
        ('{"advertising_token": "x", "refresh_token": "y"}', "it is a whole identity in JSON"),
        ('{"imp": []}', "it is a bid request"),
        ('{"x": 1}' + " " * 300, "it is JSON, and not the token in it"),
        ("https://example.com/x", "it is a URL"),
        ("eyJhbGciOiJ9.eyJzdWIiOiJ9.c2ln", "it is a JSON Web Token"),
        ("someone@example.com", "it has an @, as e-mail addresses have"),
        (f" {V4}", "it has white space around it; without that it is a version 4 token"),
        (f'"{V3}"', "it is in quotes; without that it is a version 3 token"),
        (f'"{V4[:50]}"x', "it is in quotes"),
        (f"\u201c{V2}\u201d", "it is in quotes; without that it is a version 2 token"),
        (V4[:80] + "...", "it ends in dots: what displayed it has cut it off"),
        (f"euid:{V4}", "it has the prefix euid before it; without that it is a version 4 token"),
        (f"Bearer {V4}", "it has the prefix Bearer before it; without that it is a version 4 token"),
        (f"xyz:{V4}", "it has a prefix before it; without that it is a version 4 token"),
        (V3.replace("+", "%2B").replace("/", "%2F") + "%3D" * 3, "it is percent-encoded, as in a URL"),
        (f"%22{V4}%22", "it is percent-encoded, as in a URL; without that it is a version 4 token"),
        (f"%2522{V4}%2522", "it is percent-encoded, as in a URL; without that it is a version 4 token"),
        (V4[:20] + "&#43;" + V4[20:], "it is encoded for HTML"),
        (V4[:20] + "\\/" + V4[20:], "it has the backslashes of a string in JSON"),
        (V4[:76] + "\n" + V4[76:], "it is broken by white space, as a line break in a mail, or is more than one token"),
        ("AgAAAAEA +/A", "it is broken by white space"),
        (V4[:5] + "é" + V4[5:], "character 6 is é (U+00E9), which base64 does not have"),
        (V4[:5] + "\x1b" + V4[5:], "character 6 is U+001B, which base64 does not have"),
        (f"{V2}=={V2}", "it has = within it, so it is more than one token"),
        ("A4AA+AA_", "it mixes the two alphabets of base64"),
        ("A4AAAAAAA", "its length, 9 characters, is none of base64: it was cut off"),
        ("A4AAAA=", "its padding with = is incomplete; without that it is a version 4 token"),
        ("A4AAAB", "its last character is not one that ends a token: it was cut off or changed"),
    ],
)
def test_how_a_token_is_spoilt(token: str, words: str) -> None:
    slip = describe_slip(token)
    assert slip is not None
    assert slip.startswith(words)
    explanation = explain(token)
    assert explanation.status in {"INVALID_PAYLOAD", "VERSION_NOT_SUPPORTED"}
    assert words in failed_text(explanation)


def test_spaces_where_plus_was() -> None:
    tokens = [build(3, established_ms=number).token for number in range(200)]
    token = next(token for token in tokens if "+" in token)
    assert describe_slip(token.replace("+", " ")) == (
        "it has spaces where + belongs, so it was decoded as a form; without that it is a version 3 token"
    )


@pytest.mark.parametrize(
    ("token", "words"),
    [
        (b64encode(b"\0" * 291).decode(), "it has the 388 characters of a refresh token"),
        ("123e4567-e89b-12d3-a456-426614174000", "it is a UUID"),
        ("ab" * 32, "it is a hexadecimal number, such as a hash"),
        (b64encode(b"\xff" * 32).decode(), "it has the 32 bytes of a raw uid or of a hash"),
        (urlsafe_b64encode(b"\xfe" * 33).decode(), "it has the 33 bytes of a raw uid or of a hash"),
    ],
)
def test_other_things_in_base64(token: str, words: str) -> None:
    assert words in failed_text(explain(token))
    kind = describe_kind(decode_text(token), token)
    assert kind is not None
    assert kind.startswith(words)


def test_a_raw_uid_that_looks_like_a_version() -> None:
    explanation = explain(b64encode(b"\x03\x80" + bytes(30)).decode())
    assert text_of(explanation, "version") == (
        "4, as the first bytes tell; but it has the 32 bytes of a raw uid or of a hash, and needs no decryption"
    )


@pytest.mark.parametrize("token", [V2, V3, V4])
def test_a_truncated_token(token: str) -> None:
    explanation = explain(token[:120])
    assert explanation.reason == "master_layer"
    assert "cut off" in failed_text(explanation)


def test_a_time_in_the_wrong_unit() -> None:
    seconds = build(4, expires_ms=NOW_MS // 1000, generated_ms=NOW_MS // 1000 - 10).token
    explanation = explain(seconds)
    assert failed_text(explanation) == (
        "expired 53 years ago (1970-01-20T16:13:20Z); the number looks like seconds where milliseconds belong: "
        "2023-11-14T22:13:20Z"
    )
    assert explanation.advice.startswith("Whoever made the token wrote its time in the wrong unit")
    microseconds = build(4, expires_ms=NOW_MS * 1000 + 1000, generated_ms=NOW_MS * 1000).token
    explanation = explain(microseconds)
    assert explanation.reason == "generated_in_future"
    assert "looks like microseconds where milliseconds belong: 2023-11-14T22:13:20Z" in failed_text(explanation)
    assert "wrong unit" in explanation.advice
    explanation = explain(build(4, expires_ms=NOW_MS + 1, generated_ms=2**42).token)
    assert text_of(explanation, "lifetime").startswith("it expires 85 years before it was generated; at most 3 days")


def test_clocks() -> None:
    assert explain(build(4, expires_ms=NOW_MS - 1).token).advice.startswith(
        "Check that the clock of this host is right."
    )
    assert explain(build(4, expires_ms=NOW_MS - DAY_MS).token).advice.startswith("The publisher has to refresh")
    ahead = build(4, generated_ms=NOW_MS + HOUR_MS, expires_ms=NOW_MS + 2 * HOUR_MS).token
    assert explain(ahead).advice.startswith("Compare the clock of this host")


def test_keys_that_are_unknown() -> None:
    def words(key_id: int) -> str:
        raw = bytearray(decode_text(V4))
        raw[2:6] = key_id.to_bytes(4)
        return failed_text(explain(urlsafe_b64encode(raw).decode().rstrip("=")))

    assert "the id is below all of them (101 to 2147483749), so the key may be older" in words(1)
    assert "the id is between theirs (101 to 2147483749), so the account may lack" in words(999)
    assert "the id is above all of them (101 to 2147483749), so the key may be newer" in words(2**32 - 1)
    explanation = explain(b64encode(b"\x02" + (7).to_bytes(4) + bytes(128)).decode(), None, "uid2", "euid")
    assert failed_text(explanation).startswith("7 is not among the 6 keys of UID2, nor among those of EUID; ")
    assert text_of(explanation, "scope") == "version 2 does not tell the programme, and nothing else does"


def test_programmes() -> None:
    euid = build(4, scope=IdentityScope.EUID).token
    assert failed_text(explain(euid)) == "the token is of EUID, but the keys here are of UID2"
    assert "Add the operator of EUID" in explain(euid).advice
    assert {step.outcome for step in explain(euid).steps[4:]} == {Outcome.NOT_REACHED}  # its keys are not here
    explanation = explain(euid, None, "uid2", "euid", requested=IdentityScope.UID2)
    assert failed_text(explanation) == "the token is of EUID, but the request says UID2"
    advice = "Ask for EUID, or leave the scope out: then the token is judged by the keys that fit."
    assert explanation.advice == advice
    explanation = explain(V2, None, "uid2", requested=IdentityScope.EUID)
    assert failed_text(explanation) == "the token was said to be of EUID, but the keys here are of UID2"
    assert text_of(explain(V2), "scope") == "UID2, the only programme here; version 2 does not tell"


def test_a_version_2_token_with_the_wrong_programme() -> None:
    states = {scope: OperatorState(seed=scope, scope=scope, now_ms=lambda: NOW_MS) for scope in IdentityScope}
    keys = {scope: parse_key_response(json.dumps(bidstream_keys(state, {}))) for scope, state in states.items()}
    programmes = [Programme(scope, keys[scope]) for scope in IdentityScope]
    for _ in range(20):  # a wrong key opens the master layer by chance, once in 256 times
        token = states[IdentityScope.EUID].mint_token(2)
        explanation = explain_token(token, None, programmes, IdentityScope.UID2, NOW_MS)
        assert explanation.reason is not None
        assert text_of(explanation, "scope") == "UID2, as the request says, but the keys of EUID open it"
        assert explanation.advice.startswith("Ask for EUID")
        body = json.dumps({"user": {"eids": [{"source": "uidapi.com", "uids": [{"id": token}]}]}}).encode()
        (eid,) = explain_bid_request(body, programmes, SOURCES, NOW_MS).eids
        assert eid.explanation is not None
        assert text_of(eid.explanation, "scope") == "UID2, as its source says, but the keys of EUID open it"
        assert "wrong source" in eid.explanation.advice
        alone = explain_token(token, None, programmes[:1], IdentityScope.UID2, NOW_MS)
        assert text_of(alone, "scope") == "UID2, as the request says; version 2 does not tell"


def test_names_that_pass() -> None:
    registered = {"example.com", "com.acme.shooter", "bücher.de"}
    for name, words in (
        ("example.com", '"example.com" is registered'),
        (" News.Example.com. ", '" News.Example.com. " passes, as "example.com" is registered'),
        ("xn--bcher-kva.de", '"xn--bcher-kva.de" is registered'),
    ):
        text, facts = check_names([("domain", name)], registered)
        assert text == words
        assert facts["matched"] == "domain"


def test_names_that_do_not_pass() -> None:
    registered = {f"site{number}.com" for number in range(1000)} | {"example.com", "www.shop.org"}
    text, facts = check_names([("domain", "a.exmaple.com")], registered)
    assert text == (
        '"a.exmaple.com" is not registered, nor is "exmaple.com"; the site has registered "example.com", "site0.com", '
        '"site1.com", "site10.com", "site100.com" and 997 others; the nearest is "example.com"'
    )
    assert (facts["names"], facts["nearest"]) == (1002, '"example.com"')
    assert what_would_pass("a.exmaple.com", registered) == (
        '"example.com" would pass, and so would every host below it, such as "www.example.com".'
    )
    assert what_would_pass("shop.org", {"www.shop.org"}) == '"www.shop.org" would pass, exactly as it stands.'
    assert what_would_pass("zzz", {"com.acme.shooter"}) == '"com.acme.shooter" would pass, exactly as it stands.'
    assert what_would_pass("zzz", {"bücher.de", "example.com"}).startswith('"example.com" would pass')
    assert what_would_pass("zzz", set()) == ""
    assert nearest("zzz", registered) is None
    text, _ = check_names([("site.domain", "a.net"), ("site.page", "b.net")], {"example.com", "example.org"})
    assert text == (
        '"a.net" (site.domain) and "b.net" (site.page) are not registered; '
        'the site has registered "example.com" and "example.org"'
    )


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("https://example.com/", "A name is the host alone, without scheme and path."),
        ("example.com:443", "A name is the host alone, without a port."),
        ("id123456789", 'The number of an app in Apple\'s store is registered without its letters: "123456789".'),
        ("some one", "The name is none of a host or an app."),
        ("example.com", ""),
        (7, ""),
    ],
)
def test_names_that_are_spelled_wrong(name: object, words: str) -> None:
    assert name_slip([("domain", name)]) == words
    token = build(4, privacy_bits=2).token
    assert words in explain(token, name).advice


def test_an_hour_of_work_is_not_spent_on_a_name() -> None:
    """Comparing names takes time that grows with the square of their length: few and short ones are compared."""
    registered = {"a" * length + str(number) for length in range(200, 250) for number in range(100)}
    assert nearest("a" * 255, registered) is not None


@given(st.text(st.characters(categories=None)), st.sampled_from(["uid2", "sharing"]))
def test_any_text(token: str, keys: str) -> None:
    assert explain(token, token, keys).reason is not None


def test_keys_that_are_not_there() -> None:
    explanation = explain(V4, None, "no keys")
    assert failed_text(explanation) == "the operator's answer has no keys of UID2"
    assert explanation.advice == "Ask the operator which keys the account may have: it sends none."
    explanation = explain_token(V4, None, [Programme(IdentityScope.EUID, key_snapshot("euid"))], None, NOW_MS)
    assert explanation.reason == "identity_scope"
    programmes = [Programme(None, None)]
    assert explain_token(V4, None, programmes, None, NOW_MS).advice.startswith("Wait for the first keys")
    assert explain(V4, None, "all expire now").advice.startswith("Refreshes have failed for long")


def test_opt_outs() -> None:
    def words(times_s: tuple[int, int | None] | None, *, is_found: bool = True) -> str:
        def find(scope: IdentityScope, raw_uid: str) -> tuple[int, int | None] | None:
            assert (scope, raw_uid) == (IdentityScope.UID2, RAW_UID)
            return times_s

        programme = Programme(None, key_snapshot("uid2"), check_optout=optout_check({"UID2": [RAW_UID]}))
        return failed_text(explain_token(V4, None, [programme], None, NOW_MS, find if is_found else None))

    assert words(None, is_found=False) == words(None) == "the raw uid is in the opt-out store"
    in_store = "the raw uid is in the opt-out store, where it arrived 1 h ago (2023-11-14T21:13:20Z)"
    assert words((NOW_S - 3600, None)) == in_store
    assert words((NOW_S - 3600, NOW_S - 3605)) == (f"{in_store}; the user opted out 1 h ago (2023-11-14T21:13:15Z)")


def test_reprs_tell_no_token() -> None:
    slips = [slip for slip in _slips(f'"{V4}"') if slip.mended]
    assert slips
    assert all(V4 not in repr(slip) for slip in slips)


def test_keys_that_have_expired_still_decrypt() -> None:
    explanation = explain(build(4, master_key=EXPIRED_MASTER).token)
    assert text_of(explanation, "master_key") == "301, known; expired 1 s ago, and still decrypts"
    assert explanation.reason is None
