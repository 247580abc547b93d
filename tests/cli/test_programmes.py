"""`check` and `decrypt` with both programmes."""

import json
from collections.abc import Iterator
from contextlib import ExitStack
from typing import Any

import pytest

from bidstream_svc.core.identity import IdentityScope
from bidstream_svc.devoperator import DevOperator, Fault, OperatorState
from tests.support.cli import Cli
from tests.support.operator import operator_in_thread
from tests.support.sidecar import programme_settings


@pytest.fixture
def both() -> Iterator[list[DevOperator]]:
    with ExitStack() as stack:
        yield [
            stack.enter_context(operator_in_thread(OperatorState(seed=scope, scope=scope))) for scope in IdentityScope
        ]


@pytest.fixture
def both_settings(both: list[DevOperator]) -> dict[str, Any]:
    return programme_settings(both)


def test_tokens_of_both(cli: Cli, both: list[DevOperator], both_settings: dict[str, Any]) -> None:
    tokens = [operator.state.mint_token(version) for operator in both for version in (2, 3, 4)]
    outcome = cli("decrypt", *tokens, **both_settings)
    assert outcome.status == 0
    uids = [json.loads(line)["uid"] for line in outcome.out.splitlines()]
    assert uids == [operator.state.raw_uid("someone@example.com") for operator in both for _ in range(3)]
    outcome = cli("decrypt", "--scope", "UID2", tokens[3], **both_settings)
    assert (outcome.status, json.loads(outcome.out)["status"]) == (1, "INVALID_PAYLOAD")


def test_check_fetches_from_each(cli: Cli, both_settings: dict[str, Any]) -> None:
    outcome = cli("check", "--online", **both_settings)
    assert outcome.status == 0
    assert [line.rpartition(", ")[2] for line in outcome.out.splitlines()[1:]] == ["UID2", "EUID"]


def test_check_goes_on_after_a_failure(cli: Cli, both: list[DevOperator], both_settings: dict[str, Any]) -> None:
    both[0].state.faults.inject(Fault.UNAUTHORIZED, times=None)
    outcome = cli("check", "--online", **both_settings)
    assert (outcome.status, outcome.out.splitlines()[-1].rpartition(", ")[2]) == (1, "EUID")
    assert outcome.err.startswith("bidstream-svc: UID2: operator answered 401")
    both[1].state.faults.inject(Fault.UNAUTHORIZED, times=None)
    lines = cli("check", "--online", **both_settings).err.splitlines()
    assert [line.partition(" operator")[0] for line in lines] == ["bidstream-svc: UID2:", "bidstream-svc: EUID:"]
    assert cli("decrypt", "abcd", **both_settings).complaint.startswith("UID2: operator answered 401")


@pytest.mark.parametrize("command", ["check --online", "decrypt abcd"])
def test_keys_of_another_programme_are_refused(cli: Cli, both: list[DevOperator], command: str) -> None:
    exchanged = programme_settings(both[1:])
    settings = {"uid2" + name.removeprefix("euid"): value for name, value in exchanged.items()}
    outcome = cli(*command.split(), **settings)
    assert outcome.status == 1
    assert "its keys are of EUID, and the settings name UID2" in outcome.err


def test_a_command_that_calls_one_operator_refuses_two(cli: Cli, both_settings: dict[str, Any]) -> None:
    outcome = cli("token", "generate", stdin="someone@example.com\n", **both_settings)
    assert outcome.status == 2
    assert "unset the variables of the other programme" in outcome.complaint


def test_an_incomplete_programme_is_one_line(cli: Cli, both_settings: dict[str, Any]) -> None:
    del both_settings["euid_client_secret"]
    outcome = cli("check", **both_settings)
    assert outcome.status == 2
    assert outcome.complaint == ("BIDSTREAM_EUID_CLIENT_SECRET: missing; set it or BIDSTREAM_EUID_CLIENT_SECRET_FILE")


def test_without_settings_both_forms_are_named(cli: Cli) -> None:
    named = "or set BIDSTREAM_UID2_OPERATOR_URL and BIDSTREAM_EUID_OPERATOR_URL"
    assert named in cli("check").complaint
    assert named not in cli("check", api_key="key").complaint
    assert cli("check", uid2_api_key="key").complaint.startswith(
        "BIDSTREAM_UID2_OPERATOR_URL: missing; e.g. https://prod.uidapi.com;"
    )
