"""Fetching keys from an operator, and decrypting a stored answer."""

import asyncio
import re
from collections.abc import Generator
from http import HTTPStatus
from typing import NamedTuple, TypeVar

from bidstream_svc.core.crypto import open_response
from bidstream_svc.core.errors import OperatorHttpError
from bidstream_svc.core.key_response import parse_in_steps, parse_key_response
from bidstream_svc.core.keys import KeyPurpose, KeySnapshot
from bidstream_svc.operator.messages import Endpoint
from bidstream_svc.operator.relay_path import read_relays, via_of
from bidstream_svc.operator.transport import OperatorTransport

_T = TypeVar("_T")
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
        relayed_s: when the operator was asked for them by the relay that they came from, on the monotonic clock; None
            if they did not come from a relay.
        relays: the names of the relays that they came through.
    """

    snapshot: KeySnapshot
    wire: bytes
    json: bytes
    relayed_s: float | None = None
    relays: tuple[str, ...] = ()

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
    relay: str | None = None,
) -> FetchedKeys:
    """Fetch the caller's keys from /v2/key/bidstream or /v2/key/sharing.

    Args:
        transport: the transport to the operator.
        purpose: what the keys are for; it selects the endpoint.
        previous: the keys in use; caches of unchanged keys and sites are reused.
        pause_s: seconds to sleep between short steps of parsing, so that other threads can run.
        max_age_s: how old the keys may be that a relay answers with; None for the newest. An operator ignores it.
        relay: the name of the relay that asks, which then does not take keys from itself; None for any other client.

    Raises:
        OperatorError, EnvelopeError: the call failed, or the keys have come through the relay that asks.
        KeyResponseError: the decrypted answer is not a valid key response.
    """
    headers = ask_for_age(max_age_s)
    if relay is not None:
        headers["Via"] = via_of([relay])
    answer = await transport.call(KEY_ENDPOINTS[purpose], headers=headers)
    relays = read_relays(answer.via)
    if relay in relays:
        raise OperatorHttpError(
            "the answer is this relay's own, by way of another one: check the operator's URL of each",
            HTTPStatus.LOOP_DETECTED,
        )
    relayed_s = answer.begun_s - read_relayed_age(answer.age) if relays else None
    snapshot = await run_steps(parse_in_steps(answer.json, purpose, previous), pause_s)
    return FetchedKeys(snapshot, answer.wire, answer.json, relayed_s, relays)


def read_relayed_age(age: str | None) -> float:
    """Return how many seconds old the keys are that a relay has answered with."""
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
