"""The scrape configuration and the rules: checked by promtool, and in a real Prometheus that scrapes a real sidecar."""

import re
import signal
import subprocess
from pathlib import Path
from typing import Any

import pytest

from bidstream_svc.config import SETTINGS
from bidstream_svc.devoperator import DevOperator, Fault
from tests.docs.markdown import ROOT, anchors, samples
from tests.support.metrics_page import exported_families
from tests.support.prometheus import DEPLOYED, Prometheus, speed_up
from tests.support.sidecar import Sidecar, wait_until
from tests.support.yaml_files import load_yaml

RULES = DEPLOYED / "rules.yaml"
RULES_TEST = DEPLOYED / "rules_test.yaml"
RUNBOOK = ROOT / "docs" / "runbook.md"
NEEDS_YAML = pytest.mark.needs_tools("yaml")


def rules() -> list[dict[str, Any]]:
    return [rule for group in load_yaml(RULES)["groups"] for rule in group["rules"]]


def alerts() -> dict[str, dict[str, Any]]:
    found = {rule["alert"]: rule for rule in rules() if "alert" in rule}
    assert len(found) > 10
    return found


def promtool(*arguments: object) -> str:
    done = subprocess.run(["promtool", *map(str, arguments)], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


@pytest.mark.needs_tools("promtool")
def test_promtool_finds_nothing_wrong() -> None:
    promtool("check", "rules", "--lint=all", "--lint-fatal", RULES)
    promtool("check", "config", "--lint=all", "--lint-fatal", DEPLOYED / "prometheus.yaml")


@pytest.mark.needs_tools("promtool")
def test_alerts_fire_when_they_should_and_only_then() -> None:
    assert "SUCCESS" in promtool("test", "rules", RULES_TEST)


@NEEDS_YAML
def test_every_rule_has_a_test() -> None:
    asked = [case for test in load_yaml(RULES_TEST)["tests"] for case in test["promql_expr_test"]]
    fired = {
        name
        for case in asked
        for sample in case.get("exp_samples", ())
        for name in re.findall(r'alertname="(\w+)"', sample["labels"])
    }
    assert fired == set(alerts())
    shown = " ".join(sample["labels"] for case in asked for sample in case.get("exp_samples", ()))
    unused = [rule["record"] for rule in rules() if "record" in rule and rule["record"] not in shown]
    assert unused == ["instance:bidstream_http_requests:rate5m"], "tested through the alerts that use it"


@NEEDS_YAML
def test_alerts_and_sections_of_the_runbook_match() -> None:
    for name, alert in alerts().items():
        assert alert["annotations"].keys() == {"summary", "description", "runbook_url"}
        assert alert["annotations"]["runbook_url"] == f"docs/runbook.md#{name.lower()}"
        assert alert["labels"]["severity"] in {"critical", "warning", "info"}
    headings = re.findall(r"^### (\w+)$", RUNBOOK.read_text("utf-8"), re.MULTILINE)
    assert headings == list(alerts())
    assert {name.lower() for name in alerts()} <= anchors(RUNBOOK)


@NEEDS_YAML
def test_rules_use_only_exported_or_recorded_series() -> None:
    exported = {sample.name for family in exported_families() for sample in family.samples}
    recorded = {rule["record"] for rule in rules() if "record" in rule}
    for rule in rules():
        without_labels = re.sub(r"\{[^}]*\}", "", rule["expr"])
        assert set(re.findall(r"\b[\w:]*bidstream_[\w:]+", without_labels)) <= exported | recorded


@NEEDS_YAML
def test_alerts_name_the_programme_of_what_they_are_about() -> None:
    """Wherever the metric tells it, by a label of its own or of the series that is recorded from it."""
    families = exported_families()
    by_programme = {family.name for family in families if any("scope" in s.labels for s in family.samples)}
    by_programme |= {rule["record"] for rule in rules() if "scope" in rule.get("record", "")}
    assert len(by_programme) > 8
    named = [
        name
        for name, alert in alerts().items()
        if any(re.search(rf"\b{metric}(_total)?\b", alert["expr"]) for metric in by_programme)
    ]
    assert len(named) > 8
    for name in named:
        assert "{{ $labels.scope }}" in alerts()[name]["annotations"]["summary"], name


@NEEDS_YAML
def test_the_stale_keys_alert_matches_the_default_interval() -> None:
    assert f"> 3 * {SETTINGS['refresh_interval'].default}\n" in alerts()["BidstreamKeysStale"]["expr"]


@NEEDS_YAML
def test_the_alerts_of_the_stream_match_the_default_age() -> None:
    age = SETTINGS["optout_max_age"].default
    last = r"time\(\) - bidstream_optout_stream_last_contact_timestamp_seconds"
    for name, comparison in {"BidstreamOptOutStreamDisconnected": "<=", "BidstreamOptOutsStale": ">"}.items():
        assert re.search(rf"{last} {comparison} {age}\n", alerts()[name]["expr"]), name


@NEEDS_YAML
def test_targets_and_job_name_are_consistent() -> None:
    (scraped,) = load_yaml(DEPLOYED / "prometheus.yaml")["scrape_configs"]
    assert scraped["static_configs"][0]["targets"] == [SETTINGS["admin_listen"].default]
    monitor = load_yaml(DEPLOYED / "podmonitor.yaml")
    assert monitor["metadata"]["name"] == scraped["job_name"] == "bidstream-svc"
    job = re.findall(r'job=~"([^"]+)"', alerts()["BidstreamDown"]["expr"])[0]
    assert re.fullmatch(job, "bidders/bidstream-svc")
    assert re.fullmatch(job, "bidstream-svc")


@NEEDS_YAML
def test_the_rules_become_an_object_as_the_runbook_says(tmp_path: Path) -> None:
    sample, *_ = samples(RUNBOOK, "sh")
    (tmp_path / "deploy").symlink_to(ROOT / "deploy")
    subprocess.run(["sh", "-ec", sample.text], cwd=tmp_path, check=True)
    made = load_yaml(tmp_path / "prometheusrule.yaml")
    assert (made["kind"], made["spec"]) == ("PrometheusRule", load_yaml(RULES))


def test_speed_up_changes_every_duration() -> None:
    text = "interval: 1m\nfor: 15m\nscrape_interval: 15s\nexpr: rate(x[5m]) > 3 * 3600 and avg_over_time(y[1d])\n"
    assert speed_up(text, 60) == (
        "interval: 1000ms\nfor: 15000ms\nscrape_interval: 250ms\n"
        "expr: rate(x[5000ms]) > 3 * 3600 and avg_over_time(y[1440000ms])\n"
    )
    assert re.search(r"\b\d+(s|m|h|d)\b", speed_up(RULES.read_text("utf-8").partition("groups:")[2], 60)) is None


@pytest.mark.needs_tools("prometheus", "yaml")
def test_every_series_is_scraped(prometheus: Prometheus) -> None:
    exported = {
        sample.name
        for family in exported_families()
        for sample in family.samples
        if not sample.name.endswith("_created")
    }
    wait_until(lambda: prometheus.query("sum(rate(bidstream_decryptions_total[2s])) > 0"), "traffic to show")
    stored = {sample["metric"]["__name__"] for sample in prometheus.query('{job="bidstream-svc"}')}
    assert exported <= stored


@pytest.mark.needs_tools("prometheus", "yaml")
def test_rules_are_evaluated_without_an_error(prometheus: Prometheus) -> None:
    def unhealthy() -> list[Any]:
        return [rule for rule in prometheus.rules() if rule["health"] != "ok"]

    wait_until(
        lambda: not [rule for rule in unhealthy() if rule["health"] == "unknown"], "every rule's first evaluation"
    )
    assert unhealthy() == []
    recorded = [rule["record"] for rule in rules() if "record" in rule]
    wait_until(lambda: all(prometheus.query(name) for name in recorded), "every recorded series")


@pytest.mark.needs_tools("prometheus", "yaml")
@pytest.mark.parametrize(
    ("fault", "alert"),
    [
        (Fault.SERVER_ERROR, "BidstreamKeyRefreshFailing"),
        (Fault.UNAUTHORIZED, "BidstreamKeyRefreshUnauthorized"),
        (Fault.FORBIDDEN, "BidstreamKeyRefreshUnauthorized"),
    ],
)
def test_an_alert_fires_for_the_programme_whose_operator_fails(
    prometheus: Prometheus, sidecar: Sidecar, operator: DevOperator, fault: Fault, alert: str
) -> None:
    def firing_of(alert: str) -> dict[str, dict[str, str]]:
        return {scope: texts for (name, scope), texts in prometheus.firing().items() if name == alert}

    def refreshed_and_firing() -> bool:
        sidecar.signal(signal.SIGHUP)  # as if an hour had passed
        return (alert, "UID2") in prometheus.firing()

    assert not firing_of(alert)
    operator.state.faults.inject(fault, times=None)
    try:
        wait_until(refreshed_and_firing, f"{alert} to fire")
        fired = firing_of(alert)
    finally:
        operator.state.faults.clear()
    assert fired.keys() == {"UID2"}
    annotations = fired["UID2"]
    assert sidecar.admin in annotations["summary"]
    assert "UID2" in annotations["summary"]
    assert not [text for text in annotations.values() if "error" in text or "{{" in text]
    wait_until(lambda: not refreshed_and_firing(), f"{alert} to end")
