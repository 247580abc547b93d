"""The longest stall of the event loop during a key refresh.

The refresh thread and its parts are those of the service. A ticker runs in every iteration of a uvloop loop, like a
loaded data plane, and records the longest time between two iterations. Windows with a refresh alternate with windows of
the same length without one, because other processes on the machine stall the loop, too.
"""

import asyncio
import gc
import tempfile
import time
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from functools import partial
from pathlib import Path
from statistics import median
from typing import Any

import uvloop

from benchmarks.keyserver import CLIENT_SECRET
from benchmarks.machine import SERVER_CPU, on_cpu
from benchmarks.material import KeySet, Sample, make_samples
from benchmarks.targets import key_server
from bidstream_svc.clock import wall_clock_ms
from bidstream_svc.core.decrypt import decrypt
from bidstream_svc.core.domains import load_public_suffixes
from bidstream_svc.keystore.refresh_thread import RefreshThread
from bidstream_svc.keystore.refresher import KeyRefresher
from bidstream_svc.keystore.store import KeyStore
from bidstream_svc.logs import configure_logging
from bidstream_svc.metrics import MetricCells
from bidstream_svc.operator.credentials import Credentials
from bidstream_svc.operator.key_fetch import fetch_keys
from bidstream_svc.operator.transport import OperatorTransport
from bidstream_svc.server.heap import fix_mmap_threshold

_NEVER_S = 1e6
_REFRESH_S = 10.0
_AFTERMATH_S = 1.0  # the replaced keys are freed in steps


class _Ticker:
    """Runs in every iteration of the running loop; `longest_ns` is the longest time between two."""

    def __init__(self) -> None:
        self._call_soon = asyncio.get_running_loop().call_soon
        self._last_ns = 0
        self.longest_ns = 0
        self.stopped = False

    def start(self) -> None:
        self._last_ns = time.perf_counter_ns()
        self._call_soon(self._tick)

    def _tick(self) -> None:
        now_ns = time.perf_counter_ns()
        self.longest_ns = max(self.longest_ns, now_ns - self._last_ns)
        self._last_ns = now_ns
        if not self.stopped:
            self._call_soon(self._tick)


@asynccontextmanager
async def _open_refresher(url: str, store: KeyStore) -> AsyncIterator[KeyRefresher]:
    async with OperatorTransport(url, Credentials("stall", CLIENT_SECRET)) as transport:
        yield KeyRefresher(
            lambda: fetch_keys(transport, previous=store.snapshot, pause_s=store.parsing_pause_s),
            store,
            MetricCells(),
            interval_s=_NEVER_S,
        )


async def _wait_for_refresh(store: KeyStore, previous: object) -> None:
    # Polls, because the store has no notification of changes.
    async with asyncio.timeout(_REFRESH_S):
        while store.snapshot is previous or store.snapshot is None:  # noqa: ASYNC110
            await asyncio.sleep(0.002)


async def _refresh_gap(store: KeyStore, thread: RefreshThread, samples: Sequence[Sample]) -> tuple[float, float]:
    """Return the longest gap during a refresh, in ms, and the duration of the refresh, in s."""
    before = store.snapshot
    for sample in samples:  # creates the ciphers, which a refresh reuses for unchanged keys
        decrypt(sample.token, sample.domain, before, wall_clock_ms())
    ticker, begun_s = _Ticker(), time.monotonic()
    ticker.start()
    thread.refresh_soon()
    await _wait_for_refresh(store, before)
    del before  # so that the old keys are freed within the window
    await asyncio.sleep(_AFTERMATH_S)
    ticker.stopped = True
    return ticker.longest_ns / 1e6, time.monotonic() - begun_s


async def _idle_gap_ms(window_s: float) -> float:
    ticker = _Ticker()
    ticker.start()
    await asyncio.sleep(window_s)
    ticker.stopped = True
    return ticker.longest_ns / 1e6


async def _measure(url: str, repeats: int, samples: Sequence[Sample]) -> tuple[list[float], list[float]]:
    store = KeyStore()
    thread = RefreshThread(partial(_open_refresher, url, store))
    thread.start()
    try:
        await _wait_for_refresh(store, None)
        load_public_suffixes()
        gc.collect()
        gc.freeze()  # as the service does once it has started
        refreshing, idle = [], []
        for _ in range(repeats):
            gap_ms, took_s = await _refresh_gap(store, thread, samples)
            refreshing.append(gap_ms)
            idle.append(await _idle_gap_ms(took_s))
    finally:
        thread.stop()
    return refreshing, idle


def measure_stall(keys: int, domains: int, repeats: int) -> dict[str, Any]:
    """Measure stalls in ms, median and longest over the repeats, with and without a refresh in the window."""
    configure_logging("warning", None)
    fix_mmap_threshold()  # as the service does; new memory then costs more than what is written into it
    with tempfile.TemporaryDirectory() as directory, on_cpu(SERVER_CPU):
        key_set = KeySet(keys, domains)
        samples = make_samples(key_set, keys)
        size_mb = len(key_set.response()) / 1e6
        with (
            key_server(Path(directory), {"stall": key_set}) as url,
            asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner,
        ):
            refreshing, idle = runner.run(_measure(url, repeats, samples))
    return {
        "keys": keys,
        "domains": domains,
        "response_mb": round(size_mb, 2),
        "refresh_median_ms": median(refreshing),
        "refresh_max_ms": max(refreshing),
        "idle_median_ms": median(idle),
        "idle_max_ms": max(idle),
        # Other work stalls the loop in both windows of a pair alike.
        "beyond_idle_ms": median(stall - own for stall, own in zip(refreshing, idle, strict=True)),
    }
