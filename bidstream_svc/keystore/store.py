"""The store of the keys in use."""

from dataclasses import dataclass
from typing import TYPE_CHECKING, NamedTuple

from bidstream_svc.core.keys import KeySnapshot

if TYPE_CHECKING:  # it is not there where it was not built
    from bidstream_svc.core.kernel import Kernel

# Between parsing steps of 0.1 ms, so that the serving loop gets nearly all of the time.
_PARSING_PAUSE_S = 0.005


class KeysInUse(NamedTuple):
    """A snapshot and its native kernel, which are replaced together.

    Attributes:
        snapshot: None before the first keys.
        kernel: None if there is none; the Python code then answers alone.
    """

    snapshot: KeySnapshot | None = None
    kernel: "Kernel | None" = None


NO_KEYS = KeysInUse()


@dataclass(slots=True)
class KeyStore:
    """The keys in use and the state of their refresh. One thread writes; any thread reads.

    Attributes:
        keys: replaced as a whole, never modified.
        is_from_cache: whether the keys were loaded from the key cache, or from what another worker left.
        is_cache_read: whether those have been tried, with or without success.
        last_success_ms: Unix ms of the last successful refresh, or None.
        next_refresh_ms: Unix ms at which the next refresh is due, or None.
        last_error: message of the last refresh if it failed, else None.
    """

    keys: KeysInUse = NO_KEYS
    is_from_cache: bool = False
    is_cache_read: bool = False
    last_success_ms: int | None = None
    next_refresh_ms: int | None = None
    last_error: str | None = None

    @property
    def snapshot(self) -> KeySnapshot | None:
        """The snapshot in use; None before the first keys."""
        return self.keys.snapshot

    @property
    def parsing_pause_s(self) -> float:
        """Seconds to pause between steps of parsing new keys; 0 while there are no keys to serve with."""
        return 0.0 if self.snapshot is None else _PARSING_PAUSE_S
