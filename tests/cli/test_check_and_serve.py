"""`check`, and the errors that stop `serve` at its start."""

from pathlib import Path
from typing import Any

import pytest
import trustme

from bidstream_svc.devoperator import DevOperator
from bidstream_svc.devoperator.faults import Fault
from tests.support.cli import Cli

SECRET = "kept-secret"

# Settings that are wrong together with good credentials, and what the line must name.
WRONG: list[tuple[dict[str, str], str]] = [
    ({"operator_url": "http://operator.example.com"}, "BIDSTREAM_OPERATOR_URL: plain http to another host"),
    ({"operator_url": ""}, "BIDSTREAM_OPERATOR_URL: missing; e.g. https://prod.euid.eu"),
    ({"api_key": ""}, "BIDSTREAM_API_KEY: missing; set it or BIDSTREAM_API_KEY_FILE"),
    ({"client_secret": ""}, "BIDSTREAM_CLIENT_SECRET: missing; set it or BIDSTREAM_CLIENT_SECRET_FILE"),
    ({"client_secret": SECRET}, "client secret is not base64"),
    ({"api_key": f"{SECRET} {SECRET}"}, "BIDSTREAM_API_KEY, "),
    ({"api_key": "", "api_key_file": "/nonexistent/key"}, "BIDSTREAM_API_KEY_FILE: cannot read /nonexistent/key"),
    ({"client_secret": "", "client_secret_file": "/"}, "BIDSTREAM_CLIENT_SECRET_FILE: cannot read /: Is a directory"),
    ({"listen": "0.0.0.0:0"}, "BIDSTREAM_LISTEN: 0.0.0.0:0 is open to the network"),
    ({"listen": "nowhere"}, "BIDSTREAM_LISTEN: 'nowhere' is not HOST:PORT; accepted: "),
    ({"workers": "none"}, "BIDSTREAM_WORKERS: "),
    ({"auth_token_file": "/nonexistent/token"}, "BIDSTREAM_AUTH_TOKEN_FILE: cannot read /nonexistent/token"),
    ({"tls_cert": "/nonexistent", "tls_key": "/nonexistent"}, "BIDSTREAM_TLS_CERT, BIDSTREAM_TLS_KEY: cannot be"),
    ({"request_timeout": "soon"}, "BIDSTREAM_REQUEST_TIMEOUT: "),
    ({"log_format": "xml"}, "BIDSTREAM_LOG_FORMAT: "),
]


@pytest.mark.parametrize("command", ["serve", "check"])
@pytest.mark.parametrize(("wrong", "message"), WRONG, ids=lambda value: str(value)[:40])
def test_a_wrong_setting_stops_it_with_one_line(
    cli: Cli, settings: dict[str, Any], command: str, wrong: dict[str, str], message: str
) -> None:
    outcome = cli(command, **(settings | wrong))
    assert outcome.status == 2
    assert outcome.complaint.startswith("BIDSTREAM_")
    assert message in outcome.complaint
    for value in (SECRET, settings["api_key"], settings["client_secret"]):
        assert value not in outcome.err


@pytest.mark.parametrize("command", ["serve", "check"])
def test_flags_win_over_the_environment(cli: Cli, settings: dict[str, Any], command: str) -> None:
    outcome = cli(command, "--listen", "flag", "--refresh-interval=-1", listen="127.0.0.1:0", **settings)
    assert outcome.status == 2
    assert "'flag' is not HOST:PORT" in outcome.complaint
    assert "BIDSTREAM_REFRESH_INTERVAL: " in outcome.complaint


def test_dev_has_one_worker_and_says_so(cli: Cli) -> None:
    outcome = cli("serve", "--dev", "--workers", "2", "--listen", "127.0.0.1:0", "--admin-listen=")
    assert (outcome.status, outcome.complaint[:18]) == (2, "BIDSTREAM_WORKERS:")


def test_check_accepts_a_valid_configuration(cli: Cli, settings: dict[str, Any], tmp_path: Path) -> None:
    certificate = trustme.CA().issue_cert("localhost")
    certificate.private_key_and_cert_chain_pem.write_to_path(tmp_path / "pem")
    (tmp_path / "token").write_text("made-up")
    more = {"tls_cert": tmp_path / "pem", "tls_key": tmp_path / "pem", "auth_token_file": tmp_path / "token"}
    assert cli("check", **settings, **more) == (0, "configuration is good\n", "")


def test_check_online_fetches_keys(cli: Cli, settings: dict[str, Any]) -> None:
    outcome = cli("check", "--online", **settings)
    assert outcome == (0, "configuration is good\noperator is good: 4 keys, 2 sites, UID2\n", "")


def test_check_online_says_what_is_wrong_with_the_operator(
    cli: Cli, settings: dict[str, Any], operator: DevOperator
) -> None:
    for fault, message in [
        (Fault.UNAUTHORIZED, "operator answered 401"),
        (Fault.REDIRECT, "operator answered 302, and redirects are not followed"),
        (Fault.WRONG_SECRET, "message cannot be decrypted"),
    ]:
        operator.state.faults.inject(fault)
        outcome = cli("check", "--online", **settings)
        assert (outcome.status, outcome.out) == (1, "configuration is good\n")
        assert outcome.err.startswith(f"bidstream-svc: {message}")
        assert outcome.err.count("\n") == 1


def test_check_warns_of_unknown_variables(cli: Cli, settings: dict[str, Any]) -> None:
    outcome = cli("check", listens="x", zzzzzzzz="x", **settings)
    assert outcome[:2] == (0, "configuration is good\n")
    assert outcome.err.splitlines() == [
        "warning: BIDSTREAM_LISTENS is not a setting; did you mean BIDSTREAM_LISTEN?",
        "warning: BIDSTREAM_ZZZZZZZZ is not a setting",
    ]
