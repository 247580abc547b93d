"""`decrypt`: tokens from arguments and stdin, keys from the operator and from a file."""

import gzip
import json
from pathlib import Path
from typing import Any

import pytest

from bidstream_svc.core.identity import IdentityScope
from bidstream_svc.devoperator import OperatorState
from bidstream_svc.devoperator.key_endpoints import bidstream_keys
from tests.core.openrtb_cases import DIRECTORY as CASES
from tests.support.cli import Cli
from tests.vectors.inputs import KEY_RESPONSES, NOW_MS


def test_tokens_from_arguments(cli: Cli, settings: dict[str, Any], state: OperatorState) -> None:
    outcome = cli("decrypt", state.mint_token(established_ms=5), state.mint_token(2), **settings)
    assert (outcome.status, outcome.err) == (0, "")
    first, second = map(json.loads, outcome.out.splitlines())
    assert first == {"status": "SUCCESS", "uid": state.raw_uid("someone@example.com"), "established": 5}
    assert second["uid"] == first["uid"]


@pytest.mark.parametrize("encoding", ["utf-8-sig", "utf-16", "utf-16-le", "utf-32"])
def test_keys_from_any_text(cli: Cli, key_file: str, state: OperatorState, encoding: str) -> None:
    text = Path(key_file).read_text()
    for content in (text.encode(encoding), gzip.compress(text.encode(encoding))):
        Path(key_file).write_bytes(content)
        outcome = cli("decrypt", "--keys", key_file, state.mint_token())
        assert (outcome.status, outcome.err) == (0, "")


def test_tokens_from_stdin_one_a_line(cli: Cli, key_file: str, state: OperatorState) -> None:
    tokens = [state.mint_token(identity=f"{number}@example.com") for number in range(20)]
    outcome = cli("decrypt", "--keys", key_file, stdin="\n".join([*tokens[:10], "", "  ", *tokens[10:]]))
    assert outcome.status == 0
    uids = [json.loads(line)["uid"] for line in outcome.out.splitlines()]
    assert uids == [state.raw_uid(f"{number}@example.com") for number in range(20)]


def test_a_stdin_that_is_closed_or_not_text(cli: Cli, key_file: str) -> None:
    assert cli("decrypt", "--keys", key_file, stdin=None).complaint == "stdin is closed"
    outcome = cli("decrypt", "--keys", key_file, stdin=b"\xff\n")
    assert json.loads(outcome.out)["status"] == "INVALID_PAYLOAD"


def test_a_domain_may_be_given(cli: Cli, key_file: str, state: OperatorState) -> None:
    token = state.mint_token(client_side=True)
    assert cli("decrypt", "--keys", key_file, "--domain", "www.example.com", token).status == 0
    outcome = cli("decrypt", "--keys", key_file, token)
    assert outcome.status == 1
    assert json.loads(outcome.out)["status"] == "DOMAIN_NAME_CHECK_FAILED"


def test_what_does_not_decrypt_is_printed_and_status_1(cli: Cli, key_file: str, state: OperatorState) -> None:
    tokens = [state.mint_token(), "abcd", state.mint_token(lifetime_s=-1), "é"]
    outcome = cli("decrypt", "--keys", key_file, *tokens)
    assert outcome.status == 1
    statuses = [json.loads(line)["status"] for line in outcome.out.splitlines()]
    assert statuses == ["SUCCESS", "VERSION_NOT_SUPPORTED", "EXPIRED_TOKEN", "INVALID_PAYLOAD"]
    assert outcome.err == "bidstream-svc: 3 of 4 tokens were not decrypted\n"


def test_no_tokens_are_told(cli: Cli, key_file: str) -> None:
    assert cli("decrypt", "--keys", key_file) == (0, "", "bidstream-svc: no tokens in the input\n")


def test_a_key_file_needs_no_operator_settings(cli: Cli, key_file: str, state: OperatorState) -> None:
    assert cli("decrypt", "--keys", key_file, state.mint_token()).status == 0
    outcome = cli("decrypt", state.mint_token())
    assert (outcome.status, outcome.complaint[:47]) == (2, "without --keys: BIDSTREAM_OPERATOR_URL: missing")


@pytest.mark.parametrize(
    ("content", "status"),
    [(None, 2), (b"", 1), (b"{}", 1), (b"\xff", 1), (b'{"body": {"keys": [{"id": 1, "secret": "AAAA"}]}}', 1)],
)
def test_an_invalid_key_file_is_named(cli: Cli, tmp_path: Path, content: bytes | None, status: int) -> None:
    path = tmp_path / "keys.json"
    if content is not None:
        path.write_bytes(content)
    outcome = cli("decrypt", "--keys", str(path), "abcd")
    assert outcome.status == status
    assert str(path) in outcome.complaint


