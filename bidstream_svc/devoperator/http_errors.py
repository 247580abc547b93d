"""Errors as HTTP answers. As with operators, not all of them are JSON, and a 401 has no message."""

from collections.abc import Awaitable, Callable

from aiohttp import web

from bidstream_svc.operator.refusals import RequestRefusedError

_NOT_FOUND = "<html><body><h1>Resource not found</h1></body></html>"
_TOO_LARGE = "Request Too Long"


@web.middleware
async def answer_errors(
    request: web.Request, handler: Callable[[web.Request], Awaitable[web.StreamResponse]]
) -> web.StreamResponse:
    """Answer a RequestRefusedError in JSON, and errors of HTTP without."""
    try:
        return await handler(request)
    except RequestRefusedError as error:
        return web.Response(status=error.http_status, body=error.json, content_type="application/json")
    except web.HTTPNotFound:
        return web.Response(status=404, text=_NOT_FOUND, content_type="text/html")
    except web.HTTPMethodNotAllowed as error:
        return web.Response(status=405, headers={"Allow": error.headers["Allow"]})
    except web.HTTPRequestEntityTooLarge:
        return web.Response(status=413, text=_TOO_LARGE)
