"""/v2/token/generate, /v2/token/refresh and /v2/token/validate."""

import os
from dataclasses import replace

import orjson
import pybase64

from bidstream_svc.core.decrypt import decrypt
from bidstream_svc.core.errors import EnvelopeError, IdentityError
from bidstream_svc.core.identity import Identity, IdentityScope
from bidstream_svc.core.key_response import parse_key_response
from bidstream_svc.core.keys import KeyPurpose
from bidstream_svc.core.token_details import read_details
from bidstream_svc.core.units import MS_PER_S
from bidstream_svc.devoperator.clients import ApiClient
from bidstream_svc.devoperator.consent import ConsentStringError, read_consent
from bidstream_svc.devoperator.key_endpoints import every_key
from bidstream_svc.devoperator.refresh_tokens import (
    REFRESH_TOKEN_CHARACTERS,
    RESPONSE_KEY_LENGTH,
    RefreshToken,
    open_refresh_token,
    seal_refresh_token,
)
from bidstream_svc.devoperator.replies import Answer, Body, success
from bidstream_svc.devoperator.state import OperatorState
from bidstream_svc.devoperator.well_known import IDENTIFIER_FIELDS, ONE_IDENTIFIER_REQUIRED, parse_identifier
from bidstream_svc.operator.refusals import RequestRefusedError, client_error

_OPTOUT: Answer = {"status": "optout"}
_INSUFFICIENT_CONSENT: Answer = {"status": "insufficient_user_consent"}
# No time and no lifetime make a token invalid for /v2/token/validate.
_NO_LIMIT_MS = 2**63
_BEFORE_ANY_EXPIRY_MS = 0


def generate_token(state: OperatorState, body: Body, client: ApiClient) -> Answer:
    """Generate tokens for a user of the caller's site."""
    identity = _identity_in(body)
    if state.scope is IdentityScope.EUID and "tcf_consent_string" in body and not _permits(body["tcf_consent_string"]):
        return _INSUFFICIENT_CONSENT
    return issue_tokens(state, identity, client.site_id)


def issue_tokens(state: OperatorState, identity: Identity, site_id: int, privacy_bits: int = 0) -> Answer:
    """Make the first tokens of a user, unless the user has opted out."""
    if identity in state.opted_out_since_ms:
        return _OPTOUT
    return success(_identity_tokens(state, identity, site_id, privacy_bits, established_ms=state.now_ms()))


def refresh_token(state: OperatorState, text: bytes, *, is_authenticated: bool) -> tuple[Answer, bytes]:
    """Refresh tokens. Returns the answer and the key to encrypt it with.

    Raises:
        RequestRefusedError: 400 with the status `client_error` for text of the right length that does not decrypt.
            Otherwise, for an authenticated caller, `invalid_token` or `expired_token`, and `error` for others.
    """
    try:
        token = open_refresh_token(state.refresh_token_key, text)
    except EnvelopeError as error:
        if len(text) == REFRESH_TOKEN_CHARACTERS:
            raise client_error(str(error)) from None
        raise _refuse_refresh_token("invalid", is_authenticated=is_authenticated) from None
    if token.expires_ms < state.now_ms():
        raise _refuse_refresh_token("expired", is_authenticated=is_authenticated)
    if token.identity in state.opted_out_since_ms or token.identity in state.optout_on_refresh:
        return _OPTOUT, token.response_key
    tokens = _identity_tokens(
        state, token.identity, token.site_id, token.privacy_bits, established_ms=token.established_ms
    )
    return success(tokens), token.response_key


def _refuse_refresh_token(problem: str, *, is_authenticated: bool) -> RequestRefusedError:
    if not is_authenticated:
        return RequestRefusedError(400, "error", "Error refreshing token")
    return RequestRefusedError(400, f"{problem}_token", f"{problem.capitalize()} Token presented")


def validate_token(state: OperatorState, body: Body, client: ApiClient) -> Answer:
    """Whether an advertising token of the caller's site was generated for a user, expired or not.

    Raises:
        RequestRefusedError: 400 for a token of another site, and for one that cannot be decrypted.
    """
    identity = _identity_in(body)
    # Sharing keys, because domains are not checked here; all of them, whatever the caller may use.
    keys = parse_key_response(orjson.dumps(every_key(state)), KeyPurpose.SHARING)
    keys = replace(keys, max_lifetime_ms=None, clock_skew_ms=_NO_LIMIT_MS)
    token = body.get("token")
    _, raw_uid, _, _ = decrypt(token, None, keys, _BEFORE_ANY_EXPIRY_MS)
    details = read_details(token, keys)
    if raw_uid is None or details is None:
        raise client_error("Invalid token")
    if details.site_id != client.site_id:
        raise client_error("Unauthorised to validate token")
    return success(raw_uid == state.salts.raw_uid(identity))


def _identity_in(body: Body) -> Identity:
    present = [name for name in IDENTIFIER_FIELDS if body.get(name) is not None]
    if len(present) != 1:
        raise client_error(ONE_IDENTIFIER_REQUIRED)
    try:
        return parse_identifier(present[0], body[present[0]])
    except IdentityError:
        raise client_error("Invalid Identifier") from None


def _permits(consent_string: object) -> bool:
    try:
        return read_consent(consent_string if isinstance(consent_string, str) else "").is_sufficient()
    except ConsentStringError:
        raise client_error("User consent is invalid") from None


def _identity_tokens(
    state: OperatorState, identity: Identity, site_id: int, privacy_bits: int, *, established_ms: int
) -> dict[str, str | int]:
    now_ms = state.now_ms()
    lifetimes = state.lifetimes
    content = state.token_content(
        identity,
        site_id=site_id,
        lifetime_s=lifetimes.token_s,
        generated_ms=now_ms,
        established_ms=established_ms,
        privacy_bits=privacy_bits,
    )
    response_key = os.urandom(RESPONSE_KEY_LENGTH)
    refresh_expires_ms = now_ms + lifetimes.refresh_token_s * MS_PER_S
    refresh = RefreshToken(identity, site_id, privacy_bits, established_ms, refresh_expires_ms, response_key)
    return {
        "advertising_token": state.mint(content, state.token_version),
        "refresh_token": seal_refresh_token(state.refresh_token_key, state.scope, refresh),
        "identity_expires": content.expires_ms,
        "refresh_expires": refresh_expires_ms,
        "refresh_from": now_ms + lifetimes.refresh_after_s * MS_PER_S,
        "refresh_response_key": pybase64.b64encode_as_string(response_key),
    }
