"""Explained bid requests: our entries are those that `/openrtb` answers, and every other eid says why it is not."""

import json
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings

from bidstream_svc.core.errors import BidRequestError
from bidstream_svc.core.explain import BidRequestExplanation, explain_bid_request, to_json
from bidstream_svc.core.explain.eid_reader import EidReader
from bidstream_svc.core.identity import IdentityScope
from bidstream_svc.core.openrtb import SOURCES, decrypt_bid_request
from bidstream_svc.core.programmes import Programme
from tests.core.explain_property import check_privacy, check_steps
from tests.core.openrtb_cases import DIRECTORY
from tests.core.openrtb_compare import KEYS
from tests.core.openrtb_strategies import TOKENS, any_bid_requests, usual_bid_requests
from tests.vectors.inputs import NOW_MS

PROGRAMMES = [Programme(keys.scope, keys) for keys in KEYS]
REQUESTS = sorted(DIRECTORY.glob("*.request"))


def explain(body: bytes | dict[str, Any], programmes: list[Programme] = PROGRAMMES) -> BidRequestExplanation:
    if isinstance(body, dict):
        body = json.dumps(body).encode()
    return explain_bid_request(body, programmes, SOURCES, NOW_MS)


def explain_checked(body: bytes, programmes: list[Programme]) -> None:
    keys = [each.keys for each in programmes if each.keys is not None]
    try:
        answer = decrypt_bid_request(body, keys, NOW_MS)
    except BidRequestError as error:
        with pytest.raises(BidRequestError, match=str(error)):
            explain(body, programmes)
        return
    explanation = explain(body, programmes)
    ours = [each for each in explanation.eids if each.explanation is not None]
    for each, found in zip(ours, answer.ids, strict=True):
        assert each.explanation is not None
        assert each.scope is not None
        assert (each.path, each.scope.name, each.explanation.status) == (found.path, found.scope, found.status)
        assert (each.explanation.raw_uid, each.explanation.established_ms) == (found.uid, found.established)
        name_step = next(step for step in each.explanation.steps if step.name == "name")
        assert found.matched in {None, name_step.facts.get("matched")}
        check_steps(each.explanation)
        check_privacy(each.explanation, None)
    for each in explanation.eids:
        assert (each.explanation is None) is not (each.why_not_ours is None)
        assert f"{each.source}{each.why_not_ours}{each.spelling}".isprintable()
    shown = json.dumps(to_json(explanation), ensure_ascii=False)
    assert not any(token in shown for token in TOKENS.values())


@pytest.mark.parametrize("path", REQUESTS, ids=lambda path: path.stem)
def test_every_case(path: Path) -> None:
    for programmes in (PROGRAMMES, PROGRAMMES[:1], [Programme(None, None)]):
        explain_checked(path.read_bytes(), programmes)


@settings(max_examples=40)  # an example is large
@given(any_bid_requests | usual_bid_requests)
def test_any_bid_request(body: bytes) -> None:
    explain_checked(body, PROGRAMMES)


def _eid(source: Any, *ids: Any) -> dict[str, Any]:
    return {"source": source, "uids": [{"id": each} for each in ids]}


@pytest.mark.parametrize(
    ("eid", "path", "why"),
    [
        ("x", "", "it is not an object"),
        ({"uids": []}, "", "it has no source"),
        ({"source": 7}, "", "its source is not a string"),
        (_eid(" "), "", "its source is empty"),
        (_eid("liveramp.com", "x"), "", 'its source is "liveramp.com", which is another vendor\'s'),
        (_eid("uidapi.com ", "x"), "", 'its source is "uidapi.com "; it has to be exactly "uidapi.com"'),
        (_eid("https://www.EUID.eu/", "x"), "", 'its source is "https://www.EUID.eu/"; it has to be exactly "euid.eu"'),
        (_eid("UID2", "x"), "", 'its source is "UID2"; that of UID2 is "uidapi.com"'),
        (_eid("uid2.com", "x"), "", 'its source is "uid2.com"; that of UID2 is "uidapi.com"'),
        (_eid("euid.com", "x"), "", 'its source is "euid.com"; that of EUID is "euid.eu"'),
        (_eid("uiadpi.com", "x"), "", 'its source is "uiadpi.com"; that of UID2 is "uidapi.com"'),
        (_eid("\x1b[31m\u202e", "x"), "", r'its source is "\x1b[31m\u202e", which is another vendor' + "'s"),
        ({"source": "uidapi.com"}, "", "it has no uids"),
        ({"source": "uidapi.com", "uids": []}, "", "it has no uids"),
        ({"source": "uidapi.com", "uids": {}}, "", "its uids are not a list"),
        ({"source": "uidapi.com", "uids": [7]}, "/uids/0", "it is not an object"),
        ({"source": "uidapi.com", "uids": [{}]}, "/uids/0", "it has no id"),
        (_eid("uidapi.com", 7), "/uids/0", "its id is not a string"),
    ],
)
def test_why_an_eid_is_not_ours(eid: Any, path: str, why: str) -> None:
    for user, place in (({"eids": [eid]}, "/user/eids/0"), ({"ext": {"eids": [eid]}}, "/user/ext/eids/0")):
        (found,) = explain({"user": user}).eids
        assert (found.path, found.why_not_ours) == (place + path, why)
        (found,) = explain({"openrtb": {"request": {"context": {"user": user}}}}).eids
        assert (found.path, found.why_not_ours) == ("/openrtb/request/context" + place + path, why)


