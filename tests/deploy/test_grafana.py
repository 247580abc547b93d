"""The dashboard: a real Prometheus answers every query in it, and its panels show every metric."""

import json
import re
import signal
from itertools import combinations
from string import Template
from typing import Any

import pytest

from tests.docs.markdown import ROOT
from tests.support.metrics_page import exported_families
from tests.support.prometheus import Prometheus
from tests.support.sidecar import Sidecar, wait_until

DASHBOARD = json.loads((ROOT / "deploy" / "grafana" / "dashboard.json").read_text("utf-8"))
PANELS = [panel for panel in DASHBOARD["panels"] if panel["type"] != "row"]
NEEDS_PROMETHEUS = pytest.mark.needs_tools("prometheus", "yaml")
JOB = "bidstream-svc"


def grafana_variables(sidecar: Sidecar) -> dict[str, str]:
    return {"__rate_interval": "2s", "job": JOB, "instance": re.escape(sidecar.admin).replace("\\", "\\\\")}


@NEEDS_PROMETHEUS
@pytest.mark.parametrize("panel", PANELS, ids=lambda panel: panel["title"])
def test_a_panel_has_data(prometheus: Prometheus, sidecar: Sidecar, panel: dict[str, Any]) -> None:
    for target in panel["targets"]:
        query = Template(target["expr"]).substitute(grafana_variables(sidecar))

        def has_data(query: str = query) -> bool:
            sidecar.signal(signal.SIGHUP)  # some panels show only refreshes between two scrapes
            values = [float(sample["value"][1]) for sample in prometheus.query(query)]
            return any(value == value for value in values)  # noqa: PLR0124 - not NaN

        wait_until(has_data, query)


@NEEDS_PROMETHEUS
def test_variables_have_values(prometheus: Prometheus, sidecar: Sidecar) -> None:
    _, *variables = DASHBOARD["templating"]["list"]
    wait_until(lambda: prometheus.query("bidstream_build_info"), "the first scrape")
    values = {}
    for variable in variables:
        selector, label = re.fullmatch(r"label_values\((.+), (\w+)\)", variable["query"]["query"]).groups()  # type: ignore[union-attr] # it fails here
        values[variable["name"]] = prometheus.label_values(label, selector.replace("$job", JOB))
    assert values == {"job": [JOB], "instance": [sidecar.admin]}


@NEEDS_PROMETHEUS
def test_annotations_are_valid_queries(prometheus: Prometheus) -> None:
    (annotation,) = DASHBOARD["annotations"]["list"]
    prometheus.query(annotation["expr"].replace("$job", JOB))


def test_every_metric_of_ours_is_shown_and_nothing_else() -> None:
    families = [family for family in exported_families() if family.name.startswith("bidstream_")]
    expressions = " ".join(target["expr"] for panel in PANELS for target in panel["targets"])
    named = set(re.findall(r"\bbidstream_\w+", expressions))
    assert [family.name for family in families if named.isdisjoint(s.name for s in family.samples)] == []
    assert named <= {sample.name for family in families for sample in family.samples}


def test_panels_are_explained_and_ask_the_chosen_source() -> None:
    assert len({panel["id"] for panel in DASHBOARD["panels"]}) == len(DASHBOARD["panels"])
    for panel in PANELS:
        assert panel["description"].endswith("."), panel["title"]
        sources = [panel["datasource"], *(target["datasource"] for target in panel["targets"])]
        assert all(source == {"type": "prometheus", "uid": "${datasource}"} for source in sources)


def test_panels_do_not_overlap() -> None:
    places = {panel["title"]: panel["gridPos"] for panel in DASHBOARD["panels"]}
    for (title, a), (other, b) in combinations(places.items(), 2):
        apart = a["x"] + a["w"] <= b["x"] or b["x"] + b["w"] <= a["x"]
        apart = apart or a["y"] + a["h"] <= b["y"] or b["y"] + b["h"] <= a["y"]
        assert apart, (title, other)
    assert all(place["x"] >= 0 and place["x"] + place["w"] <= 24 for place in places.values())
