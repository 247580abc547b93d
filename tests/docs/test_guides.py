"""The guides in docs/: their samples run, and what they name exists."""

import ast
import json
import re
import resource
import shutil
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import pytest

from bidstream_svc.config import SETTINGS, env_name
from bidstream_svc.metrics.cells import RefusalReason
from tests.docs.markdown import DOCS, DOCUMENTS, README, ROOT, samples, section, table
from tests.docs.shell import PLACEHOLDER, Dev, Place, fresh, here, run_pasted, run_shell
from tests.support.raw_http import ask
from tests.support.sidecar import Sidecar, environment, wait_until

START = DOCS / "getting-started.md"
SETTINGS_GUIDE = DOCS / "settings.md"
OPERATIONS = DOCS / "operations.md"
MAKE_RUN, ASK, ADMIN, PREPARE, CHECK, SERVE, HEALTH = samples(START, "sh")
(CHECK_AGAIN,) = samples(SETTINGS_GUIDE, "sh")
ROTATE, FAILURES = samples(OPERATIONS, "sh")
RUNBOOK = DOCS / "runbook.md"
_, FIRST_STEPS, DESCRIPTORS = samples(RUNBOOK, "sh")  # the other is run by tests/deploy


class Guided(NamedTuple):
    """A user who follows the guide: the clone, the home directory, and the service that they started."""

    clone: Path
    home: Path
    sidecar: Sidecar

    @property
    def files(self) -> Path:
        return self.home / ".bidstream"


@pytest.fixture(scope="module")
def guided(place: Place, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Guided]:
    clone, home = tmp_path_factory.mktemp("clone"), tmp_path_factory.mktemp("home")
    (clone / ".venv").symlink_to(sys.prefix)
    run_pasted(PREPARE.text, clone, fresh(home, environment({})))
    for name in ("api-key", "client-secret"):
        shutil.copy(place.directory / name, home / ".bidstream")
    check, serve = CHECK.text.replace("https://prod.uidapi.com", place.operator.url), SERVE.text
    assert serve.endswith("\nbidstream-svc serve\n")
    pasted = PREPARE.text + check + serve.replace("bidstream-svc serve", "exec bidstream-svc serve")
    variables = [f"{name}={value}" for name, value in fresh(home, {}).items()]
    with Sidecar(clone, pasted, program=("env", *variables, "bash", "-euc")) as sidecar:
        yield Guided(clone, home, sidecar.wait_ready())


def test_getting_started_runs_the_service(tmp_path: Path) -> None:
    # What `make run` makes first is there: it is this environment.
    makefile = [f"--directory={ROOT}", f"VENV={sys.prefix}", f"--old-file={sys.prefix}/run.installed"]
    command, name = MAKE_RUN.text.split()
    with Sidecar(tmp_path, name, program=(command, *makefile)) as sidecar:
        wait_until(lambda: "Press Ctrl-C to stop." in sidecar.stdout, "the curl lines")
        sidecar.stop()


def test_getting_started_asks_as_the_readme_does(dev: Dev, tmp_path: Path) -> None:
    assert ASK.text == samples(README, "sh")[0].text
    assert samples(START, "json")[0].text == samples(README, "json")[0].text
    printed = run_shell(here(ADMIN.text, dev), tmp_path, environment({}))
    assert '"status":"ok"' in printed
    assert 'bidstream_decryptions_total{scope="UID2",status="SUCCESS"}' in printed


def test_getting_started_checks(place: Place, guided: Guided) -> None:
    text = PREPARE.text + CHECK.text.replace("https://prod.uidapi.com", place.operator.url)
    printed = run_pasted(text, guided.clone, fresh(guided.home, environment({})))
    shown = next(sample.text for sample in samples(START, "text") if "good" in sample.text)
    assert re.sub(r"\d+|U?E?UID2?", "N", printed) == re.sub(r"\d+|U?E?UID2?", "N", shown)


def test_getting_started_serves(guided: Guided) -> None:
    assert guided.files.stat().st_mode & 0o777 == 0o700
    assert (guided.files / "decrypt.sock").is_socket()
    wait_until((guided.files / "keys").exists, "the key cache, which is written in the background")
    assert (guided.files / "keys").stat().st_mode & 0o777 == 0o600
    variables = fresh(guided.home, environment({"admin_listen": guided.sidecar.admin}))
    assert "keys are good" in run_pasted(HEALTH.text, guided.clone, variables)


def test_the_bidder_of_getting_started_gets_the_raw_id(place: Place, guided: Guided) -> None:
    (sample,) = samples(START, "python")
    assert "`python3 bidder.py`" in START.read_text("utf-8")
    state = place.operator.state
    text = sample.text.replace(PLACEHOLDER, state.mint_token(client_side=True))
    (guided.clone / "bidder.py").write_text(text.replace("timeout_s: float = 0.005", "timeout_s: float = 10"))
    printed = run_shell("python3 bidder.py", guided.clone, environment({}) | {"HOME": str(guided.home)})
    assert printed == f"{{'UID2': '{state.raw_uid('someone@example.com')}'}}\n"


def test_the_runbook_asks_the_sidecar(dev: Dev, tmp_path: Path) -> None:
    printed = run_shell(here(FIRST_STEPS.text, dev), tmp_path, environment({}))
    assert '"status":"ok"' in printed
    assert '"last_refresh_error"' in printed


