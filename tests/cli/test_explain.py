"""`explain`: a token or a bid request, on a terminal and as JSON."""

import json
import os
import pty
import re
import subprocess
import time
from pathlib import Path
from typing import Any

import pybase64
import pytest

from bidstream_svc.cli.explain_report import Look, report_bid_request, report_token
from bidstream_svc.core.explain import explain_bid_request, explain_token
from bidstream_svc.core.identity import IdentityScope
from bidstream_svc.core.moments import parse_moment
from bidstream_svc.core.openrtb import SOURCES
from bidstream_svc.core.programmes import Programme
from bidstream_svc.devoperator import OperatorState
from bidstream_svc.optouts.optout_records import OptOut
from bidstream_svc.optouts.optout_store import OptOutStore
from tests.core.openrtb_strategies import TOKENS
from tests.support.cli import Cli
from tests.support.sidecar import PROGRAM, environment
from tests.support.terminals import read_to_end
from tests.vectors.inputs import KEY_RESPONSES, NOW_MS
from tests.vectors.load import key_snapshot, load

HOSTILE = '\x1b[31m\x07\x9b2J\u202e\u2066\0\x7f"x\\'
ESCAPE = re.compile(r"\x1b\[[0-9;]*m")  # a colour


@pytest.fixture
def vector_keys(tmp_path: Path) -> str:
    path = tmp_path / "vector-keys.json"
    path.write_text(json.dumps(KEY_RESPONSES["uid2"]["response"]))
    return str(path)


def test_a_good_token(cli: Cli, key_file: str, state: OperatorState) -> None:
    token, uid = state.mint_token(), state.raw_uid("someone@example.com")
    outcome = cli("explain", "--keys", key_file, token)
    assert (outcome.status, outcome.err) == (0, "")
    assert outcome.out.startswith("SUCCESS, UID2, as of 20")
    assert f"uid {uid[:4]}… (--reveal shows all of it), established " in outcome.out
    assert uid not in outcome.out
    assert f"uid {uid}, established " in cli("explain", "--keys", key_file, "--reveal", token).out


def test_a_token_from_stdin_and_keys_from_the_operator(
    cli: Cli, settings: dict[str, Any], state: OperatorState
) -> None:
    outcome = cli("explain", stdin=f"  {state.mint_token(lifetime_s=-7325)}\n", **settings)
    assert outcome.status == 1
    assert "✗ expiry       expired 2 h 2 min ago (" in outcome.out
    assert "not reached  opt-out" in outcome.out
    assert "What to do: The publisher has to refresh the token" in outcome.out


def test_json(cli: Cli, key_file: str, state: OperatorState) -> None:
    token = state.mint_token(client_side=True)
    outcome = cli("explain", "--keys", key_file, "--json", "--domain", "news.exmaple.com\u202e", token)
    assert outcome.status == 1
    assert outcome.out.isascii()
    explained = json.loads(outcome.out)
    assert (explained["status"], explained["reason"]) == ("DOMAIN_NAME_CHECK_FAILED", "domain_not_listed")
    (failed,) = [step for step in explained["steps"] if step["outcome"] == "failed"]
    assert failed["facts"]["nearest"] == '"example.com"'
    good = json.loads(cli("explain", "--keys", key_file, "--json", state.mint_token()).out)
    uid = state.raw_uid("someone@example.com")
    assert good["uid"] == uid[:4] + "…"
    assert json.loads(cli("explain", "--keys", key_file, "--json", "--reveal", state.mint_token()).out)["uid"] == uid


