"""Counters that cost the hot path one addition each, and the collector that Prometheus scrapes."""

from bidstream_svc.metrics.cells import MetricCells, RefreshResult
from bidstream_svc.metrics.collector import build_registry

__all__ = ["MetricCells", "RefreshResult", "build_registry"]
