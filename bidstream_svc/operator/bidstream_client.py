"""Clients that hold keys: bidders decrypt, sharers also encrypt."""

import asyncio
import os
from pathlib import Path

from bidstream_svc.clock import wall_clock_ms
from bidstream_svc.core.crypto import GCM_IV_LENGTH
from bidstream_svc.core.decrypt import CheckOptOut, Verdict, decrypt
from bidstream_svc.core.keys import KeyPurpose, KeySnapshot
from bidstream_svc.core.openrtb import BidRequestIds, decrypt_bid_request
from bidstream_svc.core.sharing import Encryption, encrypt_raw_uid
from bidstream_svc.operator.key_fetch import fetch_keys
from bidstream_svc.operator.transport import OperatorTransport


class _KeyedClient:
    """Holds the latest keys. A failed refresh keeps them."""

    _purpose: KeyPurpose

    def __init__(self, transport: OperatorTransport, *, optouts: Path | str | None = None) -> None:
        self._transport = transport
        self.check_optout = None if optouts is None else _open_optouts(optouts)
        self._refreshing = asyncio.Lock()
        self.keys: KeySnapshot | None = None

    async def refresh(self) -> KeySnapshot:
        """Fetch the latest keys and replace those in use.

        Raises:
            OperatorError, EnvelopeError, KeyResponseError: the refresh failed; the previous keys stay in use.
        """
        async with self._refreshing:  # otherwise an older answer could replace a newer one
            self.keys = (await fetch_keys(self._transport, self._purpose)).snapshot
            return self.keys


class BidstreamClient(_KeyedClient):
    """Client for bidders. Call `refresh()` at start and then hourly; `decrypt` makes no calls.

    Args:
        transport: entered by the caller; clients may share it.
        optouts: directory of the opt-out store; given, raw uids in it are not answered.

    Attributes:
        keys: the keys in use, or None before the first refresh.
        check_optout: looks a raw uid up in that store; None without one.

    Raises:
        OptOutStoreError: the store cannot be opened.
    """

    _purpose = KeyPurpose.BIDSTREAM

    def decrypt(self, token: str, domain_or_app_name: str | None = None) -> Verdict:
        """Decrypt a token of a bid request: (status, raw uid, established in Unix ms, reason). Thread-safe."""
        return decrypt(token, domain_or_app_name, self.keys, wall_clock_ms(), self.check_optout)

    def decrypt_bid_request(self, body: bytes) -> BidRequestIds:
        """Decrypt all tokens of an OpenRTB bid request. Thread-safe.

        Only the programme of the keys is known. The tokens of the other one are NOT_INITIALIZED.

        Raises:
            BidRequestError: the body is not a JSON object.
        """
        keys = () if self.keys is None else (self.keys,)
        return decrypt_bid_request(body, keys, wall_clock_ms(), self.check_optout)


class SharingClient(_KeyedClient):
    """Client for sharers. Call `refresh()` at start and then hourly; the other methods make no calls.

    Args:
        transport: entered by the caller; clients may share it.
        optouts: directory of the opt-out store; given, raw uids in it are not answered.

    Attributes:
        keys: the keys in use, or None before the first refresh.
        check_optout: looks a raw uid up in that store; None without one.

    Raises:
        OptOutStoreError: the store cannot be opened.
    """

    _purpose = KeyPurpose.SHARING

    def decrypt(self, token: str) -> Verdict:
        """Decrypt a sharing token: (status, raw uid, established in Unix ms, reason). Thread-safe."""
        return decrypt(token, None, self.keys, wall_clock_ms(), self.check_optout)

    def encrypt(self, raw_uid: str, keyset_id: int | None = None) -> Encryption:
        """Encrypt a raw uid for the participants that may use a key set, by default the caller's. Thread-safe."""
        master_iv, site_iv = os.urandom(GCM_IV_LENGTH), os.urandom(GCM_IV_LENGTH)
        return encrypt_raw_uid(
            raw_uid, self.keys, wall_clock_ms(), master_iv=master_iv, site_iv=site_iv, keyset_id=keyset_id
        )


def _open_optouts(directory: Path | str) -> CheckOptOut:
    from bidstream_svc.optouts.optout_lookup import OptOuts  # noqa: PLC0415 - without a store, LMDB is not needed

    return OptOuts(directory).check
