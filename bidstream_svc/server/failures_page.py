"""What `GET /failures` answers: the sites with the most tokens that were not decrypted in the last hour."""

import asyncio
import time
from typing import Any

from bidstream_svc.metrics import MetricCells


def failures(metrics: MetricCells) -> dict[str, Any]:
    """Return the failures of all workers in the last hour, by site. No token and no uid is in it.

    It takes up to 5 ms for each worker; `failures_in_turns` lets others run in between.

    Returns:
        `{"window_s", "failures", "sampled", "share_error", "without_site": {"failures", "reasons"}, "sites": [...]}`;
        each of at most 50 sites, in falling order, is `{"site_id", "scope", "failures", "share", "reasons", "name",
        "name_share"}`. `reasons` maps a reason to its share of these failures.
    """
    hour = metrics.failures.hour(time.monotonic())
    for sketch in metrics.failures.read():
        hour.add(sketch)
    return hour.describe()


async def failures_in_turns(metrics: MetricCells) -> dict[str, Any]:
    """`failures`, one slot of a worker per loop iteration, so that the GIL is never held for long."""
    hour = metrics.failures.hour(time.monotonic())
    for sketch in metrics.failures.read():
        hour.add(sketch)
        await asyncio.sleep(0)
    return hour.describe()
