"""A scrape of `/metrics`, read by prometheus-client's own parsers."""

from collections.abc import Iterable
from typing import NamedTuple

from prometheus_client import Metric
from prometheus_client.openmetrics.parser import text_string_to_metric_families as parse_openmetrics
from prometheus_client.parser import text_string_to_metric_families as parse_text

from bidstream_svc.metrics import MetricCells, RefreshResult, build_registry
from bidstream_svc.server.routes import ROUTES, labels_of
from tests.support.raw_http import ask

OPENMETRICS = "application/openmetrics-text; version=1.0.0"


def exported_families() -> list[Metric]:
    """What a service exports before it has counted anything."""
    return list(build_registry(MetricCells(labels_of(ROUTES))).collect())


class Scrape(NamedTuple):
    """Families by name, and the value of each series by its name and labels."""

    families: dict[str, Metric]
    values: dict[tuple[str, frozenset[tuple[str, str]]], float]

    @classmethod
    def of(cls, families: Iterable[Metric]) -> "Scrape":
        by_name = {family.name: family for family in families}
        samples = [sample for family in by_name.values() for sample in family.samples]
        values = {(sample.name, frozenset(sample.labels.items())): sample.value for sample in samples}
        assert len(values) == len(samples), "a series came twice"
        return cls(by_name, values)

    def value(self, name: str, **labels: str) -> float:
        return self.values[name, frozenset(labels.items())]

    def total(self, name: str, **labels: str) -> float:
        """The sum over all series that have these labels among theirs."""
        return sum(
            value for (found, its), value in self.values.items() if found == name and its >= frozenset(labels.items())
        )

    def key_refreshes(self, **labels: str) -> dict[RefreshResult, int]:
        """How many refreshes had each result, over all series that have these labels among theirs."""
        name = "bidstream_key_refreshes_total"
        return {result: int(self.total(name, result=result, **labels)) for result in RefreshResult}

    def labels(self, name: str) -> set[frozenset[tuple[str, str]]]:
        return {its for found, its in self.values if found == name}


def scrape(address: str, *, openmetrics: bool = False) -> Scrape:
    """Scrape an admin plane as Prometheus does."""
    answer = ask(address, "/metrics", method="GET", headers={"Accept": OPENMETRICS} if openmetrics else None)
    assert answer.status == 200
    parse = parse_openmetrics if openmetrics else parse_text
    return Scrape.of(parse(answer.body.decode()))
