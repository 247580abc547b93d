"""Clients for bidders and sharers."""

from dataclasses import dataclass, field
from datetime import datetime
from pathlib import Path
from typing import Generic, TypeVar, Unpack

from bidstream_svc.clock import wall_clock_ms
from bidstream_svc.core.decrypt import CheckOptOut, decrypt
from bidstream_svc.core.errors import BidstreamError
from bidstream_svc.core.identity import IdentityScope
from bidstream_svc.core.keys import KeySnapshot
from bidstream_svc.core.openrtb import BidRequestIds
from bidstream_svc.core.sharing import EncryptionStatus
from bidstream_svc.core.status import DecryptionStatus
from bidstream_svc.operator import BidstreamClient as AsyncBidstreamClient
from bidstream_svc.operator import SharingClient as AsyncSharingClient
from bidstream_svc.sdk.client import ClientOptions, OperatorClient
from bidstream_svc.sdk.enums import AdvertisingTokenVersion, IdentityType
from bidstream_svc.sdk.times import from_unix_ms
from bidstream_svc.sdk.token_fields import TokenFields, TokenSource


@dataclass(frozen=True, slots=True)
class DecryptedToken:
    """Outcome of a decryption.

    The properties below `success` are None if the token could not be read that far. They are read at their first use.

    Attributes:
        status: one of the eleven statuses.
        uid: the raw uid on SUCCESS, else None.
        established: on SUCCESS, when the user's id was first established on the site that the token was issued for
            (UTC); else None.
    """

    status: DecryptionStatus
    uid: str | None = field(repr=False)
    established: datetime | None
    _source: TokenSource = field(default=TokenSource(None, None), repr=False, compare=False)

    @property
    def success(self) -> bool:
        """Whether the status is SUCCESS."""
        return self.status is DecryptionStatus.SUCCESS

    @property
    def uid2(self) -> str | None:
        """The same as `uid`."""
        return self.uid

    @property
    def site_id(self) -> int | None:
        """The site that the token was issued for."""
        return self._fields.site_id

    @property
    def site_key_site_id(self) -> int | None:
        """The site of the key that the token was encrypted with; -1 if the operator does not tell the site of a key."""
        return self._fields.site_key_site_id

    @property
    def identity_scope(self) -> IdentityScope | None:
        """The programme."""
        return self._fields.identity_scope

    @property
    def identity_type(self) -> IdentityType | None:
        """What the raw uid was derived from; tokens of version 2 do not say so."""
        return self._fields.identity_type

    @property
    def advertising_token_version(self) -> AdvertisingTokenVersion | None:
        """The version of the token."""
        return self._fields.advertising_token_version

    @property
    def is_client_side_generated(self) -> bool | None:
        """Whether the token was generated on the client side."""
        return self._fields.is_client_side_generated

    @property
    def expiry(self) -> datetime | None:
        """When the token expires (UTC)."""
        return self._fields.expiry

    @property
    def _fields(self) -> TokenFields:
        return self._source.read(self.status)

    def __reduce__(self) -> tuple[object, ...]:
        """Pickle the outcome with what the token says, and without the token and the keys."""
        return DecryptedToken, (self.status, self.uid, self.established, TokenSource.from_fields(self._fields))


@dataclass(frozen=True, slots=True)
class EncryptionDataResponse:
    """Outcome of an encryption.

    Attributes:
        status: SUCCESS or the reason of the failure.
        encrypted_data: the token on SUCCESS, else None.
    """

    status: EncryptionStatus
    encrypted_data: str | None = field(repr=False)

    @property
    def success(self) -> bool:
        """Whether the status is SUCCESS."""
        return self.status is EncryptionStatus.SUCCESS


@dataclass(frozen=True, slots=True)
class RefreshResponse:
    """Outcome of a key refresh.

    Attributes:
        success: whether the keys were replaced; if not, the previous keys stay in use.
        reason: message of the failure, or None on success.
        keys: the new keys, or None on failure.
    """

    success: bool
    reason: str | None
    keys: KeySnapshot | None


_Client = TypeVar("_Client", bound=AsyncBidstreamClient | AsyncSharingClient)


class _KeyedClient(OperatorClient, Generic[_Client]):
    _make_client: type[_Client]

    def __init__(
        self,
        base_url: str,
        auth_key: str,
        secret_key: str,
        *,
        optouts: Path | str | None = None,
        **options: Unpack[ClientOptions],
    ) -> None:
        super().__init__(base_url, auth_key, secret_key, **options)
        self._client: _Client = self._make_client(self._transport, optouts=optouts)

    def refresh(self) -> RefreshResponse:
        """Fetch the latest keys. A failed call is returned, not raised."""
        try:
            return RefreshResponse(success=True, reason=None, keys=self._connection.run(self._client.refresh()))
        except BidstreamError as error:
            return RefreshResponse(success=False, reason=str(error), keys=None)


class BidstreamClient(_KeyedClient[AsyncBidstreamClient]):
    """Client for bidders. Call `refresh()` at start and then hourly.

    With `optouts`, the directory of an opt-out store, raw uids in it are not answered. An OptOutStoreError is raised if
    it cannot be opened. The published SDK has nothing like it.

    Example:
        client = BidstreamClient(EUID_BASE_URL, EUID_API_KEY, EUID_SECRET_KEY)
        client.refresh()
        decrypted = client.decrypt_token_into_raw_uid(uid_token, domain)
    """

    _make_client = AsyncBidstreamClient

    def decrypt_token_into_raw_uid(self, token: str, domain_name: str | None) -> DecryptedToken:
        """Decrypt a token. No token raises, and no call is made.

        Args:
            token: the advertising token.
            domain_name: domain of the site or bundle id of the app in the bid request, or None.
        """
        return _decrypt(token, domain_name, self._client.keys, self._client.check_optout)

    def decrypt_bid_request(self, body: bytes) -> BidRequestIds:
        """Decrypt all tokens of an OpenRTB bid request; no call is made. The published SDK has nothing like it.

        Args:
            body: the bid request, as JSON.

        Raises:
            BidRequestError: the body is not a JSON object.
        """
        return self._client.decrypt_bid_request(body)


class SharingClient(_KeyedClient[AsyncSharingClient]):
    """Client for sharers. Call `refresh()` at start and then hourly. `optouts` is that of BidstreamClient."""

    _make_client = AsyncSharingClient

    def encrypt_raw_uid_into_token(self, uid2: str, keyset_id: int | None = None) -> EncryptionDataResponse:
        """Encrypt a raw uid for the participants that may use a key set, by default the caller's.

        No raw uid raises, and no call is made.
        """
        status, token = self._client.encrypt(uid2, keyset_id)
        return EncryptionDataResponse(status, token)

    def decrypt_token_into_raw_uid(self, token: str) -> DecryptedToken:
        """Decrypt a token. No token raises, and no call is made."""
        return _decrypt(token, None, self._client.keys, self._client.check_optout)


def _decrypt(
    token: str, domain_name: str | None, keys: KeySnapshot | None, check_optout: CheckOptOut | None
) -> DecryptedToken:
    status, uid, established_ms, _ = decrypt(token, domain_name, keys, wall_clock_ms(), check_optout)
    established = None if established_ms is None else from_unix_ms(established_ms)
    return DecryptedToken(status, uid, established, TokenSource(token, keys))
