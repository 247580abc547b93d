"""The admin plane: health, information and metrics; never a token, a uid or a secret."""

import time
from dataclasses import dataclass, field
from importlib.resources import files

import orjson
from aiohttp import web
from aiohttp.typedefs import Handler
from prometheus_client import CollectorRegistry
from prometheus_client.exposition import choose_encoder

from bidstream_svc._version import __version__
from bidstream_svc.clock import wall_clock_ms
from bidstream_svc.core.keys import KeySnapshot
from bidstream_svc.keystore.store import KeyStore

_MS_PER_S = 1000


@dataclass(slots=True)
class Health:
    """What the health pages look at.

    Attributes:
        store: the keys and how they came.
        is_draining: True from SIGTERM on.
        started_s: the monotonic clock at the start.
    """

    store: KeyStore
    is_draining: bool = False
    started_s: float = field(default_factory=time.monotonic)

    def not_started(self) -> str | None:
        """Why the service has not started up; None once keys have been loaded."""
        if self.store.snapshot is not None:
            return None
        return f"no keys yet: {self.store.last_error or 'the first refresh is under way'}"

    def not_ready(self) -> str | None:
        """Why no traffic should come; None if it should."""
        if self.is_draining:
            return "draining"
        if self.store.snapshot is not None and self.store.snapshot.last_expiry_ms <= wall_clock_ms():
            return "all keys have expired"
        return self.not_started()

    def info(self) -> dict[str, object]:
        """What `/info` shows."""
        store = self.store
        return {
            "version": __version__,
            "uptime_s": round(time.monotonic() - self.started_s, 3),
            "draining": self.is_draining,
            "keys": _describe_keys(store.snapshot, is_from_cache=store.is_from_cache),
            "last_refresh": _iso(store.last_success_ms),
            "next_refresh": _iso(store.next_refresh_ms),
            "last_refresh_error": store.last_error,
        }


def build_admin_app(health: Health, registry: CollectorRegistry) -> web.Application:
    """The admin plane's application."""
    description = files("bidstream_svc").joinpath("openapi.yaml").read_bytes()

    async def livez(_request: web.Request) -> web.Response:
        return _json(200, {"status": "ok", "reason": "the event loop turns"})

    async def startupz(_request: web.Request) -> web.Response:
        return _health(health.not_started(), "keys have been loaded")

    async def readyz(_request: web.Request) -> web.Response:
        return _health(health.not_ready(), "keys are good")

    async def info(_request: web.Request) -> web.Response:
        return _json(200, health.info())

    async def metrics(request: web.Request) -> web.Response:
        try:
            encode, content_type = choose_encoder(request.headers.get("Accept", ""))
        except (ValueError, TypeError):  # a version in it is no version
            encode, content_type = choose_encoder("")
        return web.Response(body=encode(registry), headers={"Content-Type": content_type})

    async def openapi(_request: web.Request) -> web.Response:
        return web.Response(body=description, content_type="application/yaml")

    app = web.Application(middlewares=[_errors_as_json])
    app.on_response_prepare.append(_name_server)
    app.router.add_get("/livez", livez)
    app.router.add_get("/startupz", startupz)
    app.router.add_get("/readyz", readyz)
    app.router.add_get("/info", info)
    app.router.add_get("/metrics", metrics)
    app.router.add_get("/openapi.yaml", openapi)
    return app


async def _name_server(_request: web.Request, response: web.StreamResponse) -> None:
    # Otherwise aiohttp names its own version and Python's.
    response.headers["Server"] = "bidstream-svc"


@web.middleware
async def _errors_as_json(request: web.Request, handler: Handler) -> web.StreamResponse:
    try:
        return await handler(request)
    except web.HTTPException as error:
        answer = _json(
            error.status, {"error": {"code": error.reason.lower().replace(" ", "_"), "message": error.reason}}
        )
        if "Allow" in error.headers:
            answer.headers["Allow"] = error.headers["Allow"]
        return answer


def _health(problem: str | None, good: str) -> web.Response:
    if problem is None:
        return _json(200, {"status": "ok", "reason": good})
    return _json(503, {"status": "unavailable", "reason": problem})


def _json(status: int, body: dict[str, object]) -> web.Response:
    return web.Response(status=status, body=orjson.dumps(body), content_type="application/json")


def _describe_keys(snapshot: KeySnapshot | None, *, is_from_cache: bool) -> dict[str, object] | None:
    if snapshot is None:
        return None
    return {
        "keys": len(snapshot.keys),
        "sites": len(snapshot.sites),
        "scope": snapshot.scope.name,
        "last_expiry": _iso(snapshot.last_expiry_ms),
        "from_cache": is_from_cache,
    }


def _iso(time_ms: int | None) -> str | None:
    """ISO 8601 in UTC, to the second."""
    return None if time_ms is None else time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime(time_ms / _MS_PER_S))
