"""Counters in shared memory, and the collector that exports them to Prometheus."""

from bidstream_svc.metrics.cells import MetricCells, RefreshResult
from bidstream_svc.metrics.collector import build_registry

__all__ = ["MetricCells", "RefreshResult", "build_registry"]
