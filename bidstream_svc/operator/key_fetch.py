"""Fetching keys from an operator, and decrypting a stored answer."""

import asyncio
from collections.abc import Generator
from typing import NamedTuple, TypeVar

from bidstream_svc.core.crypto import open_response
from bidstream_svc.core.key_response import parse_in_steps, parse_key_response
from bidstream_svc.core.keys import KeyPurpose, KeySnapshot
from bidstream_svc.operator.messages import Endpoint
from bidstream_svc.operator.transport import OperatorTransport

_T = TypeVar("_T")

_ENDPOINTS = {
    KeyPurpose.BIDSTREAM: Endpoint("/v2/key/bidstream"),
    KeyPurpose.SHARING: Endpoint("/v2/key/sharing"),
}


class FetchedKeys(NamedTuple):
    """Keys, and the operator's encrypted answer exactly as received, for a key cache."""

    snapshot: KeySnapshot
    wire: bytes

    def __repr__(self) -> str:
        """Show counts only."""
        return f"FetchedKeys({self.snapshot!r}, {len(self.wire)} bytes on the wire)"


async def fetch_keys(
    transport: OperatorTransport,
    purpose: KeyPurpose = KeyPurpose.BIDSTREAM,
    *,
    previous: KeySnapshot | None = None,
    pause_s: float = 0.0,
) -> FetchedKeys:
    """Fetch the caller's keys from /v2/key/bidstream or /v2/key/sharing.

    Args:
        transport: the transport to the operator.
        purpose: what the keys are for; it selects the endpoint.
        previous: the keys in use; caches of unchanged keys and sites are reused.
        pause_s: seconds to sleep between short steps of parsing, so that other threads can run.

    Raises:
        OperatorError, EnvelopeError: the call failed.
        KeyResponseError: the decrypted answer is not a valid key response.
    """
    answer = await transport.call(_ENDPOINTS[purpose])
    return FetchedKeys(await run_steps(parse_in_steps(answer.json, purpose, previous), pause_s), answer.wire)


async def run_steps(steps: Generator[None, None, _T], pause_s: float) -> _T:
    """Run the short steps of a generator with a pause before each, also before the first; return its result."""
    while True:
        await asyncio.sleep(pause_s)
        try:
            next(steps)
        except StopIteration as end:
            result: _T = end.value
            return result


def open_cached_keys(wire: bytes, client_secret: bytes, purpose: KeyPurpose = KeyPurpose.BIDSTREAM) -> KeySnapshot:
    """Decrypt and parse a stored `FetchedKeys.wire`. Its nonce cannot be checked: it is authentic but may be old.

    Raises:
        EnvelopeError: not base64, truncated, tampered with, or encrypted with another secret.
        KeyResponseError: the decrypted answer is not a valid key response.
    """
    return parse_key_response(open_response(client_secret, wire, None).body, purpose)