def test_the_time_and_the_programme_may_be_given(cli: Cli, vector_keys: str) -> None:
    token, v2_token = TOKENS["V4"], TOKENS["V2"]
    assert cli("explain", "--keys", vector_keys, token).status == 1
    for at in ("2023-11-14T22:13:20Z", str(NOW_MS), str(NOW_MS // 1000)):
        outcome = cli("explain", "--keys", vector_keys, "--at", at, token)
        assert (outcome.status, outcome.err) == (0, "")
        assert "as of 2023-11-14T22:13:20Z" in outcome.out
    outcome = cli("explain", "--keys", vector_keys, "--at", str(NOW_MS), "--scope", "EUID", v2_token)
    assert "(identity_scope)" in outcome.out


@pytest.mark.parametrize(
    ("text", "moment_ms"),
    [
        ("0", 0),
        ("1700000000", NOW_MS),
        ("1700000000123", NOW_MS + 123),
        ("99999999999", 99_999_999_999_000),
        ("100000000000", 100_000_000_000),
        ("2023-11-14T22:13:20Z", NOW_MS),
        ("2023-11-14T23:13:20+01:00", NOW_MS),
        (" 2023-11-14 22:13:20.5 ", NOW_MS + 500),
        ("2023-11-14", NOW_MS - NOW_MS % 86_400_000),
        ("1969-12-31T23:59:59.999Z", -1),
    ],
)
def test_moments(text: str, moment_ms: int) -> None:
    assert parse_moment(text) == moment_ms


@pytest.mark.parametrize("text", ["", "now", "1700000000000000", "9" * 400, "2023-13-01", "-5", "1e9", "\u0661\u0667"])
def test_what_is_no_moment(cli: Cli, vector_keys: str, text: str) -> None:
    outcome = cli("explain", "--keys", vector_keys, f"--at={text}", "abcd")
    assert (outcome.status, outcome.out) == (2, "")
    assert "a time is as 2026-11-26T20:00:00Z, or Unix time in seconds or milliseconds" in outcome.err


def test_wrong_usage_repeats_no_token(cli: Cli, key_file: str, state: OperatorState) -> None:
    token = state.mint_token()
    for arguments in ([token, token], ["--bid-request", "-", token], ["--scope", "UID3", token]):
        outcome = cli("explain", "--keys", key_file, *arguments)
        assert (outcome.status, outcome.out) == (2, "")
        assert token not in outcome.err
    assert cli("explain", "--keys", "-").status == 2
    assert cli("explain", "--keys", "-", "--bid-request", "-").status == 2
    assert cli("explain", "--keys", key_file, "--bid-request", "-", "--domain", "example.com").status == 2
    assert cli("explain", "--keys", key_file, stdin=" \n").complaint == "there is no token in the input"
    assert cli("explain", "--keys", key_file, stdin=None).complaint == "stdin is closed"


def test_opted_out_ids(cli: Cli, key_file: str, state: OperatorState, tmp_path: Path) -> None:
    directory, uid = tmp_path / "store", state.raw_uid("someone@example.com")
    arrived_s = int(time.time()) - 3 * 86_400
    with OptOutStore(directory) as store:
        store.add([OptOut(IdentityScope.UID2, pybase64.b64decode(uid), arrived_s, arrived_s - 7260)])
    outcome = cli("explain", "--keys", key_file, "--optouts", str(directory), state.mint_token())
    assert outcome.status == 1
    words = " ".join(outcome.out.split())
    assert "✗ opt-out the raw uid is in the opt-out store, where it arrived 3 days ago (" in words
    assert "the user opted out 3 days 2 h ago (" in words
    assert uid not in outcome.out
    other = state.mint_token(identity="other@example.com")
    outcome = cli("explain", "--keys", key_file, "--optouts", str(directory), other)
    assert "✓ opt-out      neither in the opt-out store nor marked in the token" in outcome.out


def test_a_bid_request(cli: Cli, key_file: str, state: OperatorState, tmp_path: Path) -> None:
    token = state.mint_token()
    eids = [{"source": source, "uids": [{"id": token}]} for source in ("uidapi.com", "uidapi.com", "UID2")]
    path = tmp_path / "request.json"
    path.write_text(json.dumps({"id": "r1", "site": {"domain": "example.com"}, "user": {"eids": eids}}, indent=1))
    outcome = cli("explain", "--keys", key_file, "--bid-request", str(path))
    assert (outcome.status, outcome.err) == (0, "")
    assert outcome.out.startswith('Bid request "r1", as of ')
    assert '  names: "example.com" (site.domain)\n' in outcome.out
    assert "/user/eids/1/uids/0\n  the same token as in /user/eids/0/uids/0\n" in outcome.out
    assert '/user/eids/2\n  not read: its source is "UID2"; that of UID2 is "uidapi.com"\n' in outcome.out
    eids[0]["uids"] = [{"id": "UID2:" + token}]
    outcome = cli("explain", "--keys", key_file, "--bid-request", "-", stdin=json.dumps({"user": {"eids": eids}}))
    assert outcome.status == 1
    assert "it has the prefix UID2 before it" in outcome.out
    outcome = cli("explain", "--keys", key_file, "--bid-request", "-", "--json", stdin=json.dumps({}))
    assert (outcome.status, json.loads(outcome.out)) == (0, {"id": None, "names": [], "eids": [], "omitted": 0})
    outcome = cli("explain", "--keys", key_file, "--bid-request", "-", stdin="{}")
    assert "It has no eids: user.eids and user.ext.eids are missing or empty." in outcome.out


@pytest.mark.parametrize("body", [b"", b"[]", b'{"id":"\xff"}', b'{"x":"%b"}' % (b"x" * 512 * 1024)])
def test_what_is_no_bid_request(cli: Cli, key_file: str, body: bytes) -> None:
    outcome = cli("explain", "--keys", key_file, "--bid-request", "-", stdin=body)
    assert (outcome.status, outcome.out) == (1, "")
    assert "JSON object in UTF-8" in outcome.complaint or "at most 512 KiB" in outcome.complaint


@pytest.mark.parametrize("option", [[], ["--json"]])
def test_hostile_text_does_not_reach_the_terminal(cli: Cli, vector_keys: str, option: list[str]) -> None:
    common = ["explain", "--keys", vector_keys, "--at", str(NOW_MS), *option]
    eid = {"source": HOSTILE, "uids": [{"id": HOSTILE}]}
    ours = {"source": "uidapi.com", "uids": [{"id": HOSTILE}, {"id": TOKENS["CLIENT_SIDE"]}, {"id": HOSTILE * 50_000}]}
    site = {"domain": HOSTILE, "page": f"//{HOSTILE}"}
    body = json.dumps({"id": HOSTILE, "site": site, "user": {"eids": [eid]}, "eids": [ours]})
    for outcome in (
        cli(*common, HOSTILE.replace("\0", "")),
        cli(*common, stdin=HOSTILE * 100_000),
        cli(*common, "--domain", HOSTILE.replace("\0", ""), TOKENS["CLIENT_SIDE"]),
        cli(*common, "--bid-request", "-", stdin=body),
        cli(*common, "--bid-request", "-", stdin=json.dumps({"id": HOSTILE, "user": {"eids": [eid, ours]}})[:500_000]),
    ):
        assert outcome.out.replace("\n", "").isprintable()
        assert len(outcome.out) < 50_000


VECTORS: list[dict[str, Any]] = [each for each in load("own.json") if each["keys"] in {"uid2", "euid"}]


@pytest.mark.parametrize("look", [Look(80, True, True), Look(80, False, False), Look(60, False, True)])
def test_every_report_fits(look: Look) -> None:
    """All but names that are longer than a line is wide; nothing of a token is in it."""
    for vector in VECTORS:
        programme = Programme(None, key_snapshot(vector["keys"]))
        explanation = explain_token(vector["token"], vector["domain"], [programme], None, vector["now_ms"])
        lines = report_token(explanation, vector["now_ms"], look, reveal=False)
        plain = [ESCAPE.sub("", line) for line in lines]
        assert max(len(line) for line in plain if not line.startswith("More: ")) <= look.width
        assert max(map(len, plain)) <= 80  # a link is not broken
        assert all(line.isprintable() for line in plain)
        assert look.is_coloured is any(ESCAPE.search(line) for line in lines)
        assert look.is_unicode or all(line.isascii() for line in plain)
        token = vector["token"]
        assert not isinstance(token, str) or len(token) < 40 or token not in "".join(map(str.strip, plain))


def test_a_bid_request_in_ascii() -> None:
    programmes = [Programme(None, key_snapshot("uid2"))]
    body = {"id": "é", "user": {"eids": [{"source": "é", "uids": []}, *[{"source": f"{n}.com"} for n in range(500)]]}}
    explanation = explain_bid_request(json.dumps(body).encode(), programmes, SOURCES, NOW_MS)
    lines = report_bid_request(explanation, NOW_MS, Look(60, is_coloured=False, is_unicode=False), reveal=False)
    assert all(line.isascii() for line in lines)
    assert max(map(len, lines)) <= 60
    assert lines[-1] == "101 other eids that are not ours"


def _on_a_terminal(arguments: list[str], columns: int, **variables: str) -> str:
    """What a real process prints on a terminal."""
    leader, follower = pty.openpty()
    env = environment({}) | {"COLUMNS": str(columns), "TERM": "xterm", "PYTHONUTF8": "1"} | variables
    with subprocess.Popen([*PROGRAM, *arguments], stdout=follower, stdin=subprocess.DEVNULL, env=env) as process:
        os.close(follower)
        printed = read_to_end(leader)
    assert process.returncode == 0
    return printed.decode().replace("\r\n", "\n")


def test_colours_are_for_terminals(vector_keys: str) -> None:
    arguments = ["explain", "--keys", vector_keys, "--at", str(NOW_MS), TOKENS["V4"]]
    coloured = _on_a_terminal(arguments, 100)
    assert coloured.startswith("\x1b[32m\x1b[1mSUCCESS\x1b[0m, UID2")
    plain = ESCAPE.sub("", coloured)
    assert max(map(len, plain.splitlines())) <= 80
    assert _on_a_terminal(arguments, 100, NO_COLOR="1") == plain
    assert _on_a_terminal(arguments, 100, TERM="dumb") == plain
    in_a_pipe = subprocess.run([*PROGRAM, *arguments], check=True, capture_output=True, env=environment({}), text=True)
    assert in_a_pipe.stdout == plain
    assert max(map(len, _on_a_terminal(arguments, 50, NO_COLOR="1").splitlines())) <= 50
