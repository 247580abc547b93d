"""`check`, and the errors that stop `serve` at its start."""

import os
import re
import socket
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
import trustme

from bidstream_svc.devoperator import DevOperator, OperatorState
from bidstream_svc.devoperator.clients import ApiClient, Role
from bidstream_svc.devoperator.endpoints import Endpoint
from bidstream_svc.devoperator.faults import Fault
from bidstream_svc.devoperator.key_endpoints import bidstream_keys
from bidstream_svc.devoperator.replies import Answer, Body
from tests.support.certificates import CertificateFiles
from tests.support.cli import Cli
from tests.support.operator import operator_in_thread
from tests.support.sidecar import operator_settings

SECRET = "kept-secret"

# Settings that are wrong together with good credentials, and what the line must name.
WRONG: list[tuple[dict[str, str], str]] = [
    ({"operator_url": "http://operator.example.com"}, "BIDSTREAM_OPERATOR_URL: plain http to another host"),
    ({"operator_url": ""}, "BIDSTREAM_OPERATOR_URL: missing; e.g. https://prod.euid.eu"),
    ({"api_key": ""}, "BIDSTREAM_API_KEY: missing; set it or BIDSTREAM_API_KEY_FILE"),
    ({"client_secret": ""}, "BIDSTREAM_CLIENT_SECRET: missing; set it or BIDSTREAM_CLIENT_SECRET_FILE"),
    ({"client_secret": SECRET}, "client secret is not base64"),
    ({"api_key": f"{SECRET} {SECRET}"}, "BIDSTREAM_API_KEY: API key is empty or contains whitespace"),
    ({"api_key": "", "api_key_file": "/nonexistent/key"}, "BIDSTREAM_API_KEY_FILE: cannot read /nonexistent/key"),
    ({"client_secret": "", "client_secret_file": "/"}, "BIDSTREAM_CLIENT_SECRET_FILE: cannot read /: Is a directory"),
    ({"listen": "0.0.0.0:0"}, "BIDSTREAM_LISTEN: 0.0.0.0:0 is open to the network"),
    ({"listen": "nowhere"}, "BIDSTREAM_LISTEN: 'nowhere' is not HOST:PORT; accepted: "),
    ({"workers": "none"}, "BIDSTREAM_WORKERS: "),
    ({"auth_token_file": "/nonexistent/token"}, "BIDSTREAM_AUTH_TOKEN_FILE: cannot read /nonexistent/token"),
    ({"tls_cert": "/nonexistent", "tls_key": "/nonexistent"}, "BIDSTREAM_TLS_CERT: cannot read /nonexistent"),
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


def test_dev_takes_no_webhooks_and_says_so(cli: Cli, tmp_path: Path) -> None:
    outcome = cli("serve", "--dev", f"--optout-store={tmp_path}/store", "--optout-listen=127.0.0.1:0")
    assert outcome.status == 2
    assert outcome.complaint.startswith("BIDSTREAM_OPTOUT_LISTEN: --dev only reads the opt-out store; run")


def test_check_accepts_a_valid_configuration(cli: Cli, settings: dict[str, Any], tmp_path: Path) -> None:
    certificate = trustme.CA().issue_cert("localhost")
    certificate.private_key_and_cert_chain_pem.write_to_path(tmp_path / "pem")
    (tmp_path / "token").write_text("made-up")
    more = {"tls_cert": tmp_path / "pem", "tls_key": tmp_path / "pem", "auth_token_file": tmp_path / "token"}
    outcome = cli("check", **settings, **more)
    assert (outcome.status, outcome.err) == (0, "")
    assert re.fullmatch(
        r"certificate expires at 3000-01-01T00:00:00Z, in \d+ days\nconfiguration is good\n", outcome.out
    )


@pytest.mark.parametrize(("begins", "problem"), [(-10, "expired at 2"), (5, "not valid before 2")])
def test_check_refuses_a_certificate_out_of_its_time(
    cli: Cli, settings: dict[str, Any], tmp_path: Path, begins: int, problem: str
) -> None:
    files = CertificateFiles(tmp_path, trustme.CA())
    files.renew(files.issue(begins=timedelta(days=begins), lasts=timedelta(days=2)))
    outcome = cli("check", **settings, **files.settings)
    assert outcome.status == 2
    assert outcome.complaint.startswith(f"BIDSTREAM_TLS_CERT: {files.certificate} {problem}")


# Paths at which the service could not create its file or socket: the settings, with {} for an existing directory, and
# what the line says.
PATHS: list[tuple[dict[str, str], str]] = [
    ({"key_cache": "{}/none/keys"}, "BIDSTREAM_KEY_CACHE: the directory {}/none does not exist; create it"),
    ({"key_cache": "{}/dangling"}, "BIDSTREAM_KEY_CACHE: the directory {}/none does not exist; create it"),
    ({"key_cache": "{}"}, "BIDSTREAM_KEY_CACHE: cannot use {}: Is a directory"),
    ({"key_cache": "{}/fifo"}, "BIDSTREAM_KEY_CACHE: cannot use {}/fifo: Not a regular file"),
    ({"key_cache": "{}/file/keys"}, "BIDSTREAM_KEY_CACHE: cannot use {}/file/keys: Not a directory"),
    (
        {"key_cache": "{}/link", "auth_token_file": "{}/file"},
        "BIDSTREAM_KEY_CACHE: {}/file is the file of BIDSTREAM_AUTH_TOKEN_FILE",
    ),
    ({"listen": "unix:{}/none/x"}, "BIDSTREAM_LISTEN: the directory {}/none does not exist; create it"),
    (
        {"listen": "unix:{}/file"},
        "BIDSTREAM_LISTEN: cannot use {}/file: a file that is not a socket exists at this path",
    ),
    ({"listen": "unix:{}"}, "BIDSTREAM_LISTEN: cannot use {}: a file that is not a socket exists at this path"),
    ({"listen": "unix:{}/file/x"}, "BIDSTREAM_LISTEN: cannot use {}/file/x: Not a directory"),
    ({"admin_listen": "unix:{}/none/x"}, "BIDSTREAM_ADMIN_LISTEN: the directory {}/none does not exist; create it"),
    ({"optout_store": "{}/file"}, "BIDSTREAM_OPTOUT_STORE: {}/file is not a directory"),
    ({"optout_store": "{}/file/store"}, "BIDSTREAM_OPTOUT_STORE: {}/file is not a directory"),
]


@pytest.mark.parametrize(
    ("command", "case"),
    # `serve --dev` has no key cache: it would replace that of a real operator.
    [
        pytest.param(command, case, id=f"{command} {case[0]}")
        for command in ("serve", "serve --dev", "check")
        for case in PATHS
        if command != "serve --dev" or "key_cache" not in case[0]
    ],
)
def test_a_path_that_cannot_work_stops_it_with_one_line(
    cli: Cli, settings: dict[str, Any], tmp_path: Path, command: str, case: tuple[dict[str, str], str]
) -> None:
    wrong, message = case
    (tmp_path / "file").write_text("precious")
    (tmp_path / "link").symlink_to("file")
    (tmp_path / "dangling").symlink_to("none/keys")
    os.mkfifo(tmp_path / "fifo")
    addresses = {"listen": "127.0.0.1:0", "admin_listen": ""}
    given = {name: value.replace("{}", str(tmp_path)) for name, value in wrong.items()}
    outcome = cli(*command.split(), **(settings | addresses | given))
    assert outcome.status == 2
    assert outcome.complaint.startswith(message.replace("{}", str(tmp_path)))
    assert (tmp_path / "file").read_text() == "precious"


@pytest.mark.parametrize(
    "setting", [{"key_cache": "{}/keys"}, {"listen": "unix:{}/x"}, {"optout_store": "{}/a/store"}], ids=str
)
def test_a_directory_that_is_not_writable_is_named(
    cli: Cli, settings: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, setting: dict[str, str]
) -> None:
    monkeypatch.setattr("os.access", lambda path, _mode: path != tmp_path)  # root may write anywhere
    ((name, value),) = setting.items()
    outcome = cli("check", **settings, **{name: value.replace("{}", str(tmp_path))})
    assert outcome.status == 2
    assert outcome.complaint.startswith(f"BIDSTREAM_{name.upper()}: the directory {tmp_path} is not writable for user")


@pytest.mark.parametrize("command", ["serve", "check", "optouts serve"])
@pytest.mark.parametrize("name", ["optout_auth_token_file", "optout_stream_password_file"])
def test_a_missing_secret_of_opt_outs_stops_it(
    cli: Cli, settings: dict[str, Any], tmp_path: Path, command: str, name: str
) -> None:
    addresses = dict.fromkeys(("listen", "admin_listen", "optout_listen"), "127.0.0.1:0")
    of_store = {"optout_store": tmp_path / "store", "optout_stream": "redis://127.0.0.1:1/0"}
    missing = tmp_path / "none"
    outcome = cli(*command.split(), **(settings | addresses | of_store | {name: missing}))
    assert outcome.status == 2
    assert outcome.complaint == f"BIDSTREAM_{name.upper()}: cannot read {missing}: No such file or directory"


def test_several_paths_that_cannot_work_are_all_named(cli: Cli, settings: dict[str, Any]) -> None:
    outcome = cli("check", key_cache="/nonexistent/keys", listen="unix:/nonexistent/x", **settings)
    assert "BIDSTREAM_KEY_CACHE: " in outcome.complaint
    assert "BIDSTREAM_LISTEN: " in outcome.complaint


def test_check_says_nothing_of_a_socket_that_is_in_use(cli: Cli, settings: dict[str, Any], tmp_path: Path) -> None:
    """The service may be running while its settings are checked."""
    with socket.socket(socket.AF_UNIX) as running:
        running.bind(str(tmp_path / "x"))
        assert cli("check", listen=f"unix:{tmp_path}/x", **settings).status == 0


def test_a_taken_port_of_the_admin_plane_names_its_setting(cli: Cli, settings: dict[str, Any]) -> None:
    with socket.create_server(("127.0.0.1", 0)) as other:
        port = other.getsockname()[1]
        outcome = cli("serve", listen="127.0.0.1:0", admin_listen=f"127.0.0.1:{port}", **settings)
    assert outcome.status == 1
    assert outcome.complaint == (
        f"BIDSTREAM_ADMIN_LISTEN: cannot listen on 127.0.0.1:{port}: address already in use; another process has it; "
        "choose another with --admin-listen or BIDSTREAM_ADMIN_LISTEN"
    )


def test_check_online_tells_what_is_skipped(cli: Cli, monkeypatch: pytest.MonkeyPatch) -> None:
    def with_a_malformed_key(state: OperatorState, body: Body, client: ApiClient) -> Answer:
        answer = bidstream_keys(state, body, client)
        answer["body"]["keys"].append({"id": 99, "secret": None})
        return answer

    endpoint = Endpoint("/v2/key/bidstream", frozenset({Role.BIDDER}), with_a_malformed_key)
    monkeypatch.setattr("bidstream_svc.devoperator.app.ENDPOINTS", [endpoint])
    with operator_in_thread(OperatorState(seed=11)) as operator:
        outcome = cli("check", "--online", **operator_settings(operator))
    assert outcome.status == 0
    assert outcome.err.startswith("warning: 1 malformed keys and 0 malformed sites are skipped: keys[4]: ")
    assert outcome.err.count("\n") == 1


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
