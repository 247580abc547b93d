"""The tokens that a publisher keeps for a user: what an operator answers, as JSON for a session, and when to refresh.

All times are Unix milliseconds.
"""

from dataclasses import dataclass, field
from typing import Self

import msgspec

from bidstream_svc.operator.messages import decode_answer


class _Fields(msgspec.Struct):
    advertising_token: str
    refresh_token: str | None = None
    refresh_response_key: str | None = None
    identity_expires: int | None = None
    refresh_expires: int | None = None
    refresh_from: int | None = None


@dataclass(frozen=True, slots=True)
class IdentityTokens:
    """An advertising token and what it takes to refresh it; a repr shows the times only.

    Attributes:
        advertising_token: for bid requests.
        refresh_token: for the operator; None if the operator gave none.
        refresh_response_key: base64 of the key that opens the answer to a refresh, or None.
        identity_expires_ms: when the advertising token ends, or None if the operator did not say.
        refresh_expires_ms: when the refresh token ends, or None.
        refresh_from_ms: from when on a refresh is due, or None.
        json: the operator's JSON object with these and whatever else it said, to keep in a session.
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
        """Read the object that `json` held.

        Raises:
            OperatorAnswerError: not JSON, no `advertising_token`, or a field of another type.
        """
        fields = decode_answer(json, _Fields)
        return cls(
            advertising_token=fields.advertising_token,
            refresh_token=fields.refresh_token,
            refresh_response_key=fields.refresh_response_key,
            identity_expires_ms=fields.identity_expires,
            refresh_expires_ms=fields.refresh_expires,
            refresh_from_ms=fields.refresh_from,
            json=json if isinstance(json, str) else json.decode(),
        )

    def is_refreshable(self, now_ms: int) -> bool:
        """Whether the refresh token is there and has not expired; if not, the user's session must forget all this."""
        return bool(self.refresh_token) and self.refresh_expires_ms is not None and now_ms <= self.refresh_expires_ms

    def is_due_for_refresh(self, now_ms: int) -> bool:
        """Whether it is time to refresh: `refresh_from_ms` is past or unknown, or the identity has expired."""
        return self.refresh_from_ms is None or now_ms > self.refresh_from_ms or self.has_identity_expired(now_ms)

    def has_identity_expired(self, now_ms: int) -> bool:
        """Whether the advertising token has expired; without a time given, it counts as expired."""
        return self.identity_expires_ms is None or now_ms > self.identity_expires_ms
