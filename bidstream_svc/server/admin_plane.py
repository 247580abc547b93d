"""The admin plane: health, information, metrics and failures by site. No page shows a token, a raw uid or a secret."""

from collections.abc import Awaitable, Callable
from functools import cache
from http import HTTPStatus
from importlib.resources import files

import orjson

from bidstream_svc.metrics import MetricCells, build_registry
from bidstream_svc.metrics.cells import HttpCode
from bidstream_svc.server.answers import error_answer
from bidstream_svc.server.console_pages import Console
from bidstream_svc.server.console_state import ConsoleSources
from bidstream_svc.server.failures_page import failures_in_turns
from bidstream_svc.server.health import HealthReports, Report
from bidstream_svc.server.hosts import HostCheck
from bidstream_svc.server.metrics_page import MetricsPage
from bidstream_svc.server.page_connection import PageConnection, Shared
from bidstream_svc.server.page_connections import PageConnections
from bidstream_svc.server.pages import METHODS, Page, PageRequest
from bidstream_svc.server.turns import Turns


class AdminPlane:
    """Answers GET and HEAD requests for the paths in PAGES, and those for the console.

    It runs in the event loop of the admin thread.

    Args:
        health: what the health pages report.
        metrics: what `/metrics` and `/failures` show.
        connections: the connections of the admin plane.
        console: what the console reads; None without one.

    Attributes:
        console: the console; None without one.
    """

    def __init__(
        self,
        health: HealthReports,
        metrics: MetricCells,
        connections: PageConnections,
        console: ConsoleSources | None = None,
    ) -> None:
        self.health = health
        self.metrics = metrics
        self.metrics_page = MetricsPage(build_registry(metrics))
        self.console = None if console is None else Console(console, self.metrics_page)
        self._shared = Shared(connections, self._answer, Turns(), max_body_bytes=self._max_body_bytes)
        _read_description()  # now, so that no file is read while serving

    def connect(self, hosts: HostCheck) -> PageConnection:
        """Return a protocol for a new connection; `hosts` checks its `Host` headers."""
        return PageConnection(self._shared, hosts)

    def _answer(self, request: PageRequest) -> Page | Awaitable[Page]:
        if self.console is not None and self.console.has_path(request.path):
            return self.console.answer(request)
        page = PAGES.get(request.path)
        if page is None:
            return _error(404)
        return page(self, request) if request.method in METHODS else _error(405, f"Allow: {','.join(METHODS)}")

    def _max_body_bytes(self, request: PageRequest) -> int:
        return 0 if self.console is None else self.console.max_body_bytes(request)


def _livez(plane: AdminPlane, _request: PageRequest) -> Page:
    return _describe_health(plane.health.alive())


def _startupz(plane: AdminPlane, _request: PageRequest) -> Page:
    return _describe_health(plane.health.started())


def _readyz(plane: AdminPlane, _request: PageRequest) -> Page:
    return _describe_health(plane.health.ready())


def _info(plane: AdminPlane, _request: PageRequest) -> Page:
    return Page(200, orjson.dumps(plane.health.info()))


async def _metrics(plane: AdminPlane, request: PageRequest) -> Page:
    rendering = await plane.metrics_page.render(request.accept)
    return Page(200, rendering.body, rendering.content_type)


async def _failures(plane: AdminPlane, _request: PageRequest) -> Page:
    return Page(200, orjson.dumps(await failures_in_turns(plane.metrics)))


def _openapi(_plane: AdminPlane, _request: PageRequest) -> Page:
    return Page(200, _read_description(), "application/yaml")


PAGES: dict[str, Callable[[AdminPlane, PageRequest], Page | Awaitable[Page]]] = {
    "/livez": _livez,
    "/startupz": _startupz,
    "/readyz": _readyz,
    "/info": _info,
    "/metrics": _metrics,
    "/failures": _failures,
    "/openapi.yaml": _openapi,
}


@cache
def _read_description() -> bytes:
    return files("bidstream_svc").joinpath("openapi.yaml").read_bytes()


def _describe_health(report: Report) -> Page:
    content = report.status | ({"programmes": report.programmes} if report.programmes else {})
    return Page(200 if report.problem is None else 503, orjson.dumps(content))


def _error(code: HttpCode, *headers: str) -> Page:
    phrase = HTTPStatus(code).phrase
    status, body, *_ = error_answer(code, phrase.lower().replace(" ", "_"), phrase)
    return Page(status, body, headers=headers)