def test_the_runbook_counts_descriptors(guided: Guided, tmp_path: Path) -> None:
    pid = guided.sidecar.process.pid
    printed = run_shell(DESCRIPTORS.text, tmp_path, environment({}) | {"SIDECAR_PID": str(pid)})
    number, limits = printed.splitlines()
    assert int(number) >= 3
    _, hard = resource.prlimit(pid, resource.RLIMIT_NOFILE)
    assert str(hard) in limits.split()


def test_the_runbook_explains_every_refusal() -> None:
    rows = table(section(RUNBOOK, "BidstreamConnectionsRefused"), "`reason`")
    assert sorted(row[0].strip("`") for row in rows) == sorted(RefusalReason)
    assert "BidstreamFileDescriptorsUsedUp" in section(RUNBOOK, "BidstreamDown")


def test_settings_are_checked(place: Place, tmp_path: Path) -> None:
    assert "operator is good" in run_shell(CHECK_AGAIN.text, tmp_path, place.environment)


def test_operations_rotates_credentials(place: Place, guided: Guided) -> None:
    sidecar = guided.sidecar
    state = place.operator.state
    text = ROTATE.text.replace("/run/secrets", str(guided.files))
    wrong = {"NEW_API_KEY": "made-up", "NEW_CLIENT_SECRET": state.client_secret}
    right = wrong | {"NEW_API_KEY": state.api_key}

    def rotate(values: dict[str, str]) -> None:
        variables = environment({}) | values | {"SIDECAR_PID": str(sidecar.process.pid)}
        assert run_shell(text, guided.clone, variables) == ""

    def last_error() -> str:
        return str(ask(sidecar.admin, "/info", method="GET").json["last_refresh_error"])

    rotate(wrong)
    wait_until(lambda: "401" in last_error(), "the operator to refuse the wrong key")
    rotate(right)
    wait_until(lambda: last_error() == "None", "a good refresh")


def test_operations_asks_for_failing_tokens(place: Place, dev: Dev, tmp_path: Path) -> None:
    token = place.operator.state.mint_token()  # of another operator
    assert ask(dev.sidecar.data, "/decrypt", {"token": token}).json["status"] != "SUCCESS"
    wait_until(lambda: ask(dev.sidecar.admin, "/failures", method="GET").json["failures"], "a failure")
    printed = run_shell(here(FAILURES.text, dev), tmp_path, environment({"admin_listen": dev.sidecar.admin}))
    *table_lines, as_json = printed.splitlines()
    assert table_lines[0].startswith("Not decrypted in the last ")
    answer = json.loads(as_json)
    rows = table(section(OPERATIONS, "Failing tokens by site"), "field")
    assert [row[0].strip("`") for row in rows] == list(answer)


def test_every_setting_has_its_topic() -> None:
    rows = table(section(SETTINGS_GUIDE, "By topic"), "topic")
    named = [name for row in rows for name in re.findall(r"`(\w+)`", row[1])]
    assert sorted(named) == sorted(map(env_name, SETTINGS))


# The changelog also names what no longer exists.
@pytest.mark.parametrize(
    "document", [d for d in DOCUMENTS if d.stem != "CHANGELOG"], ids=lambda document: document.stem
)
def test_settings_and_metrics_that_are_named_exist(document: Path) -> None:
    text = document.read_text("utf-8")
    assert set(re.findall(r"BIDSTREAM_[A-Z_]*[A-Z]\b", text)) <= set(map(env_name, SETTINGS))
    metrics = {row[0].strip("`") for row in table(section(DOCS / "metrics.md", "Metrics"), "metric")}
    assert set(re.findall(r"\bbidstream_\w+(?=[`\[{])", text)) <= metrics | {"bidstream_svc"}


def _logged_events() -> set[str]:
    """The events in the code: the first argument of what is called on a logger."""
    events = set()
    for path in (ROOT / "bidstream_svc").rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text("utf-8"))):
            if isinstance(node, ast.Call) and re.match(r"(_?log|get_logger\(__name__\))(\.|$)", ast.unparse(node.func)):
                events |= {a.value for a in node.args[:2] if isinstance(a, ast.Constant) and isinstance(a.value, str)}
    return events


def test_the_table_of_log_events_is_complete() -> None:
    rows = table(section(OPERATIONS, "Logs"), "event")
    assert {name for row in rows for name in re.findall(r"`([^`]+)`", row[0])} == _logged_events()


def test_a_log_line_is_json_with_these_fields(guided: Guided) -> None:
    line = json.loads(guided.sidecar.stderr.splitlines()[0])
    assert {"event", "level", "logger", "timestamp"} <= line.keys()


def test_the_lock_with_tracing_has_the_pins_of_the_others() -> None:
    def pins(name: str) -> set[str]:
        text = (ROOT / "requirements" / f"{name}.txt").read_text("utf-8")
        return set(re.findall(r"^[\w.-]+==\S+", text, re.MULTILINE))

    assert pins("run") < pins("otel") < pins("dev")
    assert "opentelemetry-exporter-otlp-proto-http" in {pin.partition("==")[0] for pin in pins("otel")}
