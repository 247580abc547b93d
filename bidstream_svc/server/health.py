"""What the health pages of the admin plane report."""

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import NamedTuple, Protocol

from bidstream_svc._version import __version__
from bidstream_svc.clock import iso_time, wall_clock_ms
from bidstream_svc.core.keys import KeySnapshot
from bidstream_svc.core.units import NS_PER_S
from bidstream_svc.keystore.store import KeyStore, KeyStores
from bidstream_svc.metrics import MetricCells
from bidstream_svc.metrics.cells import HEARTBEAT_NS
from bidstream_svc.server.socket_files import problem_of
from bidstream_svc.server.sockets import Listener
from bidstream_svc.server.tls import ServerTls


class Report(NamedTuple):
    """The content of a health page.

    Attributes:
        problem: why the answer is 503; None if all is well.
        good: what is well.
        programmes: the same of each programme that the settings name.
    """

    problem: str | None
    good: str
    programmes: Mapping[str, object] = {}

    @property
    def status(self) -> dict[str, object]:
        """Status and reason."""
        if self.problem is None:
            return {"status": "ok", "reason": self.good}
        return {"status": "unavailable", "reason": self.problem}


class HealthReports(Protocol):
    """What the pages need."""

    def alive(self) -> Report:
        """Whether the process works; otherwise it should be replaced."""

    def started(self) -> Report:
        """Whether it has begun to serve."""

    def ready(self) -> Report:
        """Whether it should get traffic."""

    def info(self) -> dict[str, object]:
        """The content of `/info`."""


def report_loop(metrics: MetricCells, hang_timeout_s: float) -> Report:
    """Report whether the loop of this process turns.

    Args:
        metrics: the row of this process tells when it last turned.
        hang_timeout_s: for how long it may not turn.
    """
    quiet_s = (time.monotonic_ns() - metrics.row[HEARTBEAT_NS]) / NS_PER_S
    problem = None if quiet_s <= hang_timeout_s else f"the event loop has not turned for {quiet_s:.1f} s"
    return Report(problem, "the event loop turns")


@dataclass(slots=True)
class Health:
    """The state that the health pages report.

    Attributes:
        stores: the current keys of the programmes and the results of their last refreshes.
        metrics: the row of this process tells when its serving loop last turned.
        hang_timeout_s: for how long it may not turn.
        listeners: the listeners of this process.
        optouts: tells what `/info` shows of the opt-out store.
        optouts_problem: tells why the opt-out store cannot be used; None while it can.
        is_draining: True after SIGTERM.
        tls: the TLS of the data plane; None without.
        started_s: the monotonic clock when the process started, in seconds.
    """

    stores: KeyStores
    metrics: MetricCells
    hang_timeout_s: float
    listeners: Sequence[Listener] = ()
    optouts: Callable[[], Mapping[str, object] | None] = lambda: None
    optouts_problem: Callable[[], str | None] = lambda: None
    is_draining: bool = False
    tls: ServerTls | None = None
    started_s: float = field(default_factory=time.monotonic)

    def not_started(self) -> str | None:
        """Return why the service has not started, or None once keys of a programme have been loaded."""
        return self._why_none(_not_started)

    def not_ready(self) -> str | None:
        """Return why the service should get no traffic, or None if it is ready."""
        if self.is_draining:
            return "draining"
        return self._why_none(_not_usable) or self.optouts_problem() or problem_of(self.listeners)

    def _why_none(self, problem_of_store: Callable[[KeyStore], str | None]) -> str | None:
        """Return why no programme is good, or None if one is."""
        problems = [(store, problem_of_store(store)) for store in self.stores.all]
        if any(problem is None for _, problem in problems):
            return None
        return "; ".join(
            f"{store.required_scope.name}: {problem}" if store.required_scope is not None else str(problem)
            for store, problem in problems
        )

    def alive(self) -> Report:
        """See HealthReports."""
        return report_loop(self.metrics, self.hang_timeout_s)

    def started(self) -> Report:
        """See HealthReports."""
        good = "keys have been loaded"
        return Report(self.not_started(), good, self._describe_programmes(_not_started, good))

    def ready(self) -> Report:
        """See HealthReports."""
        good = "keys are good"
        return Report(self.not_ready(), good, self._describe_programmes(_not_usable, good))

    def _describe_programmes(self, problem_of_store: Callable[[KeyStore], str | None], good: str) -> dict[str, object]:
        return {
            store.required_scope.name: Report(problem_of_store(store), good).status
            for store in self.stores.all
            if store.required_scope is not None
        }

    def info(self) -> dict[str, object]:
        """See HealthReports."""
        named = {
            store.required_scope.name: _describe_store(store)
            for store in self.stores.all
            if store.required_scope is not None
        }
        return {
            "version": __version__,
            "uptime_s": round(time.monotonic() - self.started_s, 3),
            "draining": self.is_draining,
            **({"programmes": named} if named else _describe_store(self.stores.all[0])),
            "optouts": self.optouts(),
            "tls_certificate": _describe_tls(self.tls),
        }


def _not_started(store: KeyStore) -> str | None:
    if store.snapshot is not None:
        return None
    return f"no keys yet: {store.last_error or 'the first refresh is under way'}"


def _not_usable(store: KeyStore) -> str | None:
    if store.snapshot is not None and store.snapshot.last_expiry_ms <= wall_clock_ms():
        return "all keys have expired"
    return _not_started(store)


def _describe_store(store: KeyStore) -> dict[str, object]:
    return {
        "keys": _describe_keys(store.snapshot, is_from_cache=store.is_from_cache),
        "last_refresh": _iso(store.last_success_ms),
        "next_refresh": _iso(store.next_refresh_ms),
        "last_refresh_error": store.last_error,
    }


def _describe_keys(snapshot: KeySnapshot | None, *, is_from_cache: bool) -> dict[str, object] | None:
    if snapshot is None:
        return None
    return {
        "keys": len(snapshot.keys),
        "sites": len(snapshot.sites),
        "scope": snapshot.scope.name,
        "last_expiry": _iso(snapshot.last_expiry_ms),
        "from_cache": is_from_cache,
        "skipped_keys": snapshot.skipped_keys.count,
        "skipped_sites": snapshot.skipped_sites.count,
        "skipped_reasons": [*snapshot.skipped_keys.reasons, *snapshot.skipped_sites.reasons],
    }


def _describe_tls(tls: ServerTls | None) -> dict[str, object] | None:
    if tls is None:
        return None
    validity = tls.current.validity
    return {"not_before": iso_time(validity.not_before_ms), "not_after": iso_time(validity.not_after_ms)}


def _iso(time_ms: int | None) -> str | None:
    return None if time_ms is None else iso_time(time_ms)
