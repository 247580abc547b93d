"""The samples of the reference document, taken out of it and run below an import line against the embedded operator.

They run as they stand, in the order of the document, in one namespace a section, with the variables that they assume
(`EUID_BASE_URL`, `emailAddress`, ...). Only what is not Python at all is mended, see `mend`:

- `if identity.is_due_for_refresh()):` has a parenthesis too many;
- an `if` that is shown without a body, or with a comment for one, gets `pass`.
"""

import re
import textwrap
from pathlib import Path
from typing import Any

import pytest

from bidstream_svc.core.identity import IdentityScope
from bidstream_svc.devoperator import DevOperator, OperatorState
from bidstream_svc.sdk import BidstreamClient, DecryptionStatus, IdentityTokens, Uid2PublisherClient
from tests.support.operator import operator_in_thread

DOCUMENT = (Path(__file__).parents[1] / "data" / "reference-sdk-python.md").read_text(encoding="utf-8")
# A fenced block (`py` or unmarked), or code within a line that begins like a statement of the publishers' samples.
SAMPLE = re.compile(
    r"^ *```(?:py)?\n(?P<block>.*?)^ *```|`(?P<inline>(?:if |identity = |token_\w+)[^`\n]*)`", re.MULTILINE | re.DOTALL
)
IMPORT_LINES = [
    "from bidstream_svc.sdk import *",
    (
        "from bidstream_svc.sdk import (BidstreamClient, IdentityMapClient, IdentityMapInput, IdentityTokens,"
        " TokenGenerateInput, Uid2PublisherClient)"
    ),
]


def samples_of(heading: str) -> list[str]:
    """The samples below a heading, up to the next one of its level."""
    section = DOCUMENT.partition(f"\n## {heading}\n")[2].partition("\n## ")[0]
    return [textwrap.dedent(match["block"] or match["inline"]).strip() for match in SAMPLE.finditer(section)]


def mend(sample: str) -> str:
    sample = sample.replace("is_due_for_refresh()):", "is_due_for_refresh():")
    sample = re.sub(r"^( +)(#.*)$", r"\1pass  \2", sample, flags=re.MULTILINE)
    is_bare_if = "\n" not in sample and sample.partition("#")[0].rstrip().endswith(":")
    return sample + "\n    pass" if is_bare_if else sample


def run(sample: str, names: dict[str, Any]) -> None:
    exec(compile(mend(sample), "sample", "exec"), names)  # noqa: S102 - the document is ours to check


@pytest.fixture(params=list(IdentityScope), ids=lambda scope: scope.name)
def operator(request: pytest.FixtureRequest) -> Any:
    with operator_in_thread(OperatorState(seed=1, scope=request.param)) as operator:
        yield operator


@pytest.fixture(params=IMPORT_LINES, ids=["star", "explicit"])
def names(request: pytest.FixtureRequest, operator: DevOperator) -> Any:
    state = operator.state
    names: dict[str, Any] = {
        "EUID_BASE_URL": operator.url,
        "EUID_API_KEY": state.api_key,
        "EUID_SECRET_KEY": state.client_secret,
        "base_url": operator.url,
        "api_key": state.api_key,
        "client_secret": state.client_secret,
    }
    exec(request.param, names)  # noqa: S102 - a line of this file
    yield names
    names["client"].close()


def test_document_is_read_completely() -> None:
    assert [sample.partition("\n")[0] for sample in samples_of("Usage for Publishers")] == [
        "client = Uid2PublisherClient(EUID_BASE_URL, EUID_API_KEY, EUID_SECRET_KEY)",
        (
            "token_generate_response = client.generate_token("
            "TokenGenerateInput.from_email(emailAddress).do_not_generate_tokens_for_opted_out())"
        ),
        "token_generate_response.get_identity_json_string()",
        "token_generate_response.get_identity_json_string()",
        "identity = token_generate_response.get_identity()",
        "identity = IdentityTokens.from_json_string(identityJsonString)",
        (
            "if not identity or not identity.is_refreshable(): # we must no longer use this identity "
            "(for example, remove this identity from the user's session)"
        ),
        "if identity.is_due_for_refresh()):",
        "token_refresh_response = client.refresh_token(identity)",
        "token_refresh_response.get_identity_json_string()",
        "token_refresh_response.is_optout()",
    ]
    assert len(samples_of("Usage for Advertisers/Data Providers")) == 4
    assert len(samples_of("Usage for DSPs")) == 3
    fenced = DOCUMENT.count("```py") + len(re.findall(r"^ *```\n   identity", DOCUMENT, re.MULTILINE))
    inline = 7
    assert fenced + inline == 11 + 4 + 3


