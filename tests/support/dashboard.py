"""The Grafana dashboard: its panels, and its queries as Grafana would send them."""

import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from string import Template
from typing import Any

DASHBOARD = Path(__file__).parents[2] / "deploy" / "grafana" / "dashboard.json"


def load_dashboard() -> Any:
    return json.loads(DASHBOARD.read_text("utf-8"))


def panels() -> list[dict[str, Any]]:
    """All that show data; rows do not."""
    return [panel for panel in load_dashboard()["panels"] if panel["type"] != "row"]


def queries(panel: Mapping[str, Any], variables: Mapping[str, str]) -> Iterator[tuple[str, str]]:
    """The queries of a panel, and how they name their series.

    Raises:
        KeyError: a query has a variable that is not given.
    """
    for target in panel["targets"]:
        yield Template(target["expr"]).substitute(variables), target["legendFormat"]
