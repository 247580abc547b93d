"""`optouts send`: options, input, the report for people and for machines, and the exit status."""

import json
import re
import signal
import subprocess
from base64 import b64encode
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support.cli import Cli
from tests.support.naive_receiver import OK, NaiveReceiver, answer, naive_receiver
from tests.support.sidecar import PROGRAM, environment, wait_until

IDS = [bytes([number]) * length for number, length in enumerate((32, 33, 32), 1)]
TEXTS = [b64encode(raw_id).decode() for raw_id in IDS]
SENSITIVE = "sensitive-bearer"


@pytest.fixture
def good() -> Iterator[NaiveReceiver]:
    with naive_receiver(lambda _request: OK) as receiver:
        yield receiver


@pytest.fixture
def naive() -> Iterator[NaiveReceiver]:
    """Knows the first two ids only."""
    with naive_receiver(lambda request: OK if request.number < 2 else answer("404 Not Found")) as receiver:
        yield receiver


def identities(receiver: NaiveReceiver) -> list[str]:
    return [request.query["identity"][0] for request in receiver.requests]


def times(receiver: NaiveReceiver) -> list[int]:
    return [int(request.query["timestamp"][0]) for request in receiver.requests]


def test_nothing_to_complain_about(cli: Cli, good: NaiveReceiver) -> None:
    status, out, err = cli("optouts", "send", "--count", "5", "--slow", "20", good.url)
    assert (status, err) == (0, "")
    first, second, third = out.splitlines()
    assert re.fullmatch(r"5 requests in [0-9.]+ s, 5 accepted", first)
    assert second.startswith("answers took p50 ")
    assert third == "nothing to complain about"
    assert len({*identities(good)}) == 5


def test_a_fault_is_named_with_what_it_costs(cli: Cli, naive: NaiveReceiver) -> None:
    status, out, err = cli("optouts", "send", "--count", "5", "--slow", "20", naive.url)
    assert (status, err) == (1, "stopped at entry 3: status 404\n")
    (fault,) = re.findall("^fault: (.*)$", out, re.MULTILINE)
    assert re.match(r"status 404 \(once, first at entry 3, of 3[23] bytes\): no other entry follows", fault)
    assert "nothing to complain" not in out


def test_the_report_for_machines(cli: Cli, naive: NaiveReceiver) -> None:
    outcome = cli("optouts", "send", "--count", "5", "--slow", "20", "--json", naive.url)
    assert outcome.status == 1
    report = json.loads(outcome.out)
    (fault,) = report.pop("faults")
    assert report.pop("seconds") > 0
    assert 0 < report["latency_ms"]["p50"] <= report["latency_ms"]["p99"] <= report.pop("latency_ms")["max"]
    assert report == {"requests": 3, "accepted": 2, "failed": 1, "closed_connections": 0}
    assert fault.pop("cost")
    assert fault == {"fault": "not_found", "seen": "status 404", "count": 1, "first_entry": 3}


@pytest.mark.parametrize(
    "text",
    [
        "\n".join(TEXTS),
        "identity,timestamp\n" + "".join(f"{text},1700000000\r\n" for text in TEXTS),
        "".join(f'"{text.rstrip("=")}"\t1700000000\n\n' for text in TEXTS),
    ],
)
def test_ids_from_stdin_and_from_a_file(cli: Cli, good: NaiveReceiver, tmp_path: Path, text: str) -> None:
    path = tmp_path / "ids.txt"
    path.write_text(text)
    options = ("--slow", "20", "--replays", "1", good.url)
    assert cli("optouts", "send", "--ids", "-", *options, stdin=text).status == 0
    assert cli("optouts", "send", "--ids", str(path), *options).status == 0
    assert identities(good) == TEXTS * 4
    if "1700000000" in text:
        assert {*times(good)} == {1_700_000_000}


@pytest.mark.parametrize(
    ("text", "complaint"),
    [
        (f"{TEXTS[0]}\n{TEXTS[1]}x\n", "line 2: not a raw uid: base64 of 32 or 33 bytes is required"),
        (f"{TEXTS[0]},yesterday\n", "line 1: the second cell is not a Unix time in seconds"),
        ("", "no raw uids in the input"),
        ("identity\n", "no raw uids in the input"),
    ],
)
def test_input_that_is_malformed(cli: Cli, good: NaiveReceiver, text: str, complaint: str) -> None:
    outcome = cli("optouts", "send", "--ids", "-", good.url, stdin=text)
    assert outcome.status == 1
    assert outcome.complaint == complaint
    assert good.requests == []


