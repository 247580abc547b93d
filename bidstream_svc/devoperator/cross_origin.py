"""Cross-origin requests of web pages: every origin may call, and preflights are answered for any path.

Source: the Fetch standard, "CORS protocol"; the lists are an operator's.
"""

from collections.abc import Awaitable, Callable

from aiohttp import web

_METHODS = "GET,POST,OPTIONS"
_HEADERS = (
    "X-UID2-Client-Version,Access-Control-Request-Method,Access-Control-Allow-Credentials,"
    "Access-Control-Allow-Origin,Access-Control-Allow-Headers,Content-Type"
)
_PATH_WITH_API_KEY = "/v2/token/validate"  # the only one that a page may send an API key to


@web.middleware
async def answer_preflights(
    request: web.Request, handler: Callable[[web.Request], Awaitable[web.StreamResponse]]
) -> web.StreamResponse:
    """Answer a preflight, and pass other requests on."""
    is_preflight = {"Origin", "Access-Control-Request-Method"} <= request.headers.keys()
    if request.method != "OPTIONS" or not is_preflight:
        return await handler(request)
    headers = _HEADERS + (",Authorization" if request.path == _PATH_WITH_API_KEY else "")
    return web.Response(
        status=204, headers={"Access-Control-Allow-Methods": _METHODS, "Access-Control-Allow-Headers": headers}
    )


async def allow_origin(request: web.Request, response: web.StreamResponse) -> None:
    """Add the headers that let a page of any origin read an answer."""
    response.headers["Vary"] = "origin"
    if origin := request.headers.get("Origin"):
        response.headers["Access-Control-Allow-Origin"] = origin
