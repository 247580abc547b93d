"""The aiohttp application: routes, roles, envelopes and cross-origin requests around the endpoints."""

import os
from collections.abc import Awaitable, Callable

import orjson
import pybase64
from aiohttp import web

from bidstream_svc.core.crypto import GCM_IV_LENGTH, Envelope, seal_gcm, seal_response
from bidstream_svc.devoperator.client_side import generate_on_client_side
from bidstream_svc.devoperator.clients import ApiClient
from bidstream_svc.devoperator.cross_origin import allow_origin, answer_preflights
from bidstream_svc.devoperator.endpoints import ENDPOINTS, Endpoint, Form
from bidstream_svc.devoperator.fault_injection import Sealing, alter_sealing, answer_with_fault
from bidstream_svc.devoperator.http_errors import answer_errors
from bidstream_svc.devoperator.state import OperatorState
from bidstream_svc.devoperator.token_endpoints import refresh_token
from bidstream_svc.operator.refusals import unauthorized
from bidstream_svc.operator.request_envelopes import BINARY, TEXT, api_key_of, is_binary, open_envelope, read_body

Handler = Callable[[web.Request], Awaitable[web.StreamResponse]]

_MAX_REQUEST_BYTES = 1024 * 1024


def make_app(state: OperatorState) -> web.Application:
    """Make the aiohttp application that serves `state`."""

    @web.middleware
    async def count_and_inject(request: web.Request, handler: Handler) -> web.StreamResponse:
        state.calls[request.path] += 1
        fault = state.faults.take(request.path)
        return await (handler(request) if fault is None else answer_with_fault(fault, request, handler))

    middlewares = [answer_preflights, answer_errors, count_and_inject]
    app = web.Application(middlewares=middlewares, client_max_size=_MAX_REQUEST_BYTES)
    app.on_response_prepare.append(allow_origin)
    for endpoint in ENDPOINTS:
        app.router.add_route(endpoint.method, endpoint.path, _handler_of(state, endpoint))
    return app


def _handler_of(state: OperatorState, endpoint: Endpoint) -> Handler:
    async def handle(request: web.Request) -> web.StreamResponse:
        wire = await request.read()
        match endpoint.form:
            case Form.ENVELOPE:
                return _serve_in_envelope(state, endpoint, request, wire)
            case Form.REFRESH_TOKEN:
                return _serve_refresh(state, request, wire)
            case Form.CLIENT_SIDE:
                return web.Response(body=generate_on_client_side(state, wire, request.headers.get("Origin")))
            case Form.HEALTH:
                return web.Response(body=b"OK")

    return handle


def _serve_in_envelope(state: OperatorState, endpoint: Endpoint, request: web.Request, wire: bytes) -> web.Response:
    client = _find_client(state, request)
    if client is None or not client.roles & endpoint.roles:
        raise unauthorized()
    client_secret = pybase64.b64decode(client.client_secret)
    binary = is_binary(request.headers.get("Content-Type"), wire)
    envelope = open_envelope(wire, client_secret, state.scope, state.now_ms(), binary=binary)
    assert endpoint.answer is not None, "every row with envelopes has a function"
    answer = endpoint.answer(state, read_body(envelope.body), client)
    secret, nonce, body = alter_sealing(request, Sealing(client_secret, envelope.nonce, orjson.dumps(answer)))
    sealed = seal_response(secret, os.urandom(GCM_IV_LENGTH), Envelope(state.now_ms(), nonce, body), binary=True)
    return _answer_sealed(sealed, binary=binary)


def _serve_refresh(state: OperatorState, request: web.Request, wire: bytes) -> web.Response:
    is_authenticated = _find_client(state, request) is not None
    answer, response_key = refresh_token(state, wire, is_authenticated=is_authenticated)
    secret, _, body = alter_sealing(request, Sealing(response_key, b"", orjson.dumps(answer)))
    return _answer_sealed(
        seal_gcm(secret, os.urandom(GCM_IV_LENGTH), body), binary=is_binary(request.headers.get("Content-Type"))
    )


def _answer_sealed(sealed: bytes, *, binary: bool) -> web.Response:
    if binary:
        return web.Response(body=sealed, content_type=BINARY)
    return web.Response(body=pybase64.b64encode(sealed), content_type=TEXT)


def _find_client(state: OperatorState, request: web.Request) -> ApiClient | None:
    api_key = api_key_of(request.headers.get("Authorization"))
    return None if api_key is None else state.clients.find(api_key)
