"""The console: a page for people on the admin plane. It is there only if the settings allow it.

Its files are served as they are. What it shows comes from `/console/state`. Tokens and bid requests come in the bodies
of POST requests, are explained and forgotten: nothing of them is kept, logged or counted.

A page of another origin can neither read nor start anything here. A browser tells where a request comes from, and what
a form or an image can send is refused; see `_refuse`.
"""

from collections.abc import Awaitable, Callable, Mapping, Sequence
from functools import cache
from http import HTTPStatus
from importlib.resources import files
from typing import NamedTuple

import orjson

from bidstream_svc.core.openrtb import MAX_BID_REQUEST_BYTES
from bidstream_svc.server.answers import UNAUTHORIZED, UNSUPPORTED_MEDIA_TYPE
from bidstream_svc.server.console_explain import explain
from bidstream_svc.server.console_state import ConsoleSources, ConsoleState
from bidstream_svc.server.media_type import is_json
from bidstream_svc.server.metrics_page import MetricsPage
from bidstream_svc.server.pages import METHODS, Page, PageRequest
from bidstream_svc.server.support_bundle import make_bundle

_POLICY = (
    "default-src 'none'; script-src 'self'; style-src 'self'; connect-src 'self'; img-src 'self' data:;"
    " base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
)
_HEADERS = (
    f"Content-Security-Policy: {_POLICY}",
    "X-Content-Type-Options: nosniff",
    "Referrer-Policy: no-referrer",
    "Cross-Origin-Resource-Policy: same-origin",
    "Cross-Origin-Opener-Policy: same-origin",
    "Cache-Control: no-store",
)
_MAX_BODY_BYTES = MAX_BID_REQUEST_BYTES + 1024  # and the JSON around it
_SAME_ORIGIN = frozenset({"same-origin", "none"})  # of Sec-Fetch-Site; `none` is a request of the user's own
_POST = ("POST",)


class _File(NamedTuple):
    name: str
    content_type: str


_FILES = {
    "/console": _File("console.html", "text/html; charset=utf-8"),
    "/console/console.css": _File("console.css", "text/css; charset=utf-8"),
    "/console/console.js": _File("console.js", "text/javascript; charset=utf-8"),
}
_Answering = Page | Awaitable[Page]


class Console:
    """Answers the requests for the paths of the console. It runs in the event loop of the admin thread.

    Args:
        sources: what it reads.
        metrics_page: renders `/metrics`.

    Attributes:
        state: what it shows.
    """

    def __init__(self, sources: ConsoleSources, metrics_page: MetricsPage) -> None:
        self.state = ConsoleState(sources)
        self._sources = sources
        self._metrics_page = metrics_page
        self._posts: dict[str, Callable[[PageRequest], _Answering]] = {
            "/console/explain": self._explain,
            "/console/bundle": self._bundle,
        }
        _read_files()  # now, so that no file is read while serving

    def has_path(self, path: str) -> bool:
        """Return whether a path is one of the console's."""
        return path in _FILES or path in self._posts or path == "/console/state"

    def max_body_bytes(self, request: PageRequest) -> int:
        """See Shared. A request that is refused need not send its body."""
        return _MAX_BODY_BYTES if request.path in self._posts and self._refuse(request) is None else 0

    def answer(self, request: PageRequest) -> _Answering:
        """Answer a request for one of the paths."""
        refusal = self._refuse(request)
        if refusal is not None:
            return refusal
        if request.path in _FILES:
            return _page(200, _read_files()[request.path], _FILES[request.path].content_type)
        if request.path in self._posts:
            return self._posts[request.path](request)
        return self._tell_state()

    def _refuse(self, request: PageRequest) -> Page | None:
        """Return the answer to a request that is not allowed; None if it is."""
        is_post = request.path in self._posts
        methods = _POST if is_post else METHODS
        if request.method not in methods:
            allowed = ",".join(methods)
            return _error(405, "method_not_allowed", f"only {allowed} is allowed here", f"Allow: {allowed}")
        if request.path == "/console":
            return None  # people may come by a link
        if not _is_same_origin(request.fields):
            return _error(403, "forbidden", "the request comes from a page of another origin")
        bearer = self._sources.bearer
        if request.path not in _FILES and bearer is not None and not bearer.matches(request.authorization):
            return _page(401, UNAUTHORIZED[1], headers=["WWW-Authenticate: Bearer"])
        content_type = _field(request.fields, b"content-type")
        if is_post and (content_type is None or not is_json(content_type) or b"content-encoding" in request.fields):
            return _page(415, UNSUPPORTED_MEDIA_TYPE[1])
        return None

    async def _tell_state(self) -> Page:
        return _page(200, orjson.dumps(await self.state.describe()))

    async def _explain(self, request: PageRequest) -> Page:
        try:
            explanation = await explain(request.body, self._sources)
        except ValueError as problem:  # its message is ours, and has nothing of the body
            return _error(400, "invalid_request", str(problem))
        return _page(200, explanation)

    async def _bundle(self, _request: PageRequest) -> Page:
        bundle = await make_bundle(self._sources, self.state, self._metrics_page)
        return _page(200, bundle, "application/zip", ['Content-Disposition: attachment; filename="bidstream-svc.zip"'])


def _is_same_origin(fields: Mapping[bytes, Sequence[str]]) -> bool:
    """Whether a request is not of a page of another origin, as its browser tells. Other programs tell nothing."""
    site, origin = _field(fields, b"sec-fetch-site"), _field(fields, b"origin")
    if site is not None and site not in _SAME_ORIGIN:
        return False
    if origin is None:
        return True
    scheme, _, host = origin.partition("://")
    return scheme in {"http", "https"} and host.lower() == (_field(fields, b"host") or "").lower()


def _field(fields: Mapping[bytes, Sequence[str]], name: bytes) -> str | None:
    """Return a header; None if it is absent. Several are joined, so that none of the known values is found."""
    values = fields.get(name)
    return None if values is None else ", ".join(values)


@cache
def _read_files() -> dict[str, bytes]:
    directory = files("bidstream_svc").joinpath("server", "console")
    return {path: directory.joinpath(file.name).read_bytes() for path, file in _FILES.items()}


def _page(status: int, body: bytes, content_type: str = "application/json", headers: list[str] | None = None) -> Page:
    return Page(status, body, content_type, [*_HEADERS, *(headers or [])])


def _error(status: HTTPStatus | int, code: str, message: str, *headers: str) -> Page:
    return _page(int(status), orjson.dumps({"error": {"code": code, "message": message}}), headers=[*headers])
