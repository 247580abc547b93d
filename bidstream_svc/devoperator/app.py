"""The aiohttp application: envelopes and HTTP around the endpoints."""

import os
from collections.abc import Awaitable, Callable
from hmac import compare_digest

import orjson
import pybase64
from aiohttp import web

from bidstream_svc.core.crypto import GCM_IV_LENGTH, Envelope, open_request, seal_gcm, seal_response
from bidstream_svc.core.errors import EnvelopeError
from bidstream_svc.devoperator import identity_endpoints, key_endpoints, token_endpoints
from bidstream_svc.devoperator.fault_injection import Sealing, alter_sealing, answer_with_fault
from bidstream_svc.devoperator.replies import Answer, Body, RequestRefusedError, client_error
from bidstream_svc.devoperator.state import OperatorState

Endpoint = Callable[[OperatorState, Body], Answer]
Handler = Callable[[web.Request], Awaitable[web.StreamResponse]]

# Endpoints with envelopes. The refresh endpoint has none.
ENDPOINTS: dict[str, Endpoint] = {
    "/v2/key/bidstream": key_endpoints.bidstream_keys,
    "/v2/key/sharing": key_endpoints.sharing_keys,
    "/v2/token/generate": token_endpoints.generate_token,
    "/v2/token/validate": token_endpoints.validate_token,
    "/v2/identity/map": identity_endpoints.identity_map,
    "/v2/identity/buckets": identity_endpoints.identity_buckets,
    "/v2/optout/status": identity_endpoints.optout_status,
    "/v3/identity/map": identity_endpoints.identity_map_v3,
}
REFRESH_PATH = "/v2/token/refresh"

_BINARY = "application/octet-stream"
_MAX_REQUEST_BYTES = 1024 * 1024
_MAX_TIME_OFF_MS = 60_000


def make_app(state: OperatorState) -> web.Application:
    """Make the aiohttp application that serves `state`."""

    @web.middleware
    async def count_and_inject(request: web.Request, handler: Handler) -> web.StreamResponse:
        state.calls[request.path] += 1
        fault = state.faults.take(request.path)
        return await (handler(request) if fault is None else answer_with_fault(fault, request, handler))

    def in_envelope(endpoint: Endpoint) -> Handler:
        async def handle(request: web.Request) -> web.StreamResponse:
            return await _serve_in_envelope(state, endpoint, request)

        return handle

    async def handle_refresh(request: web.Request) -> web.StreamResponse:
        return await _serve_refresh(state, request)

    app = web.Application(middlewares=[_errors_as_json, count_and_inject], client_max_size=_MAX_REQUEST_BYTES)
    app.router.add_post(REFRESH_PATH, handle_refresh)
    for path, endpoint in ENDPOINTS.items():
        app.router.add_post(path, in_envelope(endpoint))
    return app


@web.middleware
async def _errors_as_json(request: web.Request, handler: Handler) -> web.StreamResponse:
    try:
        return await handler(request)
    except RequestRefusedError as error:
        return _refusal(error.http_status, error.api_status, str(error))
    except web.HTTPClientError as error:  # 404, 405 and 413 are aiohttp's own
        allow = {name: value for name, value in error.headers.items() if name == "Allow"}
        return _refusal(error.status, "client_error", error.reason, allow)


def _refusal(http_status: int, api_status: str, message: str, headers: dict[str, str] | None = None) -> web.Response:
    body = orjson.dumps({"status": api_status, "message": message})
    return web.Response(status=http_status, body=body, content_type="application/json", headers=headers)


async def _serve_in_envelope(state: OperatorState, endpoint: Endpoint, request: web.Request) -> web.Response:
    _check_bearer(state, request)
    binary = _is_binary(request)
    envelope = _open(state, await request.read(), binary=binary)
    answer = endpoint(state, _parse(envelope.body))
    secret, nonce, body = alter_sealing(
        request, Sealing(pybase64.b64decode(state.client_secret), envelope.nonce, orjson.dumps(answer))
    )
    sealed = seal_response(secret, os.urandom(GCM_IV_LENGTH), Envelope(state.now_ms(), nonce, body), binary=binary)
    return web.Response(body=sealed, content_type=_BINARY if binary else "text/plain")


async def _serve_refresh(state: OperatorState, request: web.Request) -> web.Response:
    answer, response_key = token_endpoints.refresh_token(
        state, await request.read(), is_authenticated=_has_bearer(state, request)
    )
    secret, _, body = alter_sealing(request, Sealing(response_key, b"", orjson.dumps(answer)))
    sealed = seal_gcm(secret, os.urandom(GCM_IV_LENGTH), body)
    return web.Response(body=pybase64.b64encode(sealed), content_type="text/plain")


def _is_binary(request: web.Request) -> bool:
    # `request.content_type` defaults to octet-stream, but scripts send base64 without the header.
    return request.headers.get("Content-Type", "").partition(";")[0].strip().lower() == _BINARY


def _check_bearer(state: OperatorState, request: web.Request) -> None:
    if not _has_bearer(state, request):
        raise RequestRefusedError(401, "unauthorized", "API key is missing, unknown, or lacks the permission")


def _has_bearer(state: OperatorState, request: web.Request) -> bool:
    scheme, _, key = request.headers.get("Authorization", "").partition(" ")
    # Bytes, because compare_digest refuses text that is not ASCII.
    is_known = compare_digest(key.strip().encode("utf-8", "surrogateescape"), state.api_key.encode())
    return scheme.lower() == "bearer" and is_known


def _open(state: OperatorState, wire: bytes, *, binary: bool) -> Envelope:
    if wire.lstrip()[:1] in {b"{", b"["}:
        raise client_error("Request body is plain JSON; it must be encrypted with the client secret")
    try:
        envelope = open_request(pybase64.b64decode(state.client_secret), wire, binary=binary)
    except EnvelopeError as error:
        raise client_error(f"Request body: {error}") from None
    if abs(state.now_ms() - envelope.timestamp_ms) > _MAX_TIME_OFF_MS:
        raise client_error("Request timestamp differs from the operator's clock by more than 60 seconds")
    return envelope


def _parse(text: bytes) -> Body:
    if not text:
        return {}
    try:
        body = orjson.loads(text)
    except orjson.JSONDecodeError:
        raise client_error("Request envelope does not contain JSON") from None
    if not isinstance(body, dict):
        raise client_error("Request envelope does not contain a JSON object")
    return body
