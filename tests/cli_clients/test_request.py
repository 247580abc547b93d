"""`request`, compared with the reference script that it can replace."""

import gzip
import json
import re
import subprocess
import sys
from collections.abc import Callable
from functools import partial
from pathlib import Path

import pytest

from bidstream_svc.devoperator import DevOperator, Fault, OperatorState
from tests.support.cli import Cli, Outcome

SCRIPT = Path(__file__).parents[1] / "data" / "uid2_request.py"
UTF_16_LE = partial(str.encode, encoding="utf-16-le")
GENERATE, REFRESH, MAP = "/v2/token/generate", "/v2/token/refresh", "/v2/identity/map"


def run_script(*args: str, stdin: str = "") -> str:
    """What the script of the reference prints; it ends with 0 whatever happens."""
    done = subprocess.run(
        [sys.executable, SCRIPT, *args], input=stdin, capture_output=True, text=True, timeout=30, check=True
    )
    assert done.stderr == ""
    return done.stdout


def without_values(text: str) -> str:
    """Tokens, keys and times replaced: no two answers have the same."""
    return re.sub(r"[\w+/=-]{40,}", "VALUE", re.sub(r"\d{13}", "TIME", text))


def generate(cli: Cli, operator: DevOperator, email: str) -> dict[str, str]:
    outcome = cli("request", "--json", operator.url + GENERATE, stdin=json.dumps({"email": email}))
    body: dict[str, str] = json.loads(outcome.out)["body"]
    return body


@pytest.mark.parametrize(
    ("path", "payload"),
    [
        (MAP, '{"email": ["a@example.com", "optout@example.com", "none"]}\n'),
        (MAP, '{\n  "phone": ["+12345678901"]\n}\n'),
        (MAP, '{"email": ["no line end@example.com"]}'),
        ("/v3/identity/map", '{"email": ["a@example.com"], "phone": ["ä"]}\n'),
        (GENERATE, '{"email": "optout@example.com"}\n'),
        (GENERATE, '{"e-mail": "a@example.com"}\n'),
        (GENERATE, "no JSON\n"),
        (GENERATE, ""),
        ("/v2/nowhere", "{}\n"),
    ],
)
def test_prints_what_the_script_prints(cli: Cli, operator: DevOperator, path: str, payload: str) -> None:
    url, state = operator.url + path, operator.state
    script = run_script(url, state.api_key, state.client_secret, stdin=payload)
    outcome = cli("request", "--echo", url, stdin=payload)
    assert outcome.out == script
    is_good = "Response JSON:\n{" in script
    assert (outcome.status == 0) is is_good
    assert (outcome.err == "") is is_good


def test_without_echo_only_the_request_line_differs(cli: Cli, operator: DevOperator) -> None:
    url, state, payload = operator.url + MAP, operator.state, '{"email": ["a@example.com"]}\n'
    script = run_script(url, state.api_key, state.client_secret, stdin=payload)
    outcome = cli("request", url, stdin=payload)
    assert "a@example.com" not in outcome.out.partition("Response JSON:")[0]
    assert outcome.out == script.replace(f" : {payload}", " : [29 bytes]\n")


def test_a_wrong_key_prints_the_same_and_is_status_1(cli: Cli, operator: DevOperator) -> None:
    url = operator.url + MAP
    script = run_script(url, "wrong", operator.state.client_secret, stdin="{}\n")
    outcome = cli("request", "--echo", url, stdin="{}\n", api_key="wrong")
    assert "status code 401, check api_key\n" in script
    assert outcome.out == script
    assert outcome.status == 1
    assert re.fullmatch(r"bidstream-svc: operator answered 401: check the API key.*\n", outcome.err)


def test_a_refresh_prints_what_the_script_prints(cli: Cli, operator: DevOperator) -> None:
    url, tokens = operator.url + REFRESH, generate(cli, operator, "a@example.com")
    pair = tokens["refresh_token"], tokens["refresh_response_key"]
    script = run_script(url, "--refresh-token", *pair)
    for stdin in (json.dumps(tokens), "\n".join(pair), json.dumps({"status": "success", "body": tokens}, indent=4)):
        outcome = cli("request", url, "--refresh-token", stdin=stdin)
        assert (outcome.status, outcome.err) == (0, "")
        assert without_values(outcome.out) == without_values(script)
        assert pair[0] not in outcome.out
    assert '"advertising_token": "VALUE"' in without_values(script)


