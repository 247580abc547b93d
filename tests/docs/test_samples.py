"""Every sample in the documents runs unchanged, apart from addresses, paths and the token."""

import json
import re
from pathlib import Path
from typing import Any

import orjson
import pyarrow as pa
import pytest
from pyarrow import parquet

from bidstream_svc.clock import wall_clock_ms
from bidstream_svc.core.decrypt import decrypt
from bidstream_svc.core.identity import IdentityScope
from bidstream_svc.core.key_response import parse_key_response
from bidstream_svc.devoperator import OperatorState
from bidstream_svc.devoperator.key_endpoints import bidstream_keys
from tests.docs.markdown import DOCS, DOCUMENTS, README, ROOT, Sample, samples, section, table
from tests.docs.shell import PLACEHOLDER, Dev, Place, here, run_shell
from tests.support.operator import operator_in_thread
from tests.support.optouts import opt_out
from tests.support.raw_http import ask
from tests.support.sidecar import Sidecar, environment

CURL = [sample for sample in samples(README, "sh") if sample.text.startswith("curl")]
IDS, REWRITE, SINGLE, BATCH = CURL
(CHECK_AND_SERVE,) = (sample for sample in samples(README, "sh") if sample not in CURL)
(ADMIN,) = samples(DOCS / "metrics.md", "sh")
DECRYPT, BULK, EXPLAIN = samples(DOCS / "cli.md", "sh")
BID_REQUEST_OVER_HTTP, BID_REQUESTS = samples(DOCS / "openrtb.md", "sh")
TOKEN_COMMANDS, REQUEST = samples(DOCS / "publishers.md", "sh")
(MAP,) = samples(DOCS / "advertisers.md", "sh")
(BULK_GUIDE,) = samples(DOCS / "bulk.md", "sh")
# Guides whose samples other tests here run, one of tests/deploy and one of tests/relay.
ELSEWHERE = {
    "getting-started.md",
    "settings.md",
    "operations.md",
    "optouts.md",
    "troubleshooting.md",
    "runbook.md",
    "relay.md",
}
PYTHON = [
    sample
    for name in ("publishers", "advertisers", "sdk", "openrtb", "bulk", "migrating")
    for sample in samples(DOCS / f"{name}.md", "python")
]


def _shape(value: Any) -> Any:
    """JSON with numbers and ids replaced by their types; statuses stay."""
    if isinstance(value, dict):
        return {name: item if name == "status" else _shape(item) for name, item in value.items()}
    return [_shape(item) for item in value] if isinstance(value, list) else type(value)


def test_the_line_that_make_run_prints_is_the_one_in_the_readme(dev: Dev) -> None:
    assert [found["status"] for found in dev.answer["ids"]] == ["SUCCESS"] * 2
    printed = next(line for line in dev.sidecar.stdout.splitlines() if line.startswith("curl"))
    shown, _, body = here(IDS.text, dev).partition(" -d ")
    assert printed.partition(" -d ")[0] == shown
    first_eid = {"eids": dev.bid_request["user"]["eids"][:1]}
    assert json.loads(body.strip("'\n")) == dev.bid_request | {"user": first_eid}


@pytest.mark.parametrize("number", [0, 1], ids=["bid request", "batch"])
def test_a_request_gets_the_answer_shown(dev: Dev, number: int, tmp_path: Path) -> None:
    shown = samples(README, "json")[number]
    printed = run_shell(here((IDS, BATCH)[number].text, dev), tmp_path, environment({}))
    assert _shape(json.loads(printed)) == _shape(json.loads(shown.text))
    assert dev.answer["ids"][0]["uid"] in printed


def test_a_single_token_gets_what_the_readme_names(dev: Dev, tmp_path: Path) -> None:
    answer = json.loads(run_shell(here(SINGLE.text, dev), tmp_path, environment({})))
    assert answer == {name: dev.answer["ids"][0][name] for name in ("status", "uid", "established")}
    assert "answers with `status`, `uid` and\n`established`" in section(README, "Single tokens")


def test_the_rewritten_bid_request_is_the_one_shown_with_the_raw_id(dev: Dev, tmp_path: Path) -> None:
    pasted = here(REWRITE.text, dev)
    bid_request = pasted.partition(" -d ")[2].strip("'\n")
    assert bid_request == here(IDS.text, dev).partition(" -d ")[2].strip("'\n")
    answer = json.loads(run_shell(pasted, tmp_path, environment({})))
    assert answer == json.loads(bid_request.replace(dev.token, dev.answer["ids"][0]["uid"]))


def test_an_id_shown_is_as_long_as_one_answered(dev: Dev) -> None:
    length = len(dev.answer["ids"][0]["uid"])
    for shown in samples(README, "json"):
        assert all(len(uid) == length for uid in re.findall(r'"uid": "([^"]*)"', shown.text))


