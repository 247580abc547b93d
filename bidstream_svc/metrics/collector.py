"""The Prometheus collector, which reads the metric cells in shared memory at each scrape."""

from collections.abc import Callable, Iterator, Mapping
from enum import StrEnum
from itertools import accumulate
from platform import python_version
from typing import TypeVar

from prometheus_client import CollectorRegistry
from prometheus_client.core import (
    CounterMetricFamily,
    GaugeMetricFamily,
    HistogramMetricFamily,
    InfoMetricFamily,
    Metric,
)
from prometheus_client.registry import Collector

from bidstream_svc._version import __version__
from bidstream_svc.core.units import MS_PER_S, NS_PER_S
from bidstream_svc.metrics import cells
from bidstream_svc.metrics.cells import HistogramCells, MetricCells
from bidstream_svc.metrics.processes import ProcessCollector

# Exported histogram buckets: the first is up to 2**10 ns (1 us), and values from 2**34 ns (17 s) on are in +Inf.
_FIRST_BUCKET = 10
_LAST_BUCKET = 34


def build_registry(metrics: MetricCells) -> CollectorRegistry:
    """Make a registry with the metrics of the service and of its processes."""
    registry = CollectorRegistry(auto_describe=False)
    registry.register(_CellCollector(metrics))
    registry.register(ProcessCollector(metrics))
    return registry


_Label = TypeVar("_Label", bound=StrEnum)


class _CellCollector(Collector):
    def __init__(self, metrics: MetricCells) -> None:
        self._metrics = metrics

    def collect(self) -> Iterator[Metric]:
        """Yield all families. Every series is exported from the first scrape on."""
        yield from self._decryptions()
        yield from self._connections()
        yield from self._keys()
        yield self._gauge(
            "bidstream_event_loop_lag_seconds",
            "Delay of the event loop's last timer; maximum over workers.",
            cells.EVENT_LOOP_LAG_NS,
            NS_PER_S,
            merge=max,
        )
        restarts = self._metrics.over_workers(cells.WORKER_RESTARTS)
        yield CounterMetricFamily("bidstream_worker_restarts", "Workers restarted after they exited.", value=restarts)
        build = InfoMetricFamily("bidstream_build", "Version of the service and of Python.")
        build.add_metric([], {"version": __version__, "python": python_version()})
        yield build

    def _decryptions(self) -> Iterator[Metric]:
        yield self._counter("bidstream_decryptions", "Tokens by status.", ["status"], cells.DECRYPTIONS)
        yield self._counter(
            "bidstream_decrypt_failures", "Tokens not decrypted, by reason.", ["reason"], cells.DECRYPT_FAILURES
        )
        yield self._histogram(
            "bidstream_request_duration_seconds",
            "Time from receipt of a complete request to handing the answer to the socket.",
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
        refused = CounterMetricFamily(
            "bidstream_connections_refused", "Connections refused, by reason.", labels=["reason"]
        )
        for reason, cell in cells.CONNECTIONS_REFUSED.items():
            of_admin = self._metrics.over_workers(cells.ADMIN_CONNECTIONS_REFUSED[reason])
            refused.add_metric([reason], self._metrics.over_workers(cell) + of_admin)
        yield refused
        yield self._gauge(
            "bidstream_tls_certificate_expiry_timestamp_seconds",
            "Unix time at which the first certificate of the TLS chain expires; 0 without TLS.",
            cells.TLS_CERTIFICATE_EXPIRY_MS,
            MS_PER_S,
            merge=min,
        )

    def _keys(self) -> Iterator[Metric]:
        yield self._counter("bidstream_key_refreshes", "Key refreshes by result.", ["result"], cells.KEY_REFRESHES)
        yield self._histogram(
            "bidstream_key_refresh_duration_seconds",
            "Duration of key refreshes, failures included.",
            cells.KEY_REFRESH_DURATION_NS,
        )
        yield self._counter(
            "bidstream_key_cache_writes", "Writes of the key cache by result.", ["result"], cells.KEY_CACHE_WRITES
        )
        # Each worker has its own keys: report the worst value.
        yield self._gauge("bidstream_keys", "Keys in use.", cells.KEYS, merge=min)
        yield self._gauge(
            "bidstream_keys_skipped", "Malformed keys of the last key response.", cells.KEYS_SKIPPED, merge=max
        )
        yield self._gauge("bidstream_sites", "Sites with registered domains.", cells.SITES, merge=min)
        yield self._gauge(
            "bidstream_keys_expiry_timestamp_seconds",
            "Unix time at which the last key expires; 0 without keys.",
            cells.KEYS_EXPIRY_MS,
            MS_PER_S,
            merge=min,
        )
        yield self._gauge(
            "bidstream_keys_from_cache",
            "1 while a worker uses cached keys.",
            cells.KEYS_FROM_CACHE,
            merge=max,
        )
        yield self._gauge(
            "bidstream_key_refresh_last_success_timestamp_seconds",
            "Unix time of the last successful key refresh; 0 before the first.",
            cells.LAST_REFRESH_SUCCESS_MS,
            MS_PER_S,
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
            (repr(2**bucket / NS_PER_S), float(cumulative[bucket])) for bucket in range(_FIRST_BUCKET, _LAST_BUCKET + 1)
        ]
        total_s = self._metrics.over_workers(histogram.sum) / NS_PER_S
        return HistogramMetricFamily(name, text, buckets=[*buckets, ("+Inf", float(cumulative[-1]))], sum_value=total_s)
