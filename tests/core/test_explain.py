"""Explanations: the verdict is that of `decrypt`, the steps agree with it, and nothing personal is in them."""

from dataclasses import replace
from typing import Any

import msgspec
import orjson
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from bidstream_svc.core.explain import STEP_NAMES, STEP_OF, to_json
from bidstream_svc.core.explain.advice import RUNBOOK
from bidstream_svc.core.identity import IdentityScope
from bidstream_svc.core.programmes import Programme
from bidstream_svc.core.status import DecryptionStatus, FailureReason
from bidstream_svc.core.token import BUILDERS, TokenContent, TokenKey
from tests.core import strategies
from tests.core.explain_property import explain_checked, run
from tests.docs.markdown import ROOT, anchors
from tests.vectors.inputs import LISTED_SITE, MASTER, RAW_UID, SECRETS, SITE
from tests.vectors.load import key_snapshot, load, optout_check

MANY = 300
VECTORS: list[dict[str, Any]] = load("own.json") + load("published_client.json")
SCOPES = st.sampled_from([None, *IdentityScope])
TOKENS = (
    strategies.built_tokens()
    | strategies.layered_tokens()
    | st.sampled_from([vector["token"] for vector in VECTORS])
    | strategies.anything
    | st.text(max_size=60)
)


def programme_of(name: str | None, optouts: Any = None) -> Programme:
    return Programme(None, key_snapshot(name), check_optout=optout_check(optouts))


@pytest.mark.parametrize("vector", [pytest.param(each, id=each["name"]) for each in VECTORS])
def test_vectors(vector: dict[str, Any]) -> None:
    programme = programme_of(vector["keys"], vector.get("optouts"))
    explanation = explain_checked(vector["token"], vector["domain"], [programme], None, vector["now_ms"])
    assert (explanation.status, explanation.reason) == (vector["status"], vector["reason"])
    assert explanation.raw_uid == vector["uid"]


@settings(max_examples=MANY)
@given(TOKENS, strategies.domains, strategies.key_names, strategies.nows_ms, st.data())
def test_one_programme(token: object, domain: object, name: str | None, now_ms: int, data: Any) -> None:
    optouts = data.draw(st.sampled_from([None, {"UID2": [RAW_UID], "EUID": []}]))
    explain_checked(token, domain, [programme_of(name, optouts)], data.draw(SCOPES), now_ms)


@settings(max_examples=MANY)
@given(TOKENS, strategies.domains, st.tuples(st.booleans(), st.booleans()), SCOPES, strategies.nows_ms)
def test_two_programmes(
    token: object, domain: object, are_loaded: tuple[bool, bool], requested: IdentityScope | None, now_ms: int
) -> None:
    programmes = [
        Programme(scope, key_snapshot(scope.name.lower() if is_loaded else None))
        for scope, is_loaded in zip(IdentityScope, are_loaded, strict=True)
    ]
    explain_checked(token, domain, programmes, requested, now_ms)


def test_generated_tokens_of_every_reason() -> None:
    """`python -m tests.core.explain_property` checks 100,000."""
    reasons = run(seed=0, count=4000)
    assert reasons.keys() == {None, *FailureReason}


def test_every_reason_has_a_step_advice_and_a_place_that_exists() -> None:
    assert STEP_OF.keys() == RUNBOOK.keys() == set(FailureReason)
    for place in RUNBOOK.values():
        file, _, anchor = place.partition("#")
        assert anchor in anchors(ROOT / file), place
    assert {vector["reason"] for vector in VECTORS} >= {str(reason) for reason in FailureReason}
    assert set(STEP_OF.values()) < set(STEP_NAMES)


def test_success() -> None:
    vector = next(each for each in VECTORS if each["status"] == "SUCCESS" and each["keys"] == "uid2")
    programme = programme_of("uid2")
    explanation = explain_checked(vector["token"], vector["domain"], [programme], None, vector["now_ms"])
    assert (explanation.status, explanation.advice, explanation.runbook) == (DecryptionStatus.SUCCESS, "", "")
    as_json = to_json(explanation)
    assert as_json["uid"] == vector["uid"][:4] + "…"
    assert list(as_json) == ["status", "reason", "scope", "uid", "established", "steps", "advice", "runbook"]


@pytest.mark.parametrize("expires_s", [2**63 - 1, -(2**63)])
@pytest.mark.parametrize("times_ms", [(2**63 - 1, -(2**63)), (-(2**63), 2**63 - 1)])
def test_extreme_times_have_json(expires_s: int, times_ms: tuple[int, int]) -> None:
    """The console writes numbers of 64 bits."""
    usual = key_snapshot("uid2")
    assert usual is not None
    keys = {key_id: msgspec.structs.replace(key, expires_s=expires_s) for key_id, key in usual.keys.items()}
    expires_ms, generated_ms = times_ms
    content = TokenContent(
        raw_uid=RAW_UID,
        site_id=LISTED_SITE,
        expires_ms=expires_ms,
        established_ms=generated_ms,
        generated_ms=generated_ms,
        privacy_bits=0,
        scope=IdentityScope.UID2,
    )
    token = BUILDERS[4](content, TokenKey(MASTER, SECRETS[MASTER], bytes(12)), TokenKey(SITE, SECRETS[SITE], bytes(12)))
    explained = explain_checked(token, None, [Programme(IdentityScope.UID2, replace(usual, keys=keys))], None, 0)
    assert {"expiry", "lifetime"} <= {step.name for step in explained.steps if step.text}
    orjson.dumps(to_json(explained))


@pytest.mark.parametrize("text", ["{{UID2}}", "null", "https://example.com/", '{"advertising_token": "x"}'])
def test_who_put_something_else_there_is_to_be_told(text: str) -> None:
    explanation = explain_checked(text, None, [programme_of("uid2")], None, 0)
    assert "tell the publisher or the exchange" in explanation.advice
    assert "byte for byte" not in explanation.advice
