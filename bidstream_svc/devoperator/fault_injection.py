"""Fault injection: turns a `Fault` into a wrong answer."""

import asyncio
import os
import socket
from collections.abc import Awaitable, Callable
from struct import pack
from typing import NamedTuple

import orjson
from aiohttp import web

from bidstream_svc.core.identity import IdentityScope
from bidstream_svc.devoperator.faults import Fault
from bidstream_svc.operator.refusals import RequestRefusedError

_FAULT = web.RequestKey("fault", Fault)
_REFUSALS = {
    Fault.SERVER_ERROR: RequestRefusedError(500, "error", "Internal error (injected)"),
    Fault.UNAUTHORIZED: RequestRefusedError(401, "unauthorized"),
    Fault.FORBIDDEN: RequestRefusedError(403, "unauthorized", "API key lacks the role (injected)"),
    Fault.TOO_MANY_REQUESTS: RequestRefusedError(429, "too_many_requests", "Too many requests (injected)"),
}
_HTML = "<!DOCTYPE html><html><head><title>Gateway</title></head><body><h1>502 Bad Gateway</h1></body></html>"
_GARBAGE = bytes(range(256))
_HUGE_CHUNK = b"A" * (1024 * 1024)
_HUGE_CHUNKS = 17
_LINGER_ZERO = pack("ii", 1, 0)  # close sends RST, not FIN


class Sealing(NamedTuple):
    """Secret, nonce and JSON body of an encrypted answer."""

    secret: bytes
    nonce: bytes
    body: bytes


async def answer_with_fault(
    fault: Fault, request: web.Request, handler: Callable[[web.Request], Awaitable[web.StreamResponse]]
) -> web.StreamResponse:
    """Answer a request with a fault: in place of the handler, or by altering its answer."""
    if fault in _REFUSALS:
        refusal = _REFUSALS[fault]
        raise RequestRefusedError(refusal.http_status, refusal.api_status, refusal.message)
    match fault:
        case Fault.REDIRECT:
            return web.Response(status=302, headers={"Location": "/redirected"})
        case Fault.HTML_ERROR | Fault.HTML_PAGE:
            return web.Response(status=502 if fault is Fault.HTML_ERROR else 200, text=_HTML, content_type="text/html")
        case Fault.GARBAGE_BODY:
            return web.Response(body=_GARBAGE)
        case Fault.HUGE_BODY:
            return await _send_endlessly(request)
        case Fault.HANG_BEFORE_ANSWER:
            await _hang()
        case Fault.RESET:
            _close(request, with_reset=True)
            return web.Response()
    request[_FAULT] = fault  # read by alter_sealing
    return await _alter_response(fault, request, await handler(request))


def alter_sealing(request: web.Request, sealing: Sealing) -> Sealing:
    """Return the content of an envelope, altered if the request's fault requires it."""
    match request.get(_FAULT):
        case Fault.WRONG_NONCE:
            return sealing._replace(nonce=os.urandom(len(sealing.nonce)))
        case Fault.WRONG_SECRET:
            return sealing._replace(secret=os.urandom(len(sealing.secret)))
        case Fault.NOT_JSON:
            return sealing._replace(body=_HTML.encode())
        case Fault.EXPIRED_KEYS | Fault.EMPTY_KEYS | Fault.OTHER_SCOPE as fault:
            return sealing._replace(body=_alter_keys(fault, sealing.body))
        case _:
            return sealing


def _alter_keys(fault: Fault, body: bytes) -> bytes:
    answer = orjson.loads(body)
    content = answer["body"]
    if fault is Fault.OTHER_SCOPE:
        other = next(scope for scope in IdentityScope if scope.name != content["identity_scope"])
        content["identity_scope"] = other.name
    elif fault is Fault.EMPTY_KEYS:
        content["keys"] = []
    else:
        for key in content["keys"]:
            key["expires"] = key["activates"] + 1
    return orjson.dumps(answer)


async def _alter_response(fault: Fault, request: web.Request, response: web.StreamResponse) -> web.StreamResponse:
    assert isinstance(response, web.Response)
    assert isinstance(response.body, bytes)
    whole = response.body
    match fault:
        case Fault.TRUNCATED_BODY:
            response.body = whole[: len(whole) // 2]
        case Fault.HANG_IN_BODY | Fault.CUT_BODY:
            half = web.StreamResponse(headers={"Content-Length": str(len(whole))})
            await half.prepare(request)
            await half.write(whole[: len(whole) // 2])
            if fault is Fault.HANG_IN_BODY:
                await _hang()
            _close(request, with_reset=False)
            return half
    return response


async def _send_endlessly(request: web.Request) -> web.StreamResponse:
    response = web.StreamResponse()
    response.enable_chunked_encoding()
    await response.prepare(request)
    for _ in range(_HUGE_CHUNKS):
        await response.write(_HUGE_CHUNK)
    return response


async def _hang() -> None:
    """Wait until the handler is cancelled: the client disconnects, or the operator stops."""
    await asyncio.Future()


def _close(request: web.Request, *, with_reset: bool) -> None:
    transport = request.transport
    assert transport is not None, "a handler is cancelled when its client disconnects"
    if with_reset:
        transport.get_extra_info("socket").setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _LINGER_ZERO)
        transport.abort()
    else:
        transport.close()
