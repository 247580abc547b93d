"""What a decrypted token says beside its uid, read when it is asked for: most callers ask for the uid only."""

from datetime import datetime
from typing import NamedTuple, Self

from bidstream_svc.core.identity import IdentityScope
from bidstream_svc.core.keys import KeySnapshot
from bidstream_svc.core.status import DecryptionStatus
from bidstream_svc.core.token_details import TokenDetails, read_details
from bidstream_svc.sdk.enums import AdvertisingTokenVersion, IdentityType
from bidstream_svc.sdk.times import from_unix_ms

# A token with one of these was not read, or nothing in it can be trusted.
_UNREAD = {
    DecryptionStatus.NOT_INITIALIZED,
    DecryptionStatus.KEYS_NOT_SYNCED,
    DecryptionStatus.INVALID_PAYLOAD,
    DecryptionStatus.VERSION_NOT_SUPPORTED,
}
_UNKNOWN_SITE = -1  # operators no longer send the site of a key
_VERSIONS = {
    2: AdvertisingTokenVersion.ADVERTISING_TOKEN_V2,
    3: AdvertisingTokenVersion.ADVERTISING_TOKEN_V3,
    4: AdvertisingTokenVersion.ADVERTISING_TOKEN_V4,
}


class TokenFields(NamedTuple):
    """See DecryptedToken, which has these as properties."""

    site_id: int | None = None
    site_key_site_id: int | None = None
    identity_scope: IdentityScope | None = None
    identity_type: IdentityType | None = None
    advertising_token_version: AdvertisingTokenVersion | None = None
    is_client_side_generated: bool | None = None
    expiry: datetime | None = None


class TokenSource:
    """A token and the keys that it was decrypted with, until its fields are read. Thread-safe."""

    __slots__ = ("_fields", "_keys", "_token")

    def __init__(self, token: object, keys: KeySnapshot | None) -> None:
        self._token = token
        self._keys = keys
        self._fields: TokenFields | None = None

    @classmethod
    def from_fields(cls, fields: TokenFields) -> Self:
        """Make a source that has been read."""
        source = cls(None, None)
        source._fields = fields
        return source

    def read(self, status: DecryptionStatus) -> TokenFields:
        """Return the fields of the token, whose decryption had this status."""
        if self._fields is None:  # several threads may read them at the same time, with the same result
            self._fields = _read_fields(status, self._token, self._keys)
        return self._fields


def _read_fields(status: DecryptionStatus, token: object, keys: KeySnapshot | None) -> TokenFields:
    details = None if status in _UNREAD else read_details(token, keys)
    if details is None or keys is None:
        return TokenFields()
    fields = TokenFields(
        identity_scope=keys.scope,
        identity_type=None if details.identity_type is None else IdentityType(details.identity_type),
        advertising_token_version=_VERSIONS[details.version],
        expiry=from_unix_ms(details.expires_ms),
    )
    # The published SDK does not open the site layer of an expired token.
    return fields if status is DecryptionStatus.EXPIRED_TOKEN else _add_site_layer(fields, details, keys)


def _add_site_layer(fields: TokenFields, details: TokenDetails, keys: KeySnapshot) -> TokenFields:
    if details.site_id is None:
        return fields
    site_key_site_id = keys.keys[details.site_key_id].site_id
    return fields._replace(
        site_id=details.site_id,
        site_key_site_id=_UNKNOWN_SITE if site_key_site_id is None else site_key_site_id,
        is_client_side_generated=details.is_client_side_generated,
    )