@pytest.mark.parametrize("place", ["eids", "ext.eids", "device.eids", "device.ext.eids"])
def test_eids_in_places_that_are_not_read(place: str) -> None:
    body: Any = [_eid("liveramp.com", "x"), _eid("uidapi.com", TOKENS["V4"])]
    for name in reversed(place.split(".")):
        body = {name: body}
    (found,) = explain(body).eids
    assert found.path == "/" + place.replace(".", "/") + "/1"
    assert found.why_not_ours == f"it is in {place}, which is not read: user.eids and user.ext.eids are"


@pytest.mark.parametrize(
    ("written", "spelling"),
    [
        ("UID2:{}", "it has the prefix UID2 before it; without that it is a version 4 token"),
        ('"{}"', "it is in quotes; without that it is a version 4 token"),
        ("{}%3D", "it is percent-encoded, as in a URL; without that it is a version 4 token"),
        ("{{{{uid2}}}}", "it is a template or a macro that was not filled in"),
        ("${{UID2_TOKEN}}", "it is a template or a macro that was not filled in"),
        ("null", "it is the word null, which a program wrote where it had no token"),
        ("", "it is empty"),
    ],
)
def test_spellings(written: str, spelling: str) -> None:
    (found,) = explain({"user": {"eids": [_eid("uidapi.com", written.format(TOKENS["V4"]))]}}).eids
    assert found.spelling == spelling
    assert found.explanation is not None
    assert found.explanation.status != "SUCCESS"


def test_a_token_under_the_source_of_the_other_programme() -> None:
    (found,) = explain({"user": {"eids": [_eid("uidapi.com", TOKENS["EUID"])]}}).eids
    assert found.explanation is not None
    step = next(step for step in found.explanation.steps if step.name == "scope")
    assert step.text == "the token is of EUID, but its source is that of UID2"
    assert "wrong source" in found.explanation.advice


def test_names_and_the_one_that_passes() -> None:
    body = {
        "id": "r\x1b1",
        "site": {"domain": "news.other.org", "page": "https://www.example.com/x\x1b"},
        "user": {"eids": [_eid("uidapi.com", TOKENS["CLIENT_SIDE"])]},
    }
    explanation = explain(body)
    assert (explanation.id, explanation.names) == (
        "r\\x1b1",
        [("site.domain", "news.other.org"), ("site.page", "www.example.com")],
    )
    token = explanation.eids[0].explanation
    assert token is not None
    name = next(step for step in token.steps if step.name == "name")
    assert name.text == '"www.example.com" (site.page) passes, as "example.com" is registered'
    assert explain({"id": 7}).id is None


def test_many_eids_are_counted_and_ours_are_shown() -> None:
    eids = [_eid("other.com", "x")] * 1000 + [_eid("uidapi.com", *[TOKENS["V4"]] * 101)]
    explanation = explain({"user": {"eids": eids}})
    assert len(explanation.eids) == 400 + 100
    assert explanation.omitted == 601
    assert to_json(explanation)["omitted"] == 601


@pytest.mark.parametrize(
    "place", ["{%s}", '{"user":{"eids":[{%s}]}}', '{"user":{"eids":[{"source":"uidapi.com","uids":[{%s}]}]}}']
)
def test_many_members_take_many_steps(place: str) -> None:
    """One long call would hold the GIL, for which the data plane would wait."""
    text = (place % ",".join([f'"{number}":1' for number in range(50_000)])).encode()
    reader = EidReader(text, lambda *_: pytest.fail("there is no token"), {}, SOURCES)
    assert len(list(reader.read())) >= 48


@pytest.mark.parametrize(
    ("eid", "why"),
    [
        (_eid("u" * 256), f'its source is "{"u" * 100}... (256 characters)", which is none'),
        (_eid("uidapi.com", "%41" * 2000), "it has 6,000 characters, and a token has a few hundred"),
    ],
)
def test_long_text_is_not_examined(eid: Any, why: str) -> None:
    (found,) = explain({"user": {"eids": [eid]}}).eids
    assert (found.why_not_ours or found.spelling) == why


def test_the_scope_of_a_source_without_keys() -> None:
    body = {"user": {"eids": [_eid("euid.eu", TOKENS["EUID"])]}}
    (found,) = explain(body, PROGRAMMES[:1]).eids
    assert found.scope is IdentityScope.EUID
    assert found.explanation is not None
    assert found.explanation.reason == "no_keys"
    assert found.explanation.steps[0].text == "no keys of EUID have been loaded"
    assert found.explanation.advice.startswith("Nothing here has keys of EUID. Add its operator")
    (found,) = explain(body, [*PROGRAMMES[:1], Programme(IdentityScope.EUID, None)]).eids
    assert found.explanation is not None
    assert found.explanation.advice.startswith("Wait for the first keys")


def test_reprs_have_no_tokens() -> None:
    explanation = explain({"user": {"eids": [_eid("uidapi.com", TOKENS["V4"])]}})
    token = explanation.eids[0].explanation
    assert token is not None
    assert token.raw_uid is not None
    assert TOKENS["V4"] not in repr(explanation)
    assert token.raw_uid not in repr(explanation)
