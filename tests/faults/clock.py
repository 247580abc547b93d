"""Wall clock jumps do not change the interval of refreshes."""

import asyncio
import time
from collections import Counter
from pathlib import Path

from bidstream_svc.keystore.refresh_schedule import INTERVAL_JITTER
from bidstream_svc.keystore.refresher import KeyRefresher
from bidstream_svc.keystore.store import KeyStore
from bidstream_svc.metrics import MetricCells, RefreshResult
from bidstream_svc.metrics.cells import KEY_CELLS, ScopeLabel
from bidstream_svc.operator.key_fetch import FetchedKeys, fetch_keys
from tests.faults.clients import Tally
from tests.faults.outcome import Effort, Outcome
from tests.operator.support import transport_to
from tests.support.operator import Clock, running_operator

_INTERVAL_S = 0.02
_REFRESHES = 10
_JUMPS_S = (3600, -3600, -3600, 3600)


async def _jump(effort: Effort) -> Outcome:
    clock, metrics, fetched = Clock(), MetricCells(), Counter[float]()
    jumped_s = 0.0
    done = asyncio.Condition()
    async with running_operator() as operator, transport_to(operator) as transport:

        async def fetch() -> FetchedKeys:
            async with done:
                fetched[jumped_s] += 1
                done.notify_all()
            return await fetch_keys(transport)

        refresher = KeyRefresher(fetch, KeyStore(), metrics, interval_s=_INTERVAL_S, now_ms=clock)
        running = asyncio.create_task(refresher.run())
        refreshes = _REFRESHES + int(effort.fault_s / _INTERVAL_S / len(_JUMPS_S))
        for jump_s in _JUMPS_S:
            jumped_s += jump_s
            clock.advance(seconds=jump_s)
            begun_s, enough = time.monotonic(), fetched.total() + refreshes
            async with done:
                while fetched.total() < enough:
                    await done.wait()
            # The first may have been due at once.
            shortest_s = (refreshes - 1) * _INTERVAL_S * (1 - INTERVAL_JITTER)
            assert time.monotonic() - begun_s >= shortest_s, "a jump made it ask faster"
        running.cancel()
        await asyncio.wait([running])
    by_result = KEY_CELLS[ScopeLabel.UID2].refreshes
    successes = metrics.row[by_result[RefreshResult.SUCCESS]]
    bad = sum(metrics.row[cell] for cell in by_result.values()) - successes
    return Outcome(
        "wall clock jumps by an hour, four times", Tally(successes, bad), None, "here requests are refreshes"
    )


def try_clock_jumps(_directory: Path, effort: Effort) -> Outcome:
    """The refresher with a clock of ours; requests carry the system's, because the operator checks it."""
    return asyncio.run(_jump(effort))
