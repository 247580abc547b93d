"""Fetching keys from an operator, and decrypting a stored answer."""

import asyncio
import re
from collections.abc import Generator
from typing import NamedTuple, TypeVar

from bidstream_svc.core.crypto import open_response
from bidstream_svc.core.key_response import parse_in_steps, parse_key_response
from bidstream_svc.core.keys import KeyPurpose, KeySnapshot
from bidstream_svc.operator.messages import Endpoint
from bidstream_svc.operator.transport import OperatorTransport

_T = TypeVar("_T")
RELAY_PSEUDONYM = "bidstream-svc-relay"  # what a relay calls itself in `Via` (RFC 9110, section 7.6.3)
_VIA_RELAY = re.compile(rf"(?:^|,)\s*(?:HTTP/)?1\.[01]\s+{RELAY_PSEUDONYM}\s*(?=,|\(|$)", re.ASCII | re.IGNORECASE)
_AGE = re.compile(r"\d{1,10}", re.ASCII)
_MAX_AGE = re.compile(r"max-age=(\d{1,9})", re.ASCII)

KEY_ENDPOINTS = {
    KeyPurpose.BIDSTREAM: Endpoint("/v2/key/bidstream"),
    KeyPurpose.SHARING: Endpoint("/v2/key/sharing"),
}


class FetchedKeys(NamedTuple):
    """Keys, and the answer that they are from.

    Attributes:
        snapshot: the keys.
        wire: the operator's encrypted answer exactly as received, for a key cache.
        json: the same decrypted, for a relay.
        relayed_s: when the relay that they came from had asked for them, on the monotonic clock; None if they did not
            come from a relay.
    """

    snapshot: KeySnapshot
    wire: bytes
    json: bytes
    relayed_s: float | None = None

    def __repr__(self) -> str:
        """Show counts only."""
        return f"FetchedKeys({self.snapshot!r}, {len(self.wire)} bytes on the wire)"


async def fetch_keys(
    transport: OperatorTransport,
    purpose: KeyPurpose = KeyPurpose.BIDSTREAM,
    *,
    previous: KeySnapshot | None = None,
    pause_s: float = 0.0,
    max_age_s: float | None = None,
) -> FetchedKeys:
    """Fetch the caller's keys from /v2/key/bidstream or /v2/key/sharing.

    Args:
        transport: the transport to the operator.
        purpose: what the keys are for; it selects the endpoint.
        previous: the keys in use; caches of unchanged keys and sites are reused.
        pause_s: seconds to sleep between short steps of parsing, so that other threads can run.
        max_age_s: how old the keys may be that a relay answers with; None for the newest. An operator ignores it.

    Raises:
        OperatorError, EnvelopeError: the call failed.
        KeyResponseError: the decrypted answer is not a valid key response.
    """
    answer = await transport.call(KEY_ENDPOINTS[purpose], headers=ask_for_age(max_age_s))
    age_s = read_relayed_age(answer.via, answer.age)
    relayed_s = None if age_s is None else answer.begun_s - age_s
    snapshot = await run_steps(parse_in_steps(answer.json, purpose, previous), pause_s)
    return FetchedKeys(snapshot, answer.wire, answer.json, relayed_s)


def read_relayed_age(via: str, age: str | None) -> float | None:
    """Return how many seconds old the keys of an answer are that came through a relay; None if it did not.

    Other proxies name themselves in `Via`, too. They do not count, since they ask the operator for each client.
    """
    if _VIA_RELAY.search(via) is None:
        return None
    return float(age) if age is not None and _AGE.fullmatch(age) else 0.0


def ask_for_age(max_age_s: float | None) -> dict[str, str]:
    """Return the header that tells a relay how old the keys may be; None for the newest (RFC 9111, section 5.2.1.1)."""
    return {} if max_age_s is None else {"Cache-Control": f"max-age={int(max_age_s)}"}


def read_age(cache_control: str) -> float | None:
    """Return how many seconds old the keys may be that a request with this header asks for; None for the newest."""
    found = _MAX_AGE.fullmatch(cache_control)
    return float(found[1]) if found else None


async def run_steps(steps: Generator[None, None, _T], pause_s: float) -> _T:
    """Run the short steps of a generator with a pause before each, also before the first; return its result."""
    while True:
        await asyncio.sleep(pause_s)
        try:
            next(steps)
        except StopIteration as end:
            result: _T = end.value
            return result


def open_cached_keys(wire: bytes, client_secret: bytes, purpose: KeyPurpose = KeyPurpose.BIDSTREAM) -> FetchedKeys:
    """Decrypt and parse a stored `FetchedKeys.wire`. Its nonce cannot be checked: it is authentic but may be old.

    Raises:
        EnvelopeError: not base64, truncated, tampered with, or encrypted with another secret.
        KeyResponseError: the decrypted answer is not a valid key response.
    """
    json = open_response(client_secret, wire, None).body
    return FetchedKeys(parse_key_response(json, purpose), wire, json)
