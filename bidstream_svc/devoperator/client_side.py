"""/v2/token/client-generate: tokens that a web page or an app generates with the public key of its site.

Page and operator agree on an AES key by ECDH on P-256, without a key derivation function. The request is JSON with a
payload encrypted under that key; time and app name are authenticated with it. The answer is base64 of
iv 12 | AES-GCM under the same key | tag 16.
"""

import os
from typing import Any
from urllib.parse import urlsplit

import orjson
import pybase64
from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from cryptography.hazmat.primitives.serialization import load_der_public_key

from bidstream_svc.core.crypto import GCM_IV_LENGTH, seal_gcm
from bidstream_svc.core.domains import normalise_domain, registrable_domain
from bidstream_svc.core.errors import IdentityError
from bidstream_svc.core.identity import Identity
from bidstream_svc.core.token import CLIENT_SIDE_GENERATED
from bidstream_svc.devoperator.replies import Body, server_error
from bidstream_svc.devoperator.state import OperatorState
from bidstream_svc.devoperator.token_endpoints import issue_tokens
from bidstream_svc.devoperator.well_known import parse_identifier
from bidstream_svc.operator.refusals import RequestRefusedError, client_error
from bidstream_svc.operator.request_envelopes import decode_unpadded

_FIELDS = {"payload", "iv", "subscription_id", "public_key", "timestamp", "app_name"}
_LOCALHOST = "localhost"
_UNEXPECTED = "Unknown error while handling client side token generate"


def generate_on_client_side(state: OperatorState, wire: bytes, origin: str | None) -> bytes:
    """Answer a request of a web page or an app. `origin` is the HTTP header of a web page, else None."""
    request = _read_request(wire)
    if request.get("subscription_id") != state.client_side.subscription_id:
        raise client_error("bad subscription_id")
    app_name = request.get("app_name")
    _check_caller(state, app_name, origin)
    secret = _agree(state, request)
    identity = _identity_in(_open_payload(request, secret, app_name))
    answer = issue_tokens(state, identity, state.caller_site_id, privacy_bits=CLIENT_SIDE_GENERATED)
    return pybase64.b64encode(seal_gcm(secret, os.urandom(GCM_IV_LENGTH), orjson.dumps(answer)))


def _read_request(wire: bytes) -> Body:
    try:
        request = orjson.loads(wire) if wire else None
    except orjson.JSONDecodeError:
        raise client_error("json payload is not valid") from None
    if request is None:
        raise client_error("json payload expected but not found")
    if (
        not isinstance(request, dict)
        or not request.keys() <= _FIELDS
        or any(isinstance(value, list | dict) for value in request.values())
        or not isinstance(request.get("timestamp") or 0, int)
    ):
        raise server_error(_UNEXPECTED)
    return request


def _check_caller(state: OperatorState, app_name: Any, origin: str | None) -> None:
    names = {name.lower() for name in state.sites[state.caller_site_id].domain_names or ()}
    domains = {name for name in names if _domain_of(name) == name}
    if app_name is not None:
        if str(app_name).lower() not in names - domains:
            raise RequestRefusedError(403, "invalid_app_name", "unexpected app name")
    elif _domain_of(_host_of(origin)) not in domains:
        raise RequestRefusedError(403, "invalid_http_origin", "unexpected http origin")


def _host_of(origin: str | None) -> str:
    try:
        url = urlsplit(origin or "")
        return normalise_domain(url.hostname or "") if url.scheme in {"http", "https"} else ""
    except ValueError:
        return ""


def _domain_of(host: str) -> str | None:
    """Return the registrable domain of a host. `localhost` is one too."""
    return _LOCALHOST if f".{host}".endswith("." + _LOCALHOST) else registrable_domain(host)


def _agree(state: OperatorState, request: Body) -> bytes:
    if any(request.get(name) is None for name in ("payload", "iv", "public_key")):
        raise client_error("required parameters: payload, iv, public_key")
    try:
        public_key = load_der_public_key(decode_unpadded(str(request["public_key"])))
    except ValueError:
        raise client_error("bad public key") from None
    if not isinstance(public_key, ec.EllipticCurvePublicKey):
        raise client_error("bad public key")
    if public_key.curve.name != "secp256r1":
        raise server_error(_UNEXPECTED)
    return state.client_side.private_key.exchange(ec.ECDH(), public_key)


def _open_payload(request: Body, secret: bytes, app_name: Any) -> Body:
    try:
        iv = decode_unpadded(str(request["iv"]))
    except ValueError:
        iv = b""
    if len(iv) != GCM_IV_LENGTH:
        raise client_error("bad iv")
    authenticated = [request.get("timestamp", 0), *([] if app_name is None else [app_name])]
    try:
        plaintext = AESGCM(secret).decrypt(iv, decode_unpadded(str(request["payload"])), orjson.dumps(authenticated))
    except (InvalidTag, ValueError):
        raise client_error("payload decryption failed") from None
    try:
        payload = orjson.loads(plaintext)
    except orjson.JSONDecodeError:
        payload = None
    if not isinstance(payload, dict):
        raise client_error("encrypted payload contains invalid json")
    return payload


def _identity_in(payload: Body) -> Identity:
    present = [name for name in ("email_hash", "phone_hash") if payload.get(name) is not None]
    if len(present) != 1:
        raise client_error("please provide exactly one of: email_hash, phone_hash")
    try:
        return parse_identifier(present[0], payload[present[0]])
    except IdentityError:
        raise client_error("Invalid Identifier") from None