def test_an_operator_that_refuses_is_status_1(cli: Cli, settings: dict[str, Any]) -> None:
    outcome = cli("decrypt", "abcd", **(settings | {"api_key": "wrong"}))
    assert (outcome.status, outcome.complaint[:21]) == (1, "operator answered 401")


def _bid_request(token: str, source: str = "uidapi.com", **fields: object) -> str:
    return json.dumps({**fields, "user": {"eids": [{"source": source, "uids": [{"id": token}]}]}})


@pytest.fixture
def euid() -> OperatorState:
    return OperatorState(seed=12, scope=IdentityScope.EUID)


@pytest.fixture
def euid_key_file(euid: OperatorState, tmp_path: Path) -> str:
    path = tmp_path / "euid-keys.json"
    path.write_text(json.dumps(bidstream_keys(euid, {})))
    return str(path)


def test_bid_requests_one_a_line(cli: Cli, key_file: str, state: OperatorState, tmp_path: Path) -> None:
    good = [
        _bid_request(state.mint_token(), id="r1"),
        _bid_request(state.mint_token(client_side=True), id="r2", site={"page": "https://www.example.com/x"}),
        json.dumps({"id": "r3"}),
    ]
    text = "\n".join([good[0], "", *good[1:]])
    path = tmp_path / "requests.ndjson"
    for content in (text.encode(), text.encode() + b"\r\n", gzip.compress(text.encode())):
        path.write_bytes(content)
        outcome = cli("decrypt", "--keys", key_file, "--bid-requests", str(path))
        assert (outcome.status, outcome.err) == (0, "")
        answers = [json.loads(line) for line in outcome.out.splitlines()]
        assert [answer["id"] for answer in answers] == ["r1", "r2", "r3"]
        assert [found["matched"] for answer in answers for found in answer["ids"]] == [None, "site.page"]
    outcome = cli("decrypt", "--keys", key_file, "--bid-requests", "-", stdin=text)
    assert (outcome.status, len(outcome.out.splitlines())) == (0, 3)


