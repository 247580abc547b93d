"""A client for publishers: tokens for users, and fresh ones for old ones."""

from collections.abc import Callable
from datetime import datetime
from typing import Any, Self, Unpack

import msgspec

from bidstream_svc.clock import wall_clock_ms
from bidstream_svc.core.errors import OperatorAnswerError
from bidstream_svc.core.identity import Identity, IdentityType
from bidstream_svc.operator import IdentityTokens as AsyncIdentityTokens
from bidstream_svc.operator import PublisherClient
from bidstream_svc.sdk.client import ClientOptions, OperatorClient
from bidstream_svc.sdk.times import to_unix_ms


class TokenGenerateInput:
    """Whom to generate a token for. Methods without `from_` change the object and return it, to be chained.

    Addresses and numbers are hashed before they are sent, unless `do_not_hash`; a malformed one raises IdentityError,
    which is a ValueError, in `generate_token`. A repr shows none of them.

    Attributes:
        tcf_consent_string: to send along, or None.
        optout_check: whether to ask for no token if the user has opted out.
    """

    def __init__(
        self, identity_type: IdentityType, email_or_phone: str, *, need_hash: bool, already_hashed: bool
    ) -> None:
        self._identity_type = identity_type
        self._email_or_phone = email_or_phone
        self._need_hash = need_hash
        self._already_hashed = already_hashed
        self.tcf_consent_string: str | None = None
        self.optout_check = False

    def __repr__(self) -> str:
        """Whether e-mail or phone, no more."""
        return f"TokenGenerateInput({self._identity_type.name})"

    @classmethod
    def from_email(cls, email: str) -> Self:
        """For the owner of an e-mail address, in any spelling."""
        return cls(IdentityType.EMAIL, email, need_hash=True, already_hashed=False)

    @classmethod
    def from_phone(cls, phone: str) -> Self:
        """For the owner of a phone number in E.164."""
        return cls(IdentityType.PHONE, phone, need_hash=True, already_hashed=False)

    @classmethod
    def from_hashed_email(cls, hashed_email: str) -> Self:
        """For the owner of an address whose normalised spelling has this SHA-256 in base64."""
        return cls(IdentityType.EMAIL, hashed_email, need_hash=False, already_hashed=True)

    @classmethod
    def from_hashed_phone(cls, hashed_phone: str) -> Self:
        """For the owner of a number in E.164 that has this SHA-256 in base64."""
        return cls(IdentityType.PHONE, hashed_phone, need_hash=False, already_hashed=True)

    def with_transparency_and_consent_string(self, tc_string: str) -> Self:
        """Send the user's TCF consent string along."""
        self.tcf_consent_string = tc_string
        return self

    def do_not_hash(self) -> Self:
        """Let the operator hash the address or number, which it sees then."""
        self._need_hash = False
        return self

    def do_not_generate_tokens_for_opted_out(self) -> Self:
        """Ask for no token if the user has opted out. Apply it always."""
        self.optout_check = True
        return self

    def identity(self) -> Identity:
        """What the operator is told about the user. Raises IdentityError if that is malformed."""
        of_email, of_phone = self._readers()
        read = of_email if self._identity_type is IdentityType.EMAIL else of_phone
        return read(self._email_or_phone)

    def _readers(self) -> tuple[Callable[[str], Identity], Callable[[str], Identity]]:
        if self._already_hashed:
            return Identity.from_email_hash, Identity.from_phone_hash
        if self._need_hash:
            return Identity.from_email, Identity.from_phone
        return Identity.from_unhashed_email, Identity.from_unhashed_phone