def test_the_admin_plane_answers_as_pasted(dev: Dev, tmp_path: Path) -> None:
    printed = run_shell(here(ADMIN.text, dev), tmp_path, environment({}))
    assert '"status":"ok"' in printed
    assert '"version"' in printed
    assert "bidstream_decryptions_total{" in printed


def test_the_endpoints_of_the_admin_plane_exist(dev: Dev) -> None:
    rows = table(section(DOCS / "metrics.md", "Endpoints"), "path")
    codes = {row[0]: ask(dev.sidecar.admin, row[0].strip("`"), method="GET").status for row in rows}
    assert codes == dict.fromkeys(codes, 200)
    assert {"`/readyz`", "`/info`", "`/metrics`"} <= codes.keys()


def test_check_and_serve(place: Place, tmp_path: Path) -> None:
    with operator_in_thread(OperatorState(scope=IdentityScope.EUID)) as euid:
        text = CHECK_AND_SERVE.text.replace("/run/secrets", str(tmp_path))
        for name, url, operator in (("uid2", "prod.uidapi.com", place.operator), ("euid", "prod.euid.eu", euid)):
            (tmp_path / f"{name}-api-key").write_text(operator.state.api_key)
            (tmp_path / f"{name}-client-secret").write_text(operator.state.client_secret)
            text = text.replace(f"https://{url}", operator.url)
        check, serve = text.rstrip().rsplit("\n", 1)
        assert run_shell(check, tmp_path, environment({})).count("operator is good") == 2
        assert serve == "bidstream-svc serve"
        exports = re.findall(r"^export BIDSTREAM_(\w+)=(.+)$", text, re.MULTILINE)
        with Sidecar(tmp_path, "serve", **{name.lower(): value for name, value in exports}) as sidecar:
            sidecar.wait_ready()


def test_the_decrypt_command(place: Place) -> None:
    text = DECRYPT.text.replace(PLACEHOLDER, place.operator.state.mint_token(client_side=True))
    answers = [json.loads(line) for line in run_shell(text, place.directory, place.environment).splitlines()]
    assert [answer["status"] for answer in answers] == ["SUCCESS"] * 3


@pytest.mark.parametrize("sample", [BULK, BULK_GUIDE], ids=lambda sample: sample.place)
def test_a_log_is_decrypted(place: Place, tmp_path: Path, sample: Sample) -> None:
    state = place.operator.state
    tokens = [state.mint_token(version) for version in (2, 3, 4)]
    (tmp_path / "logs").mkdir()
    log = pa.table({"token": tokens, "timestamp": [wall_clock_ms()] * len(tokens)})
    parquet.write_table(log, tmp_path / "logs" / "bids.parquet")
    opt_out(tmp_path / "store", [])
    text = sample.text.replace("/var/lib/bidstream/optouts", str(tmp_path / "store"))
    run_shell(text, tmp_path, place.environment)
    written = parquet.read_table(tmp_path / "decrypted" / "bids.parquet")
    assert written.column_names == ["timestamp", "status", "uid", "established"]
    assert written["uid"].to_pylist() == [state.raw_uid("someone@example.com")] * 3


def test_the_explain_commands(place: Place) -> None:
    token = place.operator.state.mint_token(client_side=True)
    (place.directory / "token.txt").write_text(token)
    eids = [{"source": "uidapi.com", "uids": [{"id": token}]}, {"source": "uid2.com", "uids": []}]
    bid_request = {"id": "r1", "site": {"domain": "example.com"}, "user": {"eids": eids}}
    (place.directory / "bid-request.json").write_text(json.dumps(bid_request))
    # The second command judges as of a day on which the token was or will be invalid.
    text = re.sub(
        "^(.*)$", r"\1 || echo status $?", EXPLAIN.text.replace(PLACEHOLDER, token).strip(), flags=re.MULTILINE
    )
    printed = run_shell(text, place.directory, place.environment)
    assert printed.startswith("SUCCESS, UID2, as of ")
    as_json, status = next(line for line in printed.splitlines() if line.startswith("{")), "status 1"
    rows = " ".join(section(DOCS / "cli.md", "Explaining a token").split())
    assert all(f"`{name}`" in rows for name in json.loads(as_json))
    assert status in printed
    assert 'Bid request "r1", as of ' in printed
    assert 'that of UID2 is "uidapi.com"' in printed


def test_the_command_for_bid_requests(place: Place) -> None:
    def requests(source: str) -> str:
        token = place.operator.state.mint_token(client_side=True)
        return json.dumps(
            {
                "id": "r1",
                "site": {"domain": "example.com"},
                "user": {"eids": [{"source": source, "uids": [{"id": token}]}]},
            }
        )

    (place.directory / "requests.ndjson").write_text(requests("uidapi.com") + "\n")
    answer = json.loads(run_shell(BID_REQUESTS.text, place.directory, place.environment))
    (shown,) = (json.loads(sample.text) for sample in samples(DOCS / "openrtb.md", "json"))
    assert _shape(answer) == _shape(shown)
    assert [*answer["ids"][0]] == [*shown["ids"][0]]


