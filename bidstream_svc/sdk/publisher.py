"""The client for publishers: generating and refreshing tokens."""

from collections.abc import Callable
from datetime import datetime
from typing import Any, Self, Unpack

import msgspec

from bidstream_svc.clock import wall_clock_ms
from bidstream_svc.core.errors import OperatorAnswerError
from bidstream_svc.core.identity import Identity
from bidstream_svc.operator import IdentityTokens as AsyncIdentityTokens
from bidstream_svc.operator import PublisherClient
from bidstream_svc.sdk.client import ClientOptions, OperatorClient
from bidstream_svc.sdk.enums import IdentityType
from bidstream_svc.sdk.times import to_unix_ms


class TokenGenerateInput:
    """The user to generate a token for. Methods without `from_` modify the object and return it, for chaining.

    Addresses and numbers are hashed before they are sent, unless `do_not_hash` is called. A malformed one raises
    IdentityError, a ValueError, in `generate_token`. The repr shows neither.

    Attributes:
        tcf_consent_string: the user's TCF consent string, or None.
        optout_check: whether to request no token if the user has opted out.
    """

    def __init__(
        self,
        identity_type: IdentityType,
        email_or_phone: str,
        need_hash: bool,  # noqa: FBT001 - the published signature
        already_hashed: bool,  # noqa: FBT001
    ) -> None:
        self._identity_type = identity_type
        self._email_or_phone = email_or_phone
        self._need_hash = need_hash
        self._already_hashed = already_hashed
        self.tcf_consent_string: str | None = None
        self.optout_check = False

    def __repr__(self) -> str:
        """Show the identity type only."""
        return f"TokenGenerateInput({self._identity_type.name})"

    @classmethod
    def from_email(cls, email: str) -> Self:
        """Identify the user by an e-mail address, which is normalised."""
        return cls(IdentityType.Email, email, True, False)

    @classmethod
    def from_phone(cls, phone: str) -> Self:
        """Identify the user by a phone number in E.164 format."""
        return cls(IdentityType.Phone, phone, True, False)

    @classmethod
    def from_hashed_email(cls, hashed_email: str) -> Self:
        """Identify the user by the base64 of the SHA-256 of a normalised address."""
        return cls(IdentityType.Email, hashed_email, False, True)

    @classmethod
    def from_hashed_phone(cls, hashed_phone: str) -> Self:
        """Identify the user by the base64 of the SHA-256 of a number in E.164 format."""
        return cls(IdentityType.Phone, hashed_phone, False, True)

    def with_transparency_and_consent_string(self, tc_string: str) -> Self:
        """Send the user's TCF consent string."""
        self.tcf_consent_string = tc_string
        return self

    def do_not_hash(self) -> Self:
        """Send the address or number itself, for the operator to hash."""
        self._need_hash = False
        return self

    def do_not_generate_tokens_for_opted_out(self) -> Self:
        """Request no token if the user has opted out. Policy requires this."""
        self.optout_check = True
        return self

    def identity(self) -> Identity:
        """Return the identity to send. Raises IdentityError if it is malformed."""
        from_email, from_phone = self._parsers()
        parse = from_email if self._identity_type == IdentityType.Email else from_phone
        return parse(self._email_or_phone)

    def _parsers(self) -> tuple[Callable[[str], Identity], Callable[[str], Identity]]:
        if self._already_hashed:
            return Identity.from_email_hash, Identity.from_phone_hash
        if self._need_hash:
            return Identity.from_email, Identity.from_phone
        return Identity.from_unhashed_email, Identity.from_unhashed_phone


