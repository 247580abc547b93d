"""`decrypt`: tokens from arguments and stdin, keys from the operator and from a file."""

import gzip
import json
from pathlib import Path
from typing import Any

import pytest

from bidstream_svc.devoperator import DevOperator, OperatorState
from bidstream_svc.devoperator.key_endpoints import bidstream_keys
from tests.support.cli import Cli


@pytest.fixture
def state(operator: DevOperator) -> OperatorState:
    return operator.state


@pytest.fixture
def key_file(state: OperatorState, tmp_path: Path) -> str:
    path = tmp_path / "keys.json"
    path.write_text(json.dumps(bidstream_keys(state, {})))
    return str(path)


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
    assert (outcome.status, outcome.complaint[:30]) == (2, "BIDSTREAM_OPERATOR_URL: missin")


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
    assert outcome.complaint.startswith(("cannot read ", "key response: ", f"{path} is "))


def test_an_operator_that_refuses_is_status_1(cli: Cli, settings: dict[str, Any]) -> None:
    outcome = cli("decrypt", "abcd", **(settings | {"api_key": "wrong"}))
    assert (outcome.status, outcome.complaint[:21]) == (1, "operator answered 401")
