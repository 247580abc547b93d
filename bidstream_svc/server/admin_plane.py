"""The admin plane: health, information and metrics. No page shows a token, a raw uid or a secret."""

import time
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass, field
from functools import cache
from http import HTTPStatus
from importlib.resources import files

import orjson
from prometheus_client import CollectorRegistry

from bidstream_svc._version import __version__
from bidstream_svc.clock import iso_time, wall_clock_ms
from bidstream_svc.core.keys import KeySnapshot
from bidstream_svc.core.units import NS_PER_S
from bidstream_svc.keystore.store import KeyStore, KeyStores
from bidstream_svc.metrics import MetricCells
from bidstream_svc.metrics.cells import HEARTBEAT_NS, HttpCode
from bidstream_svc.server.answers import error_answer
from bidstream_svc.server.hosts import HostCheck
from bidstream_svc.server.metrics_page import MetricsPage
from bidstream_svc.server.page_connection import PageConnection, PageConnections, Shared
from bidstream_svc.server.pages import METHODS, Page, PageRequest
from bidstream_svc.server.socket_files import problem_of
from bidstream_svc.server.sockets import Listener
from bidstream_svc.server.tls import ServerTls
from bidstream_svc.server.turns import Turns


@dataclass(slots=True)
class Health:
    """The state that the health pages report.

    Attributes:
        stores: the current keys of the programmes and the results of their last refreshes.
        metrics: the row of this process tells when its serving loop last turned.
        hang_timeout_s: for how long it may not turn.
        listeners: the listeners of this process.
        is_draining: True after SIGTERM.
        tls: the TLS of the data plane; None without.
        started_s: the monotonic clock when the process started, in seconds.
    """

    stores: KeyStores
    metrics: MetricCells
    hang_timeout_s: float
    listeners: Sequence[Listener] = ()
    is_draining: bool = False
    tls: ServerTls | None = None
    started_s: float = field(default_factory=time.monotonic)

    def not_alive(self) -> str | None:
        """Return why the process should be replaced, or None if its serving loop turns."""
        quiet_s = (time.monotonic_ns() - self.metrics.row[HEARTBEAT_NS]) / NS_PER_S
        if quiet_s <= self.hang_timeout_s:
            return None
        return f"the event loop has not turned for {quiet_s:.1f} s"

    def not_started(self) -> str | None:
        """Return why the service has not started, or None once keys of a programme have been loaded."""
        return self._why_none(_not_started)

    def not_ready(self) -> str | None:
        """Return why the service should get no traffic, or None if it is ready."""
        if self.is_draining:
            return "draining"
        return self._why_none(_not_usable) or problem_of(self.listeners)

    def _why_none(self, problem_of_store: Callable[[KeyStore], str | None]) -> str | None:
        """Return why no programme is good, or None if one is."""
        problems = [(store, problem_of_store(store)) for store in self.stores.all]
        if any(problem is None for _, problem in problems):
            return None
        return "; ".join(
            f"{store.required_scope.name}: {problem}" if store.required_scope is not None else str(problem)
            for store, problem in problems
        )

    def started_programmes(self) -> dict[str, object]:
        """Return why each named programme has not started, for `/startupz`."""
        return self._describe_programmes(_not_started, "keys have been loaded")

    def ready_programmes(self) -> dict[str, object]:
        """Return why each named programme cannot be served, for `/readyz`."""
        return self._describe_programmes(_not_usable, "keys are good")

    def _describe_programmes(self, problem_of_store: Callable[[KeyStore], str | None], good: str) -> dict[str, object]:
        return {
            store.required_scope.name: _status(problem_of_store(store), good)
            for store in self.stores.all
            if store.required_scope is not None
        }

    def info(self) -> dict[str, object]:
        """Return the content of `/info`."""
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


class AdminPlane:
    """Answers GET and HEAD requests for the paths in PAGES. It runs in the event loop of the admin thread.

    Args:
        health: the state that the health pages report.
        registry: the metrics of `/metrics`.
        connections: the connections of the admin plane.
    """

    def __init__(self, health: Health, registry: CollectorRegistry, connections: PageConnections) -> None:
        self.health = health
        self.metrics_page = MetricsPage(registry)
        self._shared = Shared(connections, self._answer, Turns())
        _read_description()  # now, so that no file is read while serving

    def connect(self, hosts: HostCheck) -> PageConnection:
        """Return a protocol for a new connection; `hosts` checks its `Host` headers."""
        return PageConnection(self._shared, hosts)

    def _answer(self, request: PageRequest) -> Page | Awaitable[Page]:
        page = PAGES.get(request.path)
        if page is None:
            return _error(404)
        return page(self, request) if request.method in METHODS else _error(405, f"Allow: {', '.join(METHODS)}")


def _livez(plane: AdminPlane, _request: PageRequest) -> Page:
    return _describe_health(plane.health.not_alive(), "the event loop turns")


def _startupz(plane: AdminPlane, _request: PageRequest) -> Page:
    health = plane.health
    return _describe_health(health.not_started(), "keys have been loaded", health.started_programmes())


def _readyz(plane: AdminPlane, _request: PageRequest) -> Page:
    health = plane.health
    return _describe_health(health.not_ready(), "keys are good", health.ready_programmes())


def _info(plane: AdminPlane, _request: PageRequest) -> Page:
    return Page(200, orjson.dumps(plane.health.info()))


async def _metrics(plane: AdminPlane, request: PageRequest) -> Page:
    rendering = await plane.metrics_page.render(request.accept)
    return Page(200, rendering.body, rendering.content_type)


def _openapi(_plane: AdminPlane, _request: PageRequest) -> Page:
    return Page(200, _read_description(), "application/yaml")


PAGES: dict[str, Callable[[AdminPlane, PageRequest], Page | Awaitable[Page]]] = {
    "/livez": _livez,
    "/startupz": _startupz,
    "/readyz": _readyz,
    "/info": _info,
    "/metrics": _metrics,
    "/openapi.yaml": _openapi,
}


@cache
def _read_description() -> bytes:
    return files("bidstream_svc").joinpath("openapi.yaml").read_bytes()


def _describe_health(problem: str | None, good: str, programmes: dict[str, object] | None = None) -> Page:
    """Describe the state of the service, and of each programme that the settings name."""
    content = _status(problem, good) | ({"programmes": programmes} if programmes else {})
    return Page(200 if problem is None else 503, orjson.dumps(content))


def _status(problem: str | None, good: str) -> dict[str, object]:
    if problem is None:
        return {"status": "ok", "reason": good}
    return {"status": "unavailable", "reason": problem}


def _error(code: HttpCode, *headers: str) -> Page:
    phrase = HTTPStatus(code).phrase
    status, body, *_ = error_answer(code, phrase.lower().replace(" ", "_"), phrase)
    return Page(status, body, headers=headers)


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
