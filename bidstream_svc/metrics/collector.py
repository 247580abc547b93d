"""From cells to Prometheus: one custom collector that reads the shared numbers at scrape time."""

from collections.abc import Callable, Iterator, Mapping
from enum import StrEnum
from itertools import accumulate
from platform import python_version
from typing import TypeVar

from prometheus_client import CollectorRegistry, ProcessCollector
from prometheus_client.core import (
    CounterMetricFamily,
    GaugeMetricFamily,
    HistogramMetricFamily,
    InfoMetricFamily,
    Metric,
)
from prometheus_client.registry import Collector

from bidstream_svc._version import __version__
from bidstream_svc.metrics import cells
from bidstream_svc.metrics.cells import HistogramCells, MetricCells

_NS_PER_S = 1_000_000_000
_MS_PER_S = 1_000
# Histogram buckets that are told apart: all up to 2**10 ns (1 us) is in the first, all from 2**34 ns (17 s) in +Inf.
_FIRST_BUCKET = 10
_LAST_BUCKET = 34


def build_registry(metrics: MetricCells) -> CollectorRegistry:
    """A registry with the service's own metrics and those of the process."""
    registry = CollectorRegistry(auto_describe=False)
    registry.register(_CellCollector(metrics))
    ProcessCollector(registry=registry)
    return registry


_Label = TypeVar("_Label", bound=StrEnum)


class _CellCollector(Collector):
    def __init__(self, metrics: MetricCells) -> None:
        self._metrics = metrics

    def collect(self) -> Iterator[Metric]:
        """All families; every series is there from the first scrape on."""
        yield from self._decryptions()
        yield from self._connections()
        yield from self._keys()
        yield self._gauge(
            "bidstream_event_loop_lag_seconds",
            "How late the event loop last ran a timer; the worst worker.",
            cells.EVENT_LOOP_LAG_NS,
            _NS_PER_S,
            merge=max,
        )
        restarts = self._metrics.over_workers(cells.WORKER_RESTARTS)
        yield CounterMetricFamily("bidstream_worker_restarts", "Workers started again after they died.", value=restarts)
        build = InfoMetricFamily("bidstream_build", "Version of the service and of Python.")
        build.add_metric([], {"version": __version__, "python": python_version()})
        yield build

    def _decryptions(self) -> Iterator[Metric]:
        yield self._counter("bidstream_decryptions", "Tokens by verdict.", ["status"], cells.DECRYPTIONS)
        yield self._counter(
            "bidstream_decrypt_failures", "Tokens that did not decrypt, by reason.", ["reason"], cells.DECRYPT_FAILURES
        )
        yield self._histogram(
            "bidstream_request_duration_seconds",
            "From receipt of a complete request to handing the answer to the socket.",
            cells.REQUEST_DURATION_NS,
        )
        requests = CounterMetricFamily(
            "bidstream_http_requests", "Data plane requests answered.", labels=["route", "code"]
        )
        for (route, code), cell in self._metrics.http_requests.items():
            requests.add_metric([route, str(code)], self._metrics.over_workers(cell))
        yield requests

    def _connections(self) -> Iterator[Metric]:
        yield self._gauge("bidstream_connections", "Open data plane connections.", cells.CONNECTIONS)
        yield self._counter(
            "bidstream_connections_refused",
            "Connections not served, by reason.",
            ["reason"],
            cells.CONNECTIONS_REFUSED,
        )

    def _keys(self) -> Iterator[Metric]:
        yield self._counter("bidstream_key_refreshes", "Key refreshes by result.", ["result"], cells.KEY_REFRESHES)
        yield self._histogram(
            "bidstream_key_refresh_duration_seconds",
            "From asking the operator to having the keys in use, failures included.",
            cells.KEY_REFRESH_DURATION_NS,
        )
        # Each worker has its own keys: report the one that is worst off.
        yield self._gauge("bidstream_keys", "Keys held.", cells.KEYS, merge=min)
        yield self._gauge("bidstream_sites", "Sites with registered names held.", cells.SITES, merge=min)
        yield self._gauge(
            "bidstream_keys_expiry_timestamp_seconds",
            "When the last key expires, Unix time; 0 without keys.",
            cells.KEYS_EXPIRY_MS,
            _MS_PER_S,
            merge=min,
        )
        yield self._gauge(
            "bidstream_keys_from_cache", "1 while a worker serves from the key cache.", cells.KEYS_FROM_CACHE, merge=max
        )
        yield self._gauge(
            "bidstream_key_refresh_last_success_timestamp_seconds",
            "When keys were last fetched, Unix time; 0 for never.",
            cells.LAST_REFRESH_SUCCESS_MS,
            _MS_PER_S,
            merge=min,
        )

    def _counter(self, name: str, text: str, labels: list[str], members: Mapping[_Label, int]) -> CounterMetricFamily:
        family = CounterMetricFamily(name, text, labels=labels)
        for label, cell in members.items():
            family.add_metric([str(label)], self._metrics.over_workers(cell))
        return family

    def _gauge(
        self, name: str, text: str, cell: int, divisor: int = 1, *, merge: Callable[[Iterator[int]], int] = sum
    ) -> GaugeMetricFamily:
        return GaugeMetricFamily(name, text, value=self._metrics.over_workers(cell, merge) / divisor)

    def _histogram(self, name: str, text: str, histogram: HistogramCells) -> HistogramMetricFamily:
        counts = [self._metrics.over_workers(histogram.first + bucket) for bucket in range(HistogramCells.BUCKETS)]
        cumulative = list(accumulate(counts))
        buckets = [
            (repr(2**bucket / _NS_PER_S), float(cumulative[bucket]))
            for bucket in range(_FIRST_BUCKET, _LAST_BUCKET + 1)
        ]
        total_s = self._metrics.over_workers(histogram.sum) / _NS_PER_S
        return HistogramMetricFamily(name, text, buckets=[*buckets, ("+Inf", float(cumulative[-1]))], sum_value=total_s)