def test_a_refresh_after_an_opt_out_prints_what_the_script_prints(
    cli: Cli, operator: DevOperator, tmp_path: Path
) -> None:
    url, tokens = operator.url + REFRESH, generate(cli, operator, "refresh-optout@example.com")
    script = run_script(url, "--refresh-token", tokens["refresh_token"], tokens["refresh_response_key"])
    (tmp_path / "identity.json").write_text(json.dumps(tokens))
    outcome = cli("request", "--refresh-token", "--identity", str(tmp_path / "identity.json"), url)
    assert outcome == Outcome(0, script, "")
    assert '"status": "optout"' in script


def test_an_invalid_refresh_token_without_credentials_prints_what_the_script_prints(
    cli: Cli, operator: DevOperator
) -> None:
    url = operator.url + REFRESH
    outcome = cli("request", "--refresh-token", url, stdin="AAAA AAAA", api_key="")
    assert outcome.out == run_script(url, "--refresh-token", "AAAA", "AAAA")
    assert outcome.status == 1
    assert outcome.err.startswith("bidstream-svc: operator answered 400")


def test_with_credentials_a_refused_refresh_token_is_told_to_be_expired_or_invalid(
    cli: Cli, operator: DevOperator, state: OperatorState, monkeypatch: pytest.MonkeyPatch
) -> None:
    url, tokens = operator.url + REFRESH, generate(cli, operator, "a@example.com")
    invalid = cli("request", "--refresh-token", url, stdin="AAAA AAAA")
    later_ms = state.now_ms() + 31 * 86_400_000
    monkeypatch.setattr(state, "now_ms", lambda: later_ms)
    expired = cli("request", "--refresh-token", url, stdin=json.dumps(tokens))
    for outcome, status in ((invalid, "invalid_token"), (expired, "expired_token")):
        assert outcome.status == 1
        assert f'"status":"{status}"' in outcome.out.replace(" ", "")


def test_a_refresh_needs_no_credentials(cli: Cli, operator: DevOperator) -> None:
    tokens = generate(cli, operator, "a@example.com")
    outcome = cli("request", "--refresh-token", operator.url + REFRESH, stdin=json.dumps(tokens), api_key="")
    assert outcome.status == 0


def test_json_alone_is_one_line(cli: Cli, operator: DevOperator) -> None:
    outcome = cli("request", "--json", operator.url + MAP, stdin='{"email": ["a@example.com"]}')
    assert (outcome.status, outcome.err, outcome.out.count("\n")) == (0, "", 1)
    (mapped,) = json.loads(outcome.out)["body"]["mapped"]
    assert mapped["advertising_id"] == operator.state.raw_uid("a@example.com")


def test_json_alone_is_nothing_when_it_fails(cli: Cli, operator: DevOperator) -> None:
    outcome = cli("request", "--json", operator.url + MAP, stdin="{}")
    assert (outcome.status, outcome.complaint[:21]) == (1, "operator answered 400")


def test_a_byte_order_mark_is_dropped(cli: Cli, operator: DevOperator) -> None:
    payload = b'\xef\xbb\xbf{"email": ["a@example.com"]}\r\n'
    assert cli("request", "--json", operator.url + MAP, stdin=payload).status == 0


@pytest.mark.parametrize("encode", [str.encode, lambda text: gzip.compress(text.encode("utf-16")), UTF_16_LE])
def test_any_text_is_sent_in_utf_8(cli: Cli, operator: DevOperator, encode: Callable[[str], bytes]) -> None:
    many = [f"{number}@bücher.example" for number in range(20_000)]  # more than a line of people's files may have
    payload = json.dumps({"email": many}, ensure_ascii=False)
    outcome = cli("request", "--json", operator.url + MAP, stdin=encode(payload))
    assert (outcome.status, outcome.err) == (0, "")
    assert [mapped["identifier"] for mapped in json.loads(outcome.out)["body"]["mapped"]] == many


def test_what_is_no_text_is_not_sent(cli: Cli, operator: DevOperator) -> None:
    before = dict(operator.state.calls)
    for stdin, problem in ((b'{"email": ["\xff"]}', "stdin is not text in UTF-8"), (b"PK\x03\x04", "the input is")):
        outcome = cli("request", operator.url + MAP, stdin=stdin)
        assert (outcome.status, outcome.out, outcome.complaint[: len(problem)]) == (1, "", problem)
    assert operator.state.calls == before


@pytest.mark.parametrize("args", [("hidden-key", "hidden-secret"), ("--refresh-token", "hidden-token", "hidden-key")])
def test_secrets_in_the_places_of_the_script_are_refused(cli: Cli, operator: DevOperator, args: tuple[str]) -> None:
    before = dict(operator.state.calls)
    outcome = cli("request", operator.url + GENERATE, *args, stdin='{"email": "a@example.com"}')
    assert (outcome.status, outcome.out) == (2, "")
    assert "hidden" not in outcome.err
    last = outcome.err.splitlines()[-1]
    assert re.search("not taken from the command line.* use BIDSTREAM_API_KEY and BIDSTREAM_CLIENT_SECRET", last)
    assert operator.state.calls == before