def test_every_case_of_a_bid_request(cli: Cli, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What /openrtb and the pure function answer, too; see tests/core/openrtb_cases.py."""
    monkeypatch.setattr("bidstream_svc.cli.bid_requests.wall_clock_ms", lambda: NOW_MS)
    options = []
    for name in ("uid2", "euid"):
        path = tmp_path / f"{name}.json"
        path.write_text(json.dumps(KEY_RESPONSES[name]["response"]), encoding="utf-8")
        options += ["--keys", str(path)]
    cases = {path: path.read_bytes() for path in sorted(CASES.glob("*.request"))}
    in_one_line = {
        path: body for path, body in cases.items() if b"\n" not in body.strip() and b"\r" not in body.strip()
    }
    assert len(in_one_line) > 40
    outcome = cli("decrypt", *options, "--bid-requests", "-", stdin=b"\n".join(in_one_line.values()))
    for path, line in zip(in_one_line, outcome.out.splitlines(), strict=True):
        assert json.loads(line) == json.loads(path.with_suffix(".answer").read_bytes()), path.name


def test_bid_requests_of_two_programmes(
    cli: Cli, key_file: str, euid_key_file: str, state: OperatorState, euid: OperatorState
) -> None:
    stdin = _bid_request(state.mint_token(2)) + "\n" + _bid_request(euid.mint_token(2), "euid.eu")
    outcome = cli("decrypt", "--keys", euid_key_file, "--keys", key_file, "--bid-requests", "-", stdin=stdin)
    assert (outcome.status, outcome.err) == (0, "")
    outcome = cli("decrypt", "--keys", key_file, "--bid-requests", "-", stdin=stdin)
    assert (outcome.status, outcome.err) == (1, "bidstream-svc: 1 of 2 tokens were not decrypted\n")
    assert json.loads(outcome.out.splitlines()[1])["ids"][0]["status"] == "NOT_INITIALIZED"


def test_tokens_of_two_programmes(
    cli: Cli, key_file: str, euid_key_file: str, state: OperatorState, euid: OperatorState
) -> None:
    tokens = [each.mint_token(version) for each in (state, euid) for version in (2, 3, 4)]
    outcome = cli("decrypt", "--keys", key_file, "--keys", euid_key_file, *tokens)
    assert (outcome.status, outcome.err) == (0, "")


def test_saved_key_responses_are_merged(cli: Cli, key_file: str, state: OperatorState, tmp_path: Path) -> None:
    """A key of the past opens its tokens, whichever file has it; a key with two secrets is one error."""
    response = bidstream_keys(state, {})
    keys = response["body"]["keys"]
    files = []
    for number, some in enumerate((keys[::2], keys[1::2])):
        files.append(tmp_path / f"{number}.json")
        files[-1].write_text(json.dumps({"body": {**response["body"], "keys": some}}))
    tokens = [state.mint_token(version) for version in (2, 3, 4)]
    alone = [cli("decrypt", "--keys", str(path), *tokens).status for path in files]
    assert alone == [1, 1]
    outcome = cli("decrypt", *(word for path in files for word in ("--keys", str(path))), *tokens)
    assert (outcome.status, outcome.err) == (0, "")
    saved = tmp_path / "saved"
    saved.mkdir()
    assert cli("decrypt", "--keys", str(saved), *tokens).complaint == f"--keys: {saved} has no files *.json"
    for path in files:
        (saved / path.name).write_bytes(path.read_bytes())
    (saved / "2.json.tmp").touch()
    outcome = cli("decrypt", "--keys", str(saved), *tokens)
    assert (outcome.status, outcome.err) == (0, "")
    files[0].write_text(json.dumps({"body": {**response["body"], "keys": [{**keys[0], "secret": "A" * 43 + "="}]}}))
    outcome = cli("decrypt", "--keys", key_file, "--keys", str(files[0]), *tokens)
    assert outcome.status == 1
    assert "has different secrets in two key responses" in outcome.complaint


def test_a_line_that_is_no_bid_request_is_named_and_the_others_go_on(
    cli: Cli, key_file: str, state: OperatorState
) -> None:
    good = _bid_request(state.mint_token()).encode()
    padding = b'{"x":"%b"}' % (b"x" * 512 * 1024)
    lines = [good, b'{"id":', b'{"id":"\xff"}', padding, b"[]", good]
    outcome = cli("decrypt", "--keys", key_file, "--bid-requests", "-", stdin=b"\n".join(lines))
    assert outcome.status == 1
    assert len(outcome.out.splitlines()) == 2
    reported = outcome.err.splitlines()
    assert [line.split(":")[1] for line in reported[:-1]] == [" line 2", " line 3", " line 4", " line 5"]
    assert reported[-1] == "bidstream-svc: 4 of 6 lines are not bid requests"


def test_bid_requests_of_the_full_length(cli: Cli, key_file: str) -> None:
    longest = b'{"x":"%b"}' % (b"x" * (512 * 1024 - 8))
    assert cli("decrypt", "--keys", key_file, "--bid-requests", "-", stdin=longest).status == 0
    assert cli("decrypt", "--keys", key_file, "--bid-requests", "-", stdin=longest + b" ").status == 1


def test_no_bid_requests_are_told(cli: Cli, key_file: str) -> None:
    outcome = cli("decrypt", "--keys", key_file, "--bid-requests", "-", stdin="\n")
    assert outcome == (0, "", "bidstream-svc: no bid requests in the input\n")


def test_bid_requests_exclude_tokens(cli: Cli, key_file: str) -> None:
    for others in (["abcd"], ["--domain", "example.com"]):
        outcome = cli("decrypt", "--keys", key_file, "--bid-requests", "-", *others)
        assert (outcome.status, outcome.out) == (2, "")
    assert cli("decrypt", "--keys", "-", "--bid-requests", "-").status == 2


def test_bid_requests_with_sources_of_their_own(cli: Cli, key_file: str, state: OperatorState) -> None:
    stdin = _bid_request(state.mint_token(), "ids.example.com")
    # The settings of operators do not count where there are keys.
    others: dict[str, Any] = {"operator_url": "nonsense", "uid2_operator_url": "nonsense"}
    for flags, settings in (
        ([], {"eid_sources": "ids.example.com=UID2"}),
        (["--eid-sources", "ids.example.com=UID2"], {"eid_sources": "nonsense"}),
    ):
        outcome = cli("decrypt", "--keys", key_file, "--bid-requests", "-", *flags, stdin=stdin, **settings, **others)
        assert (outcome.status, outcome.err) == (0, "")
        assert [found["status"] for found in json.loads(outcome.out)["ids"]] == ["SUCCESS"]