def test_a_bid_request_over_http(dev: Dev, tmp_path: Path) -> None:
    (tmp_path / "bid-request.json").write_text(json.dumps(dev.bid_request))
    ids, rewritten = BID_REQUEST_OVER_HTTP.text.splitlines()
    uids = [found["uid"] for found in json.loads(run_shell(here(ids, dev), tmp_path, environment({})))["ids"]]
    assert all(uids)
    answer = json.loads(run_shell(here(rewritten, dev), tmp_path, environment({})))
    assert [eid["uids"][0]["id"] for eid in answer["user"]["eids"]] == uids


def _raw_uids_in(state: OperatorState, text: str) -> set[str | None]:
    """The words of a text, decrypted where they are tokens."""
    keys = parse_key_response(orjson.dumps(bidstream_keys(state, {})))
    words = re.findall(r"[\w+/=-]{30,}", text)
    return {*words} | {decrypt(word, "example.com", keys, state.now_ms())[1] for word in words}


def test_the_commands_for_publishers(place: Place, tmp_path: Path) -> None:
    (tmp_path / "address.txt").write_text("Someone@example.com\n")
    assert run_shell(TOKEN_COMMANDS.text, tmp_path, place.environment) == "true\n"
    uid = place.operator.state.raw_uid("someone@example.com")
    for name in ("identity.json", "fresh.json"):
        assert uid in _raw_uids_in(place.operator.state, (tmp_path / name).read_text())


def test_the_request_command(place: Place, tmp_path: Path) -> None:
    text = REQUEST.text.replace("https://prod.euid.eu", place.operator.url)
    printed = run_shell(text, tmp_path, place.environment)
    first, second = printed.partition("Request: Sending refresh_token")[::2]
    uid = place.operator.state.raw_uid("someone@example.com")
    assert uid in _raw_uids_in(place.operator.state, first)
    assert uid in _raw_uids_in(place.operator.state, second)


def test_the_commands_for_advertisers(place: Place, tmp_path: Path) -> None:
    (tmp_path / "people.csv").write_text("id,email\n1,someone@example.com\n2,optout@example.com\n")
    (tmp_path / "phones.txt").write_text("+12345678901\n")
    assert run_shell(MAP.text, tmp_path, place.environment) == ""
    found = [json.loads(line) for line in (tmp_path / "raw-ids.ndjson").read_text().splitlines()]
    assert found[0]["raw_uid"] == place.operator.state.raw_uid("someone@example.com")
    (shown,) = (sample.text for sample in samples(DOCS / "advertisers.md", "json"))
    assert _shape(found) == _shape([json.loads(line) for line in shown.splitlines()])
    assert found[1] == json.loads(shown.splitlines()[1])
    assert place.operator.state.raw_uid("+12345678901") in (tmp_path / "raw-ids.csv").read_text()


@pytest.mark.parametrize("sample", PYTHON, ids=lambda sample: sample.place)
def test_python_sample(place: Place, sample: Sample) -> None:
    state = place.operator.state
    text = sample.text.replace(PLACEHOLDER, state.mint_token(client_side=True))
    (place.directory / "sample.py").write_text(text)
    printed = run_shell("python sample.py", place.directory, place.environment)
    assert state.raw_uid("someone@example.com") in _raw_uids_in(state, printed)


def test_no_sample_is_left_out() -> None:
    run_here = {*CURL, CHECK_AND_SERVE, ADMIN, DECRYPT, BULK, EXPLAIN, BID_REQUEST_OVER_HTTP, BID_REQUESTS}
    run_here |= {TOKEN_COMMANDS, REQUEST, MAP, BULK_GUIDE, *PYTHON}
    found = {sample for document in DOCUMENTS for sample in samples(document, "sh", "python")}
    assert {sample.place for sample in found - run_here if sample.place.partition(":")[0] not in ELSEWHERE} == set()


# In the documents, `sh` is run and `text` is not.
_COMMAND = re.compile(
    r"^(\$|sudo|make|bidstream-svc|\S+/bin/\S+|python3?|pip|curl|export|mkdir|docker|kubectl|helm|systemctl|git) ",
    re.MULTILINE,
)


@pytest.mark.parametrize(
    "sample", [sample for document in DOCUMENTS for sample in samples(document, "text")], ids=lambda s: s.place
)
def test_a_command_that_is_not_run_says_why(sample: Sample) -> None:
    assert bool(_COMMAND.search(sample.text)) == bool(sample.not_run)


def test_ci_installs_as_the_readme_says() -> None:
    lines = [line for sample in samples(README, "text") for line in sample.text.splitlines() if "/opt/" in line]
    assert len(lines) == 2
    ci = (ROOT / ".ci" / "run").read_text().replace('"${PYTHON:-python3}"', "python3")
    for line in lines:
        assert line.replace("/opt/bidstream-svc", '"$venv"') in ci