class IdentityTokens:
    """A user's tokens, to keep in the session. All times are Unix milliseconds; a repr shows them only.

    Attributes:
        tokens: the same for the asynchronous clients.
    """

    def __init__(self, tokens: AsyncIdentityTokens) -> None:
        self.tokens = tokens

    def __repr__(self) -> str:
        """The times only."""
        return repr(self.tokens)

    @classmethod
    def from_json_string(cls, json_string: str | None) -> Self | None:
        """Read what `get_json_string` gave; None for None, or for text that is no such thing."""
        if json_string is None:
            return None
        try:
            return cls(AsyncIdentityTokens.from_json(json_string))
        except OperatorAnswerError:
            return None

    @classmethod
    def from_json(cls, json_obj: dict[str, Any]) -> Self:
        """Read the object that is in the text of `get_json_string`.

        Raises:
            OperatorAnswerError: it is no such thing.
        """
        return cls(AsyncIdentityTokens.from_json(msgspec.json.encode(json_obj)))

    def is_refreshable(self, timestamp: datetime | None = None) -> bool:
        """Whether the refresh token is still good now (or at `timestamp`); if not, forget this identity."""
        return self.tokens.is_refreshable(_ms(timestamp))

    def is_due_for_refresh(self, timestamp: datetime | None = None) -> bool:
        """Whether it is time to refresh now (or at `timestamp`)."""
        return self.tokens.is_due_for_refresh(_ms(timestamp))

    def has_identity_expired(self, timestamp: datetime | None = None) -> bool:
        """Whether the advertising token is over now (or at `timestamp`)."""
        return self.tokens.has_identity_expired(_ms(timestamp))

    def get_advertising_token(self) -> str:
        """The token for bid requests."""
        return self.tokens.advertising_token

    def get_refresh_token(self) -> str | None:
        """The token for the operator."""
        return self.tokens.refresh_token

    def get_refresh_response_key(self) -> str | None:
        """Base64 of the key that opens the answer to a refresh."""
        return self.tokens.refresh_response_key

    def get_identity_expires(self) -> int | None:
        """When the advertising token ends, Unix ms."""
        return self.tokens.identity_expires_ms

    def get_refresh_expires(self) -> int | None:
        """When the refresh token ends, Unix ms."""
        return self.tokens.refresh_expires_ms

    def get_refresh_from(self) -> int | None:
        """From when on a refresh is due, Unix ms."""
        return self.tokens.refresh_from_ms

    def get_json_string(self) -> str:
        """The operator's JSON object, for the session or the client side."""
        return self.tokens.json


class _TokenResponse:
    def __init__(self, tokens: AsyncIdentityTokens | None) -> None:
        self._identity = None if tokens is None else IdentityTokens(tokens)

    def __repr__(self) -> str:
        """The status."""
        return f"{type(self).__name__}({self.status})"

    @property
    def status(self) -> str:
        """`success` or `optout`."""
        return "optout" if self._identity is None else "success"

    def is_success(self) -> bool:
        """Whether there are tokens."""
        return self._identity is not None

    def is_optout(self) -> bool:
        """Whether there are none because the user has opted out."""
        return self._identity is None

    def get_identity(self) -> IdentityTokens | None:
        """The tokens, or None if the user has opted out."""
        return self._identity

    def get_identity_json_string(self) -> str | None:
        """The tokens as JSON, to keep in the session; None if the user has opted out: remove the old ones."""
        return None if self._identity is None else self._identity.get_json_string()


class TokenGenerateResponse(_TokenResponse):
    """The answer to `generate_token`."""


class TokenRefreshResponse(_TokenResponse):
    """The answer to `refresh_token`."""


class Uid2PublisherClient(OperatorClient):
    """Generates and refreshes tokens; see OperatorClient for what it takes.

    Both methods raise OperatorError or EnvelopeError if the call fails, as drawn in `bidstream_svc.core.errors`.
    """

    def __init__(self, base_url: str, auth_key: str, secret_key: str, **options: Unpack[ClientOptions]) -> None:
        super().__init__(base_url, auth_key, secret_key, **options)
        self._client = PublisherClient(self._transport)

    def generate_token(self, token_generate_input: TokenGenerateInput) -> TokenGenerateResponse:
        """Generate tokens for a user. Raises IdentityError, a ValueError, if the address or number is malformed."""
        wanted = token_generate_input
        generating = self._client.generate_token(
            wanted.identity(),
            tcf_consent_string=wanted.tcf_consent_string,
            optout_check=wanted.optout_check,
        )
        return TokenGenerateResponse(self._connection.run(generating))

    def refresh_token(self, current_identity: IdentityTokens) -> TokenRefreshResponse:
        """Exchange tokens for fresh ones."""
        return TokenRefreshResponse(self._connection.run(self._client.refresh_token(current_identity.tokens)))


def _ms(timestamp: datetime | None) -> int:
    return wall_clock_ms() if timestamp is None else to_unix_ms(timestamp)
