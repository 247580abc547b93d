"""Ratios of the units of time. The name of a quantity ends in its unit: `_s`, `_ms`, `_ns`."""

MS_PER_S = 1_000
NS_PER_S = 1_000_000_000
