"""Which relays an answer with keys has come through: the header `Via` (RFC 9110, section 7.6.3)."""

import os
import re
from collections.abc import Iterable

_PSEUDONYM = "bidstream-svc-relay"
_RELAY = re.compile(
    rf"(?:^|,)\s*(?:HTTP/)?1\.[01]\s+({_PSEUDONYM}(?:-[0-9a-f]{{1,16}})?)\s*(?=,|\(|$)", re.ASCII | re.IGNORECASE
)


def draw_relay_name() -> str:
    """Return what a relay calls itself. No two have the same name, so that each recognises what it has sent itself."""
    return f"{_PSEUDONYM}-{os.urandom(8).hex()}"


def read_relays(via: str) -> tuple[str, ...]:
    """Return the names of the relays in `Via`, in the order in which they passed the message on.

    Other proxies name themselves there, too. They do not count, since they ask the operator for each client.
    """
    return tuple(name.lower() for name in _RELAY.findall(via))


def via_of(relays: Iterable[str]) -> str:
    """Return the value of `Via` with these relays."""
    return ", ".join(f"1.1 {name}" for name in relays)
