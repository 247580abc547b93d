"""What the console shows of the running service. No token, raw uid or secret is in it."""

import os
import platform
import time
from dataclasses import dataclass
from heapq import nsmallest

from bidstream_svc._version import __version__
from bidstream_svc.clock import wall_clock_ms
from bidstream_svc.config import Settings
from bidstream_svc.core.explain import FindOptOut
from bidstream_svc.core.kernel import IS_NATIVE
from bidstream_svc.core.keys import Key, KeySnapshot
from bidstream_svc.core.units import MS_PER_S, NS_PER_S
from bidstream_svc.keystore.store import KeyStore
from bidstream_svc.metrics import MetricCells
from bidstream_svc.metrics.cells import (
    ACCEPTING,
    EVENT_LOOP_LAG_NS,
    HEARTBEAT_NS,
    WORKER_PID,
    WORKER_RESTARTS,
    WORKERS_HUNG,
)
from bidstream_svc.server.auth import BearerToken
from bidstream_svc.server.console_history import History
from bidstream_svc.server.console_settings import settings_in_force
from bidstream_svc.server.failures_page import failures_in_turns
from bidstream_svc.server.health import Health

_MAX_KEYS = 100
_NS_PER_MS = NS_PER_S // MS_PER_S


@dataclass(frozen=True, slots=True)
class ConsoleSources:
    """What the console reads.

    Attributes:
        settings: the settings.
        health: the keys, the cells of all workers, and what `/info` tells.
        bearer: the token that requests must have; None for none.
        find_optout: as of `explain_token`; None without an opt-out store.
    """

    settings: Settings
    health: Health
    bearer: BearerToken | None
    find_optout: FindOptOut | None


def console_sources(settings: Settings, health: Health, bearer: BearerToken | None) -> ConsoleSources | None:
    """Return what the console reads; None if the settings do not allow it."""
    if not settings.console:
        return None
    optouts = health.stores.all[0].optouts  # all programmes have the same store
    return ConsoleSources(settings, health, bearer, None if optouts is None else optouts.find_times)


class ConsoleState:
    """Tells the state.

    Args:
        sources: what it reads.

    Attributes:
        history: the counters of the last hour.
    """

    def __init__(self, sources: ConsoleSources) -> None:
        self._sources = sources
        self.history = History(sources.health.metrics)

    async def describe(self) -> dict[str, object]:
        """Return the content of `/console/state`. Times are Unix milliseconds if their names end so, else ISO 8601."""
        sources = self._sources
        info = sources.health.info()
        report = sources.health.ready()
        return {
            "now_ms": wall_clock_ms(),
            "version": __version__,
            "python": platform.python_version(),
            "native": IS_NATIVE,
            "pid": os.getpid(),
            "uptime_s": info["uptime_s"],
            "ready": report.status,
            "draining": info["draining"],
            "tls_certificate": info["tls_certificate"],
            "history": self.history.describe(),
            "programmes": [self._describe_programme(store) for store in sources.health.stores.all],
            "optouts": info["optouts"],
            "workers": _describe_workers(sources.health.metrics),
            "failures": await failures_in_turns(sources.health.metrics),
            "settings": [each._asdict() for each in settings_in_force(sources.settings)],
        }

    def _describe_programme(self, store: KeyStore) -> dict[str, object]:
        snapshot = store.snapshot
        scope = store.required_scope if snapshot is None else snapshot.scope
        return {
            "scope": None if scope is None else scope.name,
            "last_success_ms": store.last_success_ms,
            "next_refresh_ms": store.next_refresh_ms,
            "last_error": store.last_error,
            "from_cache": store.is_from_cache,
            "keys": None if snapshot is None else describe_keys(snapshot, wall_clock_ms() // MS_PER_S),
        }


def describe_keys(snapshot: KeySnapshot, now_s: int) -> dict[str, object]:
    """Return counts, and the lives of those keys that expire next; behind them those that have expired."""
    keys = list(snapshot.keys.values())
    shown = nsmallest(_MAX_KEYS, keys, key=lambda key: (key.expires_s <= now_s, abs(key.expires_s - now_s)))
    return {
        "count": len(keys),
        "active": sum(_is_active(key, now_s) for key in keys),
        "future": sum(key.expires_s > now_s and not _is_active(key, now_s) for key in keys),
        "expired": sum(key.expires_s <= now_s for key in keys),
        "sites": len(snapshot.sites),
        "skipped": snapshot.skipped_keys.count + snapshot.skipped_sites.count,
        "last_expiry_ms": snapshot.last_expiry_ms,
        "lives": [[key.key_id, key.activates_s, key.expires_s] for key in sorted(shown, key=_order)],
    }


def _is_active(key: Key, now_s: int) -> bool:
    return (key.activates_s or 0) <= now_s < key.expires_s


def _order(key: Key) -> tuple[int, int, int]:
    return key.activates_s or 0, key.expires_s, key.key_id


def _describe_workers(metrics: MetricCells) -> list[dict[str, object]]:
    return [_describe_worker(metrics, row) for row in metrics.rows]


def _describe_worker(metrics: MetricCells, row: memoryview) -> dict[str, object]:
    pid = row[WORKER_PID] or metrics.owner_pid
    return {
        "pid": pid,
        "answers": pid == os.getpid(),
        "accepting": bool(row[ACCEPTING]),
        "restarts": row[WORKER_RESTARTS],
        "hung": row[WORKERS_HUNG],
        "lag_ms": row[EVENT_LOOP_LAG_NS] / _NS_PER_MS,
        "heartbeat_age_s": round((time.monotonic_ns() - row[HEARTBEAT_NS]) / NS_PER_S, 1),
    }
