"""Calls for publishers: generating, refreshing and validating tokens."""

import msgspec

from bidstream_svc.core.errors import InsufficientUserConsentError, OperatorAnswerError
from bidstream_svc.core.identity import Identity
from bidstream_svc.core.lenient import decode_base64
from bidstream_svc.operator.messages import Endpoint, decode_answer, quote
from bidstream_svc.operator.tokens import IdentityTokens
from bidstream_svc.operator.transport import OperatorTransport

_GENERATE = Endpoint("/v2/token/generate")
# An operator may invalidate a refresh token at its first use. If that answer were lost, a retry would be refused, and
# the user's tokens would be lost, too. So it is retried only if it was certainly not processed: no connection, or 429.
_REFRESH = Endpoint("/v2/token/refresh", is_retryable=False)
_VALIDATE = Endpoint("/v2/token/validate")


class _TokenAnswer(msgspec.Struct):
    status: str
    body: msgspec.Raw = msgspec.Raw(b"null")


class _ValidateAnswer(msgspec.Struct):
    body: bool


class PublisherClient:
    """Client for publishers. Every method raises OperatorError or EnvelopeError if the call fails.

    Args:
        transport: entered by the caller; clients may share it.
    """

    def __init__(self, transport: OperatorTransport) -> None:
        self._transport = transport

    async def generate_token(
        self, identity: Identity, *, tcf_consent_string: str | None = None, optout_check: bool = True
    ) -> IdentityTokens | None:
        """Generate tokens for a user. Returns None if the user has opted out.

        Args:
            identity: the user.
            tcf_consent_string: the user's TCF consent string, which EUID operators check if it is sent.
            optout_check: request no tokens for users who have opted out; required by policy.

        Raises:
            InsufficientUserConsentError: the consent string does not permit a token.
        """
        payload: dict[str, object] = {identity.kind.value: identity.value}
        if tcf_consent_string is not None:
            payload["tcf_consent_string"] = tcf_consent_string
        if optout_check:
            payload["optout_check"] = 1
        answer = await self._transport.call(_GENERATE, msgspec.json.encode(payload))
        return _read_tokens(answer.json)

    async def refresh_token(self, tokens: IdentityTokens) -> IdentityTokens | None:
        """Refresh tokens. Returns None if the user has opted out.

        Raises:
            OperatorAnswerError: `tokens` has no refresh token, or its response key is not base64.
            OperatorHttpError: the `api_status` of a refused refresh token is `expired_token` or `invalid_token`.
        """
        if not tokens.refresh_token:
            raise OperatorAnswerError("tokens have no refresh token")
        try:
            secret = decode_base64(tokens.refresh_response_key or "")
        except ValueError:
            raise OperatorAnswerError("refresh_response_key is not base64") from None
        answer = await self._transport.call_plain(_REFRESH, tokens.refresh_token.encode(), secret)
        return _read_tokens(answer.json)

    async def validate_token(self, advertising_token: str, identity: Identity) -> bool:
        """Whether an advertising token of the caller's site was generated for an identity, expired or not.

        Operators before 2025-11-28 return True for validate@example.com only.

        Raises:
            OperatorHttpError: 400 for a token of another site and for one that cannot be decrypted.
        """
        payload = {"token": advertising_token, identity.kind.value: identity.value}
        answer = await self._transport.call(_VALIDATE, msgspec.json.encode(payload))
        return decode_answer(answer.json, _ValidateAnswer).body


def _read_tokens(json: bytes) -> IdentityTokens | None:
    answer = decode_answer(json, _TokenAnswer)
    if answer.status == "optout":
        return None
    if answer.status == InsufficientUserConsentError.api_status:
        raise InsufficientUserConsentError
    if answer.status != "success":
        raise OperatorAnswerError(f"operator's answer has an unknown status ({quote(answer.status)})")
    return IdentityTokens.from_json(bytes(answer.body))