def run_publisher_samples(names: dict[str, Any], email: str) -> None:
    names["emailAddress"] = email
    for sample in samples_of("Usage for Publishers"):
        if "identityJsonString" in sample:  # from the user's session, where the samples above have put it
            names["identityJsonString"] = names["token_generate_response"].get_identity_json_string()
        run(sample, names)


def test_publisher(names: dict[str, Any], operator: DevOperator) -> None:
    run_publisher_samples(names, "Some.One@example.com")
    assert isinstance(names["client"], Uid2PublisherClient)
    assert names["token_generate_response"].is_success()
    assert names["identity"].is_refreshable()
    assert not names["identity"].is_due_for_refresh()
    assert names["advertising_token"] == names["identity"].get_advertising_token()
    fresh = IdentityTokens.from_json_string(names["token_refresh_response"].get_identity_json_string())
    assert fresh is not None
    with BidstreamClient(operator.url, operator.state.api_key, operator.state.client_secret) as bidder:
        bidder.refresh()
        for token in (names["advertising_token"], fresh.get_advertising_token()):
            assert bidder.decrypt_token_into_raw_uid(token, None).uid == operator.state.raw_uid("some.one@example.com")


def test_publisher_of_a_user_who_opts_out_in_between(names: dict[str, Any]) -> None:
    run_publisher_samples(names, "refresh-optout@example.com")
    assert names["token_refresh_response"].is_optout()
    assert names["token_refresh_response"].get_identity_json_string() is None


def test_publisher_of_a_user_who_has_opted_out(names: dict[str, Any]) -> None:
    names["emailAddress"] = "optout@example.com"
    for sample in samples_of("Usage for Publishers")[:5]:
        run(sample, names)
    assert names["token_generate_response"].get_identity_json_string() is None
    assert names["identity"] is None
    assert "advertising_token" not in names


@pytest.mark.parametrize("opted_out", [False, True])
def test_advertiser(names: dict[str, Any], operator: DevOperator, opted_out: bool) -> None:  # noqa: FBT001 - of the test
    if opted_out:
        operator.state.opt_out("email1@example.com")
    for sample in samples_of("Usage for Advertisers/Data Providers"):
        run(sample, names)
    if opted_out:
        assert names["reason"] == "optout"
    else:
        assert names["raw_uid"] == operator.state.raw_uid("email1@example.com")


def test_bidder(names: dict[str, Any], operator: DevOperator) -> None:
    names["uid_token"] = operator.state.mint_token(client_side=True, established_ms=1_700_000_000_123)
    names["domainOrAppName"] = "example.com"
    for sample in samples_of("Usage for DSPs"):
        run(sample, names)
    decrypted = names["decrypted"]
    assert decrypted.success
    assert decrypted.status is DecryptionStatus.SUCCESS
    assert decrypted.uid == operator.state.raw_uid("someone@example.com")
    assert decrypted.established.isoformat() == "2023-11-14T22:13:20.123000+00:00"


def test_bidder_with_an_unregistered_domain(names: dict[str, Any], operator: DevOperator) -> None:
    names["uid_token"] = operator.state.mint_token(client_side=True)
    names["domainOrAppName"] = "somebody-else.com"
    for sample in samples_of("Usage for DSPs"):
        run(sample, names)
    assert not names["decrypted"].success
    assert names["decrypted"].status.name == "DOMAIN_NAME_CHECK_FAILED"


def test_statuses_are_those_of_the_table_and_one_more() -> None:
    table = DOCUMENT.partition("### Decryption Response Statuses")[2].partition("\n## ")[0]
    listed = set(re.findall(r"^\| `(\w+)`", table, re.MULTILINE))
    assert {status.name for status in DecryptionStatus} == listed | {"USER_OPTED_OUT", "OPTOUTS_NOT_SYNCED"}
