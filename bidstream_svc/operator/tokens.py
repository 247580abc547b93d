"""The tokens that a publisher stores for a user. All times are Unix milliseconds."""

from dataclasses import dataclass, field
from typing import Annotated, Self

import msgspec

from bidstream_svc.core.lenient import Integer
from bidstream_svc.operator.messages import decode_answer


class _Fields(msgspec.Struct):
    advertising_token: Annotated[str, msgspec.Meta(min_length=1)]
    refresh_token: str | None = None
    refresh_response_key: str | None = None
    identity_expires: Integer | None = None
    refresh_expires: Integer | None = None
    refresh_from: Integer | None = None


@dataclass(frozen=True, slots=True)
class IdentityTokens:
    """An advertising token and its refresh token. The repr shows the times only.

    Attributes:
        advertising_token: for bid requests.
        refresh_token: for the operator, or None if it sent none.
        refresh_response_key: base64 of the key that decrypts the answer to a refresh, or None.
        identity_expires_ms: when the advertising token expires, or None if unknown.
        refresh_expires_ms: when the refresh token expires, or None if unknown.
        refresh_from_ms: when a refresh becomes due, or None if unknown.
        json: the operator's complete JSON object, for a session.
    """

    advertising_token: str = field(repr=False)
    refresh_token: str | None = field(repr=False)
    refresh_response_key: str | None = field(repr=False)
    identity_expires_ms: int | None
    refresh_expires_ms: int | None
    refresh_from_ms: int | None
    json: str = field(repr=False)

    @classmethod
    def from_json(cls, json: str | bytes) -> Self:
        """Parse the JSON object that is in the attribute `json`.

        Raises:
            OperatorAnswerError: not JSON, `advertising_token` is missing, or a field has the wrong type.
        """
        fields = decode_answer(json, _Fields)
        return cls(
            advertising_token=fields.advertising_token,
            refresh_token=fields.refresh_token,
            refresh_response_key=fields.refresh_response_key,
            identity_expires_ms=fields.identity_expires,
            refresh_expires_ms=fields.refresh_expires,
            refresh_from_ms=fields.refresh_from,
            json=json if isinstance(json, str) else json.decode(errors="replace"),  # a field that is not read here
        )

    def is_refreshable(self, now_ms: int) -> bool:
        """Whether there is a refresh token that has not expired. If not, delete the tokens."""
        return bool(self.refresh_token) and self.refresh_expires_ms is not None and now_ms <= self.refresh_expires_ms

    def is_due_for_refresh(self, now_ms: int) -> bool:
        """Whether a refresh is due: `refresh_from_ms` is past or unknown, or the advertising token has expired."""
        return self.refresh_from_ms is None or now_ms > self.refresh_from_ms or self.has_identity_expired(now_ms)

    def has_identity_expired(self, now_ms: int) -> bool:
        """Whether the advertising token has expired; True if its expiry is unknown."""
        return self.identity_expires_ms is None or now_ms > self.identity_expires_ms
