"""Keys that are refreshed when asked to, and what is done with them: bidders decrypt, sharers also encrypt."""

import asyncio
import os

from bidstream_svc.clock import wall_clock_ms
from bidstream_svc.core.crypto import GCM_IV_LENGTH
from bidstream_svc.core.decrypt import Verdict, decrypt
from bidstream_svc.core.keys import KeyPurpose, KeySnapshot
from bidstream_svc.core.sharing import Encryption, encrypt_raw_uid
from bidstream_svc.operator.key_fetch import fetch_keys
from bidstream_svc.operator.transport import OperatorTransport


class _KeyedClient:
    """Holds the last keys that came; a refresh that fails leaves them in place."""

    _purpose: KeyPurpose

    def __init__(self, transport: OperatorTransport) -> None:
        self._transport = transport
        self._refreshing = asyncio.Lock()
        self.keys: KeySnapshot | None = None

    async def refresh(self) -> KeySnapshot:
        """Fetch the latest keys and use them from now on.

        Raises:
            OperatorError, EnvelopeError, KeyResponseError: the keys at hand stay in use.
        """
        async with self._refreshing:  # or an older answer might overtake a newer one
            self.keys = (await fetch_keys(self._transport, self._purpose)).snapshot
            return self.keys


class BidstreamClient(_KeyedClient):
    """A bidder's client: `await refresh()` at the start and then hourly; `decrypt` never waits.

    Args:
        transport: entered by the caller, and shared with other clients at will.

    Attributes:
        keys: the keys in use, or None before the first refresh.
    """

    _purpose = KeyPurpose.BIDSTREAM

    def decrypt(self, token: str, domain_or_app_name: str | None = None) -> Verdict:
        """Decrypt a token of a bid request: (status, raw uid, established in Unix ms, reason). From any thread."""
        return decrypt(token, domain_or_app_name, self.keys, wall_clock_ms())


class SharingClient(_KeyedClient):
    """A sharer's client: `await refresh()` at the start and then hourly; the others never wait.

    Args:
        transport: entered by the caller, and shared with other clients at will.

    Attributes:
        keys: the keys in use, or None before the first refresh.
    """

    _purpose = KeyPurpose.SHARING

    def decrypt(self, token: str) -> Verdict:
        """Decrypt a token that was shared: (status, raw uid, established in Unix ms, reason). From any thread."""
        return decrypt(token, None, self.keys, wall_clock_ms())

    def encrypt(self, raw_uid: str, keyset_id: int | None = None) -> Encryption:
        """Encrypt a raw uid for those who may use a key set, by default the caller's own. From any thread."""
        master_iv, site_iv = os.urandom(GCM_IV_LENGTH), os.urandom(GCM_IV_LENGTH)
        return encrypt_raw_uid(
            raw_uid, self.keys, wall_clock_ms(), master_iv=master_iv, site_iv=site_iv, keyset_id=keyset_id
        )