class IdentityTokens:
    """A user's tokens, to store in the session. Times are Unix ms; the repr shows the times only.

    Attributes:
        tokens: the asynchronous clients' version of this object.
    """

    def __init__(self, tokens: AsyncIdentityTokens) -> None:
        self.tokens = tokens

    def __repr__(self) -> str:
        """Show the times only."""
        return repr(self.tokens)

    @classmethod
    def from_json_string(cls, json_string: str | None) -> Self | None:
        """Parse the result of `get_json_string`. Returns None for None and for invalid text."""
        if json_string is None:
            return None
        try:
            return cls(AsyncIdentityTokens.from_json(json_string))
        except OperatorAnswerError:
            return None

    @classmethod
    def from_json(cls, json_obj: dict[str, Any]) -> Self:
        """Make tokens from the decoded JSON of `get_json_string`.

        Raises:
            OperatorAnswerError: `advertising_token` is missing, or a field has the wrong type.
        """
        return cls(AsyncIdentityTokens.from_json(msgspec.json.encode(json_obj)))

    def is_refreshable(self, timestamp: datetime | None = None) -> bool:
        """Whether the refresh token is valid now (or at `timestamp`). If not, delete the tokens."""
        return self.tokens.is_refreshable(_to_ms(timestamp))

    def is_due_for_refresh(self, timestamp: datetime | None = None) -> bool:
        """Whether a refresh is due now (or at `timestamp`)."""
        return self.tokens.is_due_for_refresh(_to_ms(timestamp))

    def has_identity_expired(self, timestamp: datetime | None = None) -> bool:
        """Whether the advertising token has expired now (or at `timestamp`)."""
        return self.tokens.has_identity_expired(_to_ms(timestamp))

    def get_advertising_token(self) -> str:
        """Return the token for bid requests."""
        return self.tokens.advertising_token

    def get_refresh_token(self) -> str | None:
        """Return the refresh token, or None if the operator sent none."""
        return self.tokens.refresh_token

    def get_refresh_response_key(self) -> str | None:
        """Return the base64 of the key that decrypts the answer to a refresh, or None."""
        return self.tokens.refresh_response_key

    def get_identity_expires(self) -> int | None:
        """Return the expiry of the advertising token in Unix ms, or None."""
        return self.tokens.identity_expires_ms

    def get_refresh_expires(self) -> int | None:
        """Return the expiry of the refresh token in Unix ms, or None."""
        return self.tokens.refresh_expires_ms

    def get_refresh_from(self) -> int | None:
        """Return the time from which a refresh is due in Unix ms, or None."""
        return self.tokens.refresh_from_ms

    def get_json_string(self) -> str:
        """Return the operator's JSON object, for the session or the client side."""
        return self.tokens.json


class _TokenResponse:
    """Outcome of a call that gives tokens."""

    def __init__(self, tokens: AsyncIdentityTokens | None) -> None:
        self._identity = None if tokens is None else IdentityTokens(tokens)

    def __repr__(self) -> str:
        """Show the status only."""
        return f"{type(self).__name__}({self.status})"

    @property
    def status(self) -> str:
        """`success` or `optout`."""
        return "optout" if self._identity is None else "success"

    def is_success(self) -> bool:
        """Whether there are tokens."""
        return self._identity is not None

    def is_optout(self) -> bool:
        """Whether the user has opted out, so that there are no tokens."""
        return self._identity is None

    def get_identity(self) -> IdentityTokens | None:
        """Return the tokens, or None if the user has opted out."""
        return self._identity

    def get_identity_json_string(self) -> str | None:
        """Return the tokens as JSON for the session, or None if the user has opted out: then delete the old ones."""
        return None if self._identity is None else self._identity.get_json_string()


class TokenGenerateResponse(_TokenResponse):
    """Outcome of `generate_token`."""

    @property
    def tokens(self) -> IdentityTokens | None:
        """The same as `get_identity`."""
        return self._identity


class TokenRefreshResponse(_TokenResponse):
    """Outcome of `refresh_token`."""

    @property
    def refreshed_identity(self) -> IdentityTokens | None:
        """The same as `get_identity`."""
        return self._identity


class Uid2PublisherClient(OperatorClient):
    """Client for publishers; see OperatorClient for the arguments.

    Both methods raise OperatorError or EnvelopeError if the call fails.
    """

    def __init__(self, base_url: str, auth_key: str, secret_key: str, **options: Unpack[ClientOptions]) -> None:
        super().__init__(base_url, auth_key, secret_key, **options)
        self._client = PublisherClient(self._transport)

    def generate_token(self, token_generate_input: TokenGenerateInput) -> TokenGenerateResponse:
        """Generate tokens for a user.

        Raises:
            IdentityError: a ValueError: the address or number is malformed.
            InsufficientUserConsentError: a ValueError: the TCF consent string does not permit a token.
        """
        call = self._client.generate_token(
            token_generate_input.identity(),
            tcf_consent_string=token_generate_input.tcf_consent_string,
            optout_check=token_generate_input.optout_check,
        )
        return TokenGenerateResponse(self._connection.run(call))

    def refresh_token(self, current_identity: IdentityTokens) -> TokenRefreshResponse:
        """Refresh a user's tokens.

        Raises:
            OperatorHttpError: the `api_status` of a refused refresh token is `expired_token` or `invalid_token`.
        """
        return TokenRefreshResponse(self._connection.run(self._client.refresh_token(current_identity.tokens)))


def _to_ms(timestamp: datetime | None) -> int:
    return wall_clock_ms() if timestamp is None else to_unix_ms(timestamp)
