"""The guides in docs/: their samples run, and what they name exists."""

import ast
import json
import re
from collections.abc import Iterator
from pathlib import Path

import pytest

from bidstream_svc.config import SETTINGS, env_name
from tests.docs.markdown import DOCS, DOCUMENTS, README, ROOT, Sample, samples, section, table
from tests.docs.shell import PLACEHOLDER, Dev, Place, here, run_shell
from tests.support.raw_http import ask
from tests.support.sidecar import Sidecar, environment, wait_until

START = DOCS / "getting-started.md"
SETTINGS_GUIDE = DOCS / "settings.md"
OPERATIONS = DOCS / "operations.md"
ASK, ADMIN, CHECK, SERVE, HEALTH = samples(START, "sh")
(CHECK_AGAIN,) = samples(SETTINGS_GUIDE, "sh")
(ROTATE,) = samples(OPERATIONS, "sh")


@pytest.fixture(scope="module")
def started(place: Place, tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Sidecar, Path]]:
    """A sidecar with the settings of the guide, and the directory that stands for /run."""
    run = tmp_path_factory.mktemp("run")
    for name in ("secrets", "bidstream"):
        (run / name).mkdir()
    for name in ("api-key", "client-secret"):
        (run / "secrets" / name).write_text((place.directory / name).read_text())
    text = (CHECK.text + SERVE.text).replace("https://prod.euid.eu", place.operator.url).replace("/run/", f"{run}/")
    exports = dict(re.findall(r"^export BIDSTREAM_(\w+)=(.+)$", text, re.MULTILINE))
    with Sidecar(run, "serve", **{name.lower(): value for name, value in exports.items()}) as sidecar:
        yield sidecar.wait_ready(), run


def test_getting_started_asks_as_the_readme_does(dev: Dev, tmp_path: Path) -> None:
    assert ASK.text == samples(README, "sh")[0].text
    assert samples(START, "json")[0].text == samples(README, "json")[0].text
    printed = run_shell(here(ADMIN.text, dev), tmp_path, environment({}))
    assert '"status":"ok"' in printed
    assert 'bidstream_decryptions_total{status="SUCCESS"}' in printed


def test_getting_started_checks_and_serves(place: Place, started: tuple[Sidecar, Path]) -> None:
    sidecar, run = started
    text = CHECK.text.replace("https://prod.euid.eu", place.operator.url).replace("/run/", f"{run}/")
    printed = run_shell(text, run, environment({}))
    shown = next(sample.text for sample in samples(START, "text") if "good" in sample.text)
    assert re.sub(r"\d+|U?E?UID2?", "N", printed) == re.sub(r"\d+|U?E?UID2?", "N", shown)
    assert SERVE.text.endswith("\nbidstream-svc serve\n")
    assert (run / "bidstream" / "decrypt.sock").is_socket()
    assert (run / "bidstream" / "keys").stat().st_mode & 0o777 == 0o600
    assert "keys are good" in run_shell(HEALTH.text, run, environment({"admin_listen": sidecar.admin}))


def test_the_bidder_of_getting_started_gets_the_raw_id(place: Place, started: tuple[Sidecar, Path]) -> None:
    _, run = started
    (sample,) = samples(START, "python")
    state = place.operator.state
    text = sample.text.replace("/run/", f"{run}/").replace(PLACEHOLDER, state.mint_token(client_side=True))
    (run / "bidder.py").write_text(text.replace("timeout_s: float = 0.005", "timeout_s: float = 10"))
    assert run_shell("python bidder.py", run, environment({})) == f"{state.raw_uid('someone@example.com')}\n"


def test_settings_are_checked(place: Place, tmp_path: Path) -> None:
    assert "operator is good" in run_shell(CHECK_AGAIN.text, tmp_path, place.environment)


def test_operations_rotates_credentials(place: Place, started: tuple[Sidecar, Path]) -> None:
    sidecar, run = started
    state = place.operator.state
    wrong = {"NEW_API_KEY": "made-up", "NEW_CLIENT_SECRET": state.client_secret}
    right = wrong | {"NEW_API_KEY": state.api_key}

    def rotate(values: dict[str, str]) -> None:
        variables = environment({}) | values | {"SIDECAR_PID": str(sidecar.process.pid)}
        assert run_shell(ROTATE.text.replace("/run/", f"{run}/"), run, variables) == ""

    def last_error() -> str:
        return str(ask(sidecar.admin, "/info", method="GET").json["last_refresh_error"])

    rotate(wrong)
    wait_until(lambda: "401" in last_error(), "the operator to refuse the wrong key")
    rotate(right)
    wait_until(lambda: last_error() == "None", "a good refresh")


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


def test_a_log_line_is_json_with_these_fields(started: tuple[Sidecar, Path]) -> None:
    sidecar, _ = started
    line = json.loads(sidecar.stderr.splitlines()[0])
    assert {"event", "level", "logger", "timestamp"} <= line.keys()


def test_the_lock_with_tracing_has_the_pins_of_the_others() -> None:
    def pins(name: str) -> set[str]:
        text = (ROOT / "requirements" / f"{name}.txt").read_text("utf-8")
        return set(re.findall(r"^[\w.-]+==\S+", text, re.MULTILINE))

    assert pins("run") < pins("otel") < pins("dev")
    assert "opentelemetry-exporter-otlp-proto-http" in {pin.partition("==")[0] for pin in pins("otel")}


@pytest.mark.parametrize(
    "sample", [sample for guide in (START, OPERATIONS) for sample in samples(guide, "text")], ids=lambda s: s.place
)
def test_what_is_not_run_names_only_what_exists(sample: Sample) -> None:
    targets = set(re.findall(r"^([a-z-]+):", (ROOT / "Makefile").read_text(), re.MULTILINE))
    assert set(re.findall(r"^make ([a-z-]+)", sample.text, re.MULTILINE)) <= targets
    assert "bidstream-svc " not in sample.text
