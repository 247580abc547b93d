"""Units of time. Names of quantities end in theirs: `_s`, `_ms`, `_ns`."""

MS_PER_S = 1_000
NS_PER_S = 1_000_000_000
