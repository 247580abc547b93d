"""Keys from an operator, and from the sealed copy of its answer that a key cache keeps."""

import asyncio
from typing import NamedTuple

from bidstream_svc.core.crypto import open_response
from bidstream_svc.core.key_response import parse_in_steps, parse_key_response
from bidstream_svc.core.keys import KeyPurpose, KeySnapshot
from bidstream_svc.operator.messages import Endpoint
from bidstream_svc.operator.transport import OperatorTransport

_ENDPOINTS = {
    KeyPurpose.BIDSTREAM: Endpoint("/v2/key/bidstream"),
    KeyPurpose.SHARING: Endpoint("/v2/key/sharing"),
}


class FetchedKeys(NamedTuple):
    """Keys, and the operator's sealed answer exactly as it came, fit to be kept on a disk."""

    snapshot: KeySnapshot
    wire: bytes

    def __repr__(self) -> str:
        """Counts only."""
        return f"FetchedKeys({self.snapshot!r}, {len(self.wire)} bytes on the wire)"


async def fetch_keys(
    transport: OperatorTransport,
    purpose: KeyPurpose = KeyPurpose.BIDSTREAM,
    *,
    previous: KeySnapshot | None = None,
    pause_s: float = 0.0,
) -> FetchedKeys:
    """Fetch the keys that the caller may use: /v2/key/bidstream or /v2/key/sharing.

    Args:
        transport: calls the operator.
        purpose: what the keys are for.
        previous: the keys in use, whose ciphers are kept where keys did not change.
        pause_s: how long to sleep between short steps of parsing, for other threads of this process.

    Raises:
        OperatorError, EnvelopeError: the call failed.
        KeyResponseError: the answer opened but is no key response.
    """
    answer = await transport.call(_ENDPOINTS[purpose])
    steps = parse_in_steps(answer.json, purpose, previous)
    while True:
        # Opening megabytes is a C call by itself: the first pause is due before parsing begins.
        await asyncio.sleep(pause_s)
        try:
            next(steps)
        except StopIteration as end:
            return FetchedKeys(end.value, answer.wire)


def open_cached_keys(wire: bytes, client_secret: bytes, purpose: KeyPurpose = KeyPurpose.BIDSTREAM) -> KeySnapshot:
    """Open `FetchedKeys.wire` again. The nonce of its request is gone, so it proves who sealed it, not when.

    Raises:
        EnvelopeError: not base64, truncated, tampered with, or sealed with another secret.
        KeyResponseError: it opened but is no key response.
    """
    return parse_key_response(open_response(client_secret, wire, None).body, purpose)
