"""/v2/token/generate, /v2/token/refresh and /v2/token/validate."""

import os

import orjson
import pybase64

from bidstream_svc.core.decrypt import decrypt
from bidstream_svc.core.errors import EnvelopeError, IdentityError
from bidstream_svc.core.identity import Identity
from bidstream_svc.core.key_response import parse_key_response
from bidstream_svc.core.keys import KeyPurpose
from bidstream_svc.core.units import MS_PER_S
from bidstream_svc.devoperator.key_endpoints import sharing_keys
from bidstream_svc.devoperator.refresh_tokens import (
    RESPONSE_KEY_LENGTH,
    RefreshToken,
    open_refresh_token,
    seal_refresh_token,
)
from bidstream_svc.devoperator.replies import Answer, Body, RequestRefusedError, client_error, success
from bidstream_svc.devoperator.state import OperatorState
from bidstream_svc.devoperator.well_known import IDENTIFIER_FIELDS, VALIDATE_EMAIL, identity_of, parse_identifier

_OPTOUT: Answer = {"status": "optout"}
_VALIDATE_IDENTITY = identity_of(VALIDATE_EMAIL)


def generate_token(state: OperatorState, body: Body) -> Answer:
    """Generate tokens for a user of the caller's site."""
    field_name = _only_one_of(body, IDENTIFIER_FIELDS)
    try:
        identity = parse_identifier(field_name, body[field_name])
    except IdentityError as error:
        raise client_error(f"Invalid {field_name}: {error}") from None
    if identity in state.opted_out_since_ms:
        return _OPTOUT
    return success(_identity_tokens(state, identity, state.caller_site_id, established_ms=state.now_ms()))


def refresh_token(state: OperatorState, text: bytes) -> tuple[Answer, bytes]:
    """Refresh tokens. Returns the answer and the key to encrypt it with.

    Raises:
        RequestRefusedError: 400 with the status `invalid_token` or `expired_token`.
    """
    try:
        token = open_refresh_token(state.refresh_token_key, text)
    except EnvelopeError:
        raise RequestRefusedError(400, "invalid_token", "Refresh token is not one of this operator's") from None
    if token.expires_ms <= state.now_ms():
        raise RequestRefusedError(400, "expired_token", "Refresh token has expired")
    if token.identity in state.opted_out_since_ms or token.identity in state.optout_on_refresh:
        return _OPTOUT, token.response_key
    tokens = _identity_tokens(state, token.identity, token.site_id, established_ms=token.established_ms)
    return success(tokens), token.response_key


def validate_token(state: OperatorState, body: Body) -> Answer:
    """Whether an advertising token was generated for `validate@example.com`; False for other addresses."""
    token = body.get("token")
    if not isinstance(token, str):
        raise client_error("Required parameter missing: token")
    field_name = _only_one_of(body, IDENTIFIER_FIELDS[:2])
    try:
        identity = parse_identifier(field_name, body[field_name])
    except IdentityError:
        return success(body=False)
    return success(identity == _VALIDATE_IDENTITY and _raw_uid_in(state, token) == state.salts.raw_uid(identity))


def _only_one_of(body: Body, field_names: tuple[str, ...]) -> str:
    present = [name for name in field_names if body.get(name) is not None]
    if len(present) != 1:
        raise client_error(f"Exactly one parameter is required of: {', '.join(field_names)}")
    return present[0]


def _identity_tokens(
    state: OperatorState, identity: Identity, site_id: int, *, established_ms: int
) -> dict[str, str | int]:
    now_ms = state.now_ms()
    lifetimes = state.lifetimes
    content = state.token_content(
        identity,
        site_id=site_id,
        lifetime_s=lifetimes.token_s,
        generated_ms=now_ms,
        established_ms=established_ms,
    )
    response_key = os.urandom(RESPONSE_KEY_LENGTH)
    refresh_expires_ms = now_ms + lifetimes.refresh_token_s * MS_PER_S
    refresh = RefreshToken(identity, site_id, established_ms, refresh_expires_ms, response_key)
    return {
        "advertising_token": state.mint(content, state.token_version),
        "refresh_token": seal_refresh_token(state.refresh_token_key, refresh),
        "identity_expires": content.expires_ms,
        "refresh_expires": refresh_expires_ms,
        "refresh_from": now_ms + lifetimes.refresh_after_s * MS_PER_S,
        "refresh_response_key": pybase64.b64encode_as_string(response_key),
    }


def _raw_uid_in(state: OperatorState, token: str) -> str | None:
    # With sharing keys: domains are not checked here.
    keys = parse_key_response(orjson.dumps(sharing_keys(state, {})), KeyPurpose.SHARING)
    _, raw_uid, _, _ = decrypt(token, None, keys, state.now_ms())
    return raw_uid