@pytest.mark.parametrize("name", ["--api-key", "--client-secret"])
def test_secrets_as_flags_are_refused(cli: Cli, operator: DevOperator, name: str) -> None:
    outcome = cli("request", operator.url + GENERATE, name, "hidden")
    assert (outcome.status, outcome.out) == (2, "")
    assert "hidden" not in outcome.err


@pytest.mark.parametrize(
    ("url", "problem"),
    [
        ("prod.euid.eu/v2/token/generate", "URL: not an http or https URL"),
        ("http://prod.euid.eu/v2/token/generate", "URL: plain http to another host; use https, or set BIDSTREAM_"),
        ("https://user:hidden@prod.euid.eu/v2", "URL: has a user name"),
    ],
)
def test_an_invalid_url_is_status_2(cli: Cli, url: str, problem: str) -> None:
    outcome = cli("request", url, stdin="{}")
    assert (outcome.status, outcome.complaint[: len(problem)]) == (2, problem)
    assert "hidden" not in outcome.err


@pytest.mark.parametrize(
    ("settings", "problem"),
    [
        ({"api_key": ""}, "BIDSTREAM_API_KEY: missing; set it or BIDSTREAM_API_KEY_FILE"),
        ({"client_secret": "c2hvcnQ="}, "client secret is 5 bytes long; 32 are required"),
    ],
)
def test_invalid_credentials_are_status_2(
    cli: Cli, operator: DevOperator, settings: dict[str, str], problem: str
) -> None:
    outcome = cli("request", operator.url + MAP, stdin="{}", **settings)
    assert outcome.status == 2
    assert outcome.complaint.endswith(problem)


@pytest.mark.parametrize(
    ("stdin", "problem"),
    [
        ("", "stdin is empty; an identity in JSON, or a refresh token"),
        ("one-line", "stdin holds neither an identity in JSON nor two lines"),
        ('{"refresh_token": 5}', "stdin holds neither"),
        ('{"refresh_token": "a", "refresh_response_key": "?"}', "refresh_response_key is not base64"),
        (b"\xff\xff", "stdin is not text in UTF-8"),
    ],
)
def test_a_refresh_without_its_input_is_status_1(
    cli: Cli, operator: DevOperator, stdin: str | bytes, problem: str
) -> None:
    outcome = cli("request", "--refresh-token", operator.url + REFRESH, stdin=stdin)
    assert (outcome.status, outcome.complaint[: len(problem)]) == (1, problem)


def test_an_identity_file_that_cannot_be_read_is_status_2(cli: Cli, operator: DevOperator) -> None:
    outcome = cli("request", "--refresh-token", "--identity", "/nonexistent", operator.url + REFRESH)
    assert outcome == Outcome(2, "", "bidstream-svc: cannot read /nonexistent: No such file or directory\n")
    assert cli("request", "--identity", "/nonexistent", operator.url + REFRESH).status == 2


@pytest.mark.parametrize(
    ("fault", "problem"),
    [
        (Fault.WRONG_NONCE, "response nonce does not match the request"),
        (Fault.WRONG_SECRET, "message cannot be decrypted"),
        (Fault.NOT_JSON, "operator's decrypted answer is not JSON"),
        (Fault.GARBAGE_BODY, "message is not base64"),
        (Fault.HTML_PAGE, "answer is an HTML page"),
        (Fault.REDIRECT, "operator answered 302, and redirects are not followed"),
        (Fault.RESET, "connection to the operator failed"),
    ],
)
def test_every_bad_answer_is_one_line_and_asked_for_once(
    cli: Cli, operator: DevOperator, state: OperatorState, fault: Fault, problem: str
) -> None:
    state.faults.inject(fault)
    before = state.calls[MAP]
    outcome = cli("request", "--json", operator.url + MAP, stdin='{"email": ["a@example.com"]}')
    assert outcome.status == 1
    assert problem in outcome.complaint
    assert state.calls[MAP] == before + 1


def test_credentials_may_be_files(cli: Cli, operator: DevOperator, tmp_path: Path) -> None:
    (tmp_path / "key").write_text(operator.state.api_key + "\n")
    (tmp_path / "secret").write_text(operator.state.client_secret + "\n")
    flags = ("--api-key-file", str(tmp_path / "key"), "--client-secret-file", str(tmp_path / "secret"))
    outcome = cli("request", "--json", operator.url + MAP, *flags, stdin='{"email": []}', api_key="", client_secret="")
    assert outcome.status == 0
