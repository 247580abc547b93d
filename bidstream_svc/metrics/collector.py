"""The Prometheus collector, which reads the metric cells in shared memory at each scrape."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from enum import StrEnum
from itertools import accumulate
from platform import python_version
from typing import NamedTuple, TypeVar

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
from bidstream_svc.metrics.cells import HistogramCells, KeyCells, MetricCells, ScopeLabel
from bidstream_svc.metrics.processes import ProcessCollector


class _Buckets(NamedTuple):
    """Which buckets of a histogram are exported: up to 2**first units, and so on; above 2**last all are in +Inf."""

    first: int
    last: int
    units_per_s: int


_OF_DURATIONS = _Buckets(10, 34, NS_PER_S)  # 1 us to 17 s
_UNKNOWN_CELLS = cells.KEY_CELLS[ScopeLabel.UNKNOWN]
_OF_DELAYS = _Buckets(6, 31, MS_PER_S)  # 64 ms to 25 days


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
        yield from self._optouts()
        yield self._gauge(
            "bidstream_event_loop_lag_seconds",
            "Delay of the event loop's last timer; maximum over workers.",
            cells.EVENT_LOOP_LAG_NS,
            NS_PER_S,
            merge=max,
        )
        restarts = self._metrics.over_processes(cells.WORKER_RESTARTS)
        yield CounterMetricFamily("bidstream_worker_restarts", "Workers restarted after they exited.", value=restarts)
        hung = self._metrics.over_processes(cells.WORKERS_HUNG)
        yield CounterMetricFamily("bidstream_workers_hung", "Workers killed because their loop stopped.", value=hung)
        build = InfoMetricFamily("bidstream_build", "Version of the service and of Python.")
        build.add_metric([], {"version": __version__, "python": python_version()})
        yield build

    def _decryptions(self) -> Iterator[Metric]:
        decryptions = CounterMetricFamily(
            "bidstream_decryptions", "Tokens by programme and status.", labels=["scope", "status"]
        )
        for (scope, status), cell in cells.DECRYPTIONS.items():
            decryptions.add_metric([scope, status], self._metrics.over_workers(cell))
        yield decryptions
        yield self._counter(
            "bidstream_decrypt_failures", "Tokens not decrypted, by reason.", ["reason"], cells.DECRYPT_FAILURES
        )
        yield self._counter("bidstream_bid_requests", "Bid requests read, by result.", ["result"], cells.BID_REQUESTS)
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
        for reason in cells.RefusalReason:
            planes = (cells.CONNECTIONS_REFUSED, cells.ADMIN_CONNECTIONS_REFUSED, cells.OPTOUT_CONNECTIONS_REFUSED)
            refused.add_metric([reason], sum(self._metrics.over_processes(plane[reason]) for plane in planes))
        yield refused
        yield self._gauge(
            "bidstream_tls_certificate_expiry_timestamp_seconds",
            "Unix time at which the first certificate of the TLS chain expires; 0 without TLS.",
            cells.TLS_CERTIFICATE_EXPIRY_MS,
            MS_PER_S,
            merge=min,
        )

    def _keys(self) -> Iterator[Metric]:
        refreshes = CounterMetricFamily(
            "bidstream_key_refreshes", "Key refreshes by programme and result.", labels=["scope", "result"]
        )
        durations = HistogramMetricFamily(
            "bidstream_key_refresh_duration_seconds", "Duration of key refreshes, failures included.", labels=["scope"]
        )
        writes = CounterMetricFamily(
            "bidstream_key_cache_writes", "Writes of the key cache by programme and result.", labels=["scope", "result"]
        )
        fallbacks = CounterMetricFamily(
            "bidstream_key_fallbacks",
            "Key responses from the fallback, because the operator or relay did not answer.",
            labels=["scope"],
        )
        for label, of_keys in cells.KEY_CELLS.items():
            fallbacks.add_metric([label], self._metrics.over_workers(of_keys.fallbacks))
            for result, cell in of_keys.refreshes.items():
                refreshes.add_metric([label, result], self._metrics.over_workers(cell))
            durations.add_metric([label], *self._buckets(of_keys.refresh_duration_ns, self._metrics.rows))
            for written, cell in of_keys.cache_writes.items():
                writes.add_metric([label, written], self._metrics.over_workers(cell))
        yield from (refreshes, durations, writes, fallbacks)
        yield self._counter(
            "bidstream_relay_requests", "Requests to a relay, by result.", ["result"], cells.RELAY_REQUESTS
        )
        # Each worker has its own keys: report the worst value.
        yield self._key_gauge("bidstream_keys", "Keys in use.", lambda of_keys: of_keys.keys, merge=min)
        yield self._key_gauge(
            "bidstream_keys_skipped",
            "Malformed keys of the last key response.",
            lambda of_keys: of_keys.skipped,
            merge=max,
        )
        yield self._key_gauge(
            "bidstream_sites", "Sites with registered domains.", lambda of_keys: of_keys.sites, merge=min
        )
        yield self._key_gauge(
            "bidstream_keys_expiry_timestamp_seconds",
            "Unix time at which the last key expires; 0 without keys.",
            lambda of_keys: of_keys.expiry_ms,
            MS_PER_S,
            merge=min,
        )
        yield self._key_gauge(
            "bidstream_keys_from_cache",
            "1 while a worker uses cached keys.",
            lambda of_keys: of_keys.from_cache,
            merge=max,
        )
        yield self._key_gauge(
            "bidstream_key_refresh_last_success_timestamp_seconds",
            "Unix time of the last successful key refresh; 0 before the first.",
            lambda of_keys: of_keys.last_success_ms,
            MS_PER_S,
            merge=min,
        )

    def _optouts(self) -> Iterator[Metric]:
        row = self._metrics.optout_row
        yield GaugeMetricFamily(
            "bidstream_optouts", "Raw uids in the opt-out store; 0 without one.", value=row[cells.OPTOUTS]
        )
        received = CounterMetricFamily(
            "bidstream_optouts_received", "Requests to the webhook for opt-outs, by result.", labels=["result"]
        )
        for result, cell in cells.OPTOUTS_RECEIVED.items():
            received.add_metric([result], row[cell])
        yield received
        buckets, total_s = self._buckets(cells.OPTOUT_DELAY_MS, [row], _OF_DELAYS)
        yield HistogramMetricFamily(
            "bidstream_optout_delay_seconds",
            "Time from the user's opt-out to its arrival.",
            buckets=buckets,
            sum_value=total_s,
        )
        yield GaugeMetricFamily(
            "bidstream_optout_stream_connected",
            "1 while the stream of opt-outs can be read.",
            value=row[cells.OPTOUT_STREAM_CONNECTED],
        )
        yield GaugeMetricFamily(
            "bidstream_optout_stream_last_contact_timestamp_seconds",
            "Unix time at which the store last held all of the stream, or before, of the start; 0 without a stream.",
            value=row[cells.OPTOUT_STREAM_LAST_CONTACT_MS] / MS_PER_S,
        )
        yield GaugeMetricFamily(
            "bidstream_optout_applied_timestamp_seconds",
            "Unix time of the most recent opt-out in the store; 0 for none.",
            value=row[cells.OPTOUT_APPLIED_MS] / MS_PER_S,
        )

    def _key_gauge(
        self,
        name: str,
        text: str,
        cell_of: Callable[[KeyCells], int],
        divisor: int = 1,
        *,
        merge: Callable[[Iterator[int]], int],
    ) -> GaugeMetricFamily:
        family = GaugeMetricFamily(name, text, labels=["scope"])
        for label in self._scopes_in_use():
            value = self._metrics.over_workers(cell_of(cells.KEY_CELLS[label]), merge) / divisor
            family.add_metric([label], value)
        return family

    def _scopes_in_use(self) -> list[ScopeLabel]:
        """The programmes that are served; the unknown one until the keys of the only programme tell which it is.

        A receiver of opt-outs serves none.
        """
        in_use: list[ScopeLabel] = [
            label
            for label, of_keys in cells.KEY_CELLS.items()
            if self._metrics.over_workers(of_keys.is_in_use, max) and label is not ScopeLabel.UNKNOWN
        ]
        has_one = self._metrics.http_requests or self._metrics.over_workers(_UNKNOWN_CELLS.is_in_use, max)
        return in_use or ([ScopeLabel.UNKNOWN] if has_one else [])

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
        buckets, total_s = self._buckets(histogram, self._metrics.rows)
        return HistogramMetricFamily(name, text, buckets=buckets, sum_value=total_s)

    def _buckets(
        self, histogram: HistogramCells, rows: Sequence[memoryview], exported: _Buckets = _OF_DURATIONS
    ) -> tuple[list[tuple[str, float]], float]:
        """The cumulative buckets in seconds, and the sum of all values in seconds."""
        first, last, units_per_s = exported
        counts = [sum(row[histogram.first + bucket] for row in rows) for bucket in range(HistogramCells.BUCKETS)]
        cumulative = list(accumulate(counts))
        buckets = [(repr(2**bucket / units_per_s), float(cumulative[bucket])) for bucket in range(first, last + 1)]
        return [*buckets, ("+Inf", float(cumulative[-1]))], sum(row[histogram.sum] for row in rows) / units_per_s