def test_what_is_agreed_with_the_programme(cli: Cli, good: NaiveReceiver, tmp_path: Path) -> None:
    (tmp_path / "token").write_text(f"{SENSITIVE}\n")
    (tmp_path / "headers").write_text("X-Partner: 7\nX-Programme:  UID2\n")
    outcome = cli(
        *("optouts", "send", "--count", "2", "--slow", "20", "--method", "POST", "--no-h2c"),
        *("--optout-id-parameter", "uid", "--headers-file", str(tmp_path / "headers"), f"{good.url}?partner=7"),
        optout_time_parameter="ts",
        optout_auth_token_file=tmp_path / "token",
        workers="an invalid setting of another command",
    )
    assert outcome.status == 0
    for request in good.requests:
        assert {*request.query} == {"partner", "uid", "ts"}
        lines = request.head.decode().split("\r\n")
        assert lines[0].startswith("POST /optout?partner=7&")
        assert {"X-Partner: 7", "X-Programme: UID2", f"Authorization: Bearer {SENSITIVE}"} <= {*lines}
        assert not [line for line in lines if "h2c" in line]
    assert SENSITIVE not in outcome.out + outcome.err


@pytest.mark.parametrize("text", ["no colon", "Host: x", "A B: c"])
def test_headers_that_are_malformed(cli: Cli, good: NaiveReceiver, tmp_path: Path, text: str) -> None:
    (tmp_path / "headers").write_text(text)
    outcome = cli("optouts", "send", "--headers-file", str(tmp_path / "headers"), good.url)
    assert outcome.status in {1, 2}
    assert "header" in outcome.complaint
    assert good.requests == []


def test_nothing_confidential_goes_over_plain_http_to_another_host(cli: Cli, tmp_path: Path) -> None:
    (tmp_path / "token").write_text(SENSITIVE)
    url = "http://dsp.invalid/optout"
    ids = cli("optouts", "send", "--ids", "-", url, stdin=TEXTS[0])
    token = cli("optouts", "send", url, optout_auth_token_file=tmp_path / "token")
    for outcome, what in ((ids, "raw uids"), (token, "fixed headers")):
        assert outcome.status == 2
        assert outcome.complaint.startswith(f"URL: {what} would go over plain http to another host")
    allowed = cli("optouts", "send", "--allow-insecure", "--ids", "-", "--json", url, stdin=TEXTS[0])
    assert [fault["fault"] for fault in json.loads(allowed.out)["faults"]] == ["no_connection"]


@pytest.mark.parametrize("url", ["dsp.example", "https://partner:sensitive@dsp.example/"])
def test_a_url_that_is_refused(cli: Cli, url: str) -> None:
    outcome = cli("optouts", "send", url)
    assert outcome.status == 2
    assert outcome.complaint.startswith("URL: ")
    assert "sensitive" not in outcome.err


def test_no_output_holds_an_id_or_a_query(cli: Cli) -> None:
    with naive_receiver(lambda _request: answer("302 Found", f"Location: /{TEXTS[0]}", body=TEXTS[0].encode())) as echo:
        outcome = cli("optouts", "send", "--ids", "-", f"{echo.url}?secret={SENSITIVE}", stdin="\n".join(TEXTS))
    assert outcome.status == 1
    for hidden in (*TEXTS, SENSITIVE, "dsp", "optout?"):
        assert hidden not in outcome.out + outcome.err


def test_a_rate(cli: Cli, good: NaiveReceiver) -> None:
    outcome = cli("optouts", "send", "--count", "21", "--rate", "100", "--slow", "20", "--json", good.url)
    assert json.loads(outcome.out)["seconds"] >= 0.2


def test_ctrl_c_ends_with_a_report(good: NaiveReceiver, tmp_path: Path) -> None:
    command = [*PROGRAM, "optouts", "send", "--rate", "50", "--count", "100000", "--slow", "20", "--json", good.url]
    process = subprocess.Popen(
        command, cwd=tmp_path, env=environment({}), stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )
    try:
        wait_until(lambda: len(good.requests) > 3, "requests")
        process.send_signal(signal.SIGINT)
        out, err = process.communicate(timeout=60)
    finally:
        process.kill()
    assert (process.returncode, err) == (1, "interrupted\n")
    assert json.loads(out)["accepted"] >= 3
