"""The stores of the keys in use, one for each programme, and what they hold together."""

import threading
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, NamedTuple

from bidstream_svc.core.identity import IdentityScope
from bidstream_svc.core.keys import KeySnapshot
from bidstream_svc.core.programmes import Programme

if TYPE_CHECKING:  # neither is there in every process
    from bidstream_svc.core.kernel import Kernel
    from bidstream_svc.optouts.optout_reader import OptOutReader

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


class KeyStore:
    """The keys of one programme in use and the state of their refresh. One thread writes; any thread reads.

    Args:
        keys: the first keys.
        scope: the programme that the settings name; None for the only programme, whichever its keys are of.
        optouts: the opt-out store, whose raw uids are not answered; None if there is none.
        parsing_pause_s: see the property.

    Attributes:
        optouts: as given.
        is_from_cache: whether the keys were loaded from the key cache, or from what another worker left.
        is_cache_read: whether those have been tried, with or without success.
        last_success_ms: Unix ms of the last successful refresh, or None.
        next_refresh_ms: Unix ms at which the next refresh is due, or None.
        last_error: message of the last refresh if it failed, else None.
        on_change: called after the keys were replaced, in the thread that writes.
    """

    def __init__(
        self,
        keys: KeysInUse = NO_KEYS,
        *,
        scope: IdentityScope | None = None,
        optouts: "OptOutReader | None" = None,
        parsing_pause_s: float = _PARSING_PAUSE_S,
    ) -> None:
        self._parsing_pause_s = parsing_pause_s
        self.optouts = optouts
        self._keys = self._guard(keys)
        self._scope = scope
        self.is_from_cache = False
        self.is_cache_read = False
        self.last_success_ms: int | None = None
        self.next_refresh_ms: int | None = None
        self.last_error: str | None = None
        self.on_change: Callable[[], None] = lambda: None

    @property
    def keys(self) -> KeysInUse:
        """The keys in use; replaced as a whole, never modified."""
        return self._keys

    @keys.setter
    def keys(self, keys: KeysInUse) -> None:
        self._keys = self._guard(keys)
        self.on_change()

    def _guard(self, keys: KeysInUse) -> KeysInUse:
        """Let a kernel leave to Python what may be in the opt-out store. Leave out one that cannot."""
        if self.optouts is None or keys.kernel is None:
            return keys
        native_filter = self.optouts.native_filter
        if native_filter is None:
            return keys._replace(kernel=None)
        keys.kernel.set_optouts(native_filter)
        return keys

    @property
    def snapshot(self) -> KeySnapshot | None:
        """The snapshot in use; None before the first keys."""
        return self._keys.snapshot

    @property
    def required_scope(self) -> IdentityScope | None:
        """The programme that the settings name, or None."""
        return self._scope

    @property
    def scope(self) -> IdentityScope | None:
        """The programme of the keys; None as long as it is not known."""
        snapshot = self.snapshot
        return self._scope if snapshot is None else snapshot.scope

    @property
    def parsing_pause_s(self) -> float:
        """Seconds to pause between steps of parsing new keys; 0 while there are no keys to serve with."""
        return 0.0 if self.snapshot is None else self._parsing_pause_s


class CurrentKeys(NamedTuple):
    """The keys of all programmes at one moment, in the order in which they are tried.

    Attributes:
        programmes: their scopes and snapshots.
        kernels: the native kernels to ask, in this order. A success of one of them is what Python gives.
        kernel_scopes: the programme of each kernel.
    """

    programmes: tuple[Programme, ...]
    kernels: "tuple[Kernel, ...]"
    kernel_scopes: tuple[IdentityScope, ...]


class KeyStores:
    """The stores of all programmes.

    Args:
        stores: one, or one for each programme in the order UID2, EUID.

    Attributes:
        all: the stores.
        current: replaced as a whole when the keys of a programme change.
    """

    def __init__(self, stores: Sequence[KeyStore]) -> None:
        self.all = tuple(stores)
        self._lock = threading.Lock()
        self.current = self._combine()
        for store in self.all:
            store.on_change = self._publish

    def _publish(self) -> None:
        with self._lock:  # each programme has a thread of its own
            self.current = self._combine()

    def _combine(self) -> CurrentKeys:
        programmes: list[Programme] = []
        asked: list[tuple[Kernel, IdentityScope]] = []
        for store in self.all:
            snapshot, kernel = store.keys
            earlier = [programme.keys for programme in programmes if programme.keys is not None]
            scope = store.required_scope if snapshot is None else snapshot.scope
            open_natively = None if kernel is None else kernel.open
            check_optout = None if store.optouts is None else store.optouts.check
            programmes.append(Programme(scope, snapshot, open_natively, check_optout))
            if snapshot is None or kernel is None:
                continue
            # With a key in common, a v2 token could open in both. The first verdict counts, also if it is a failure,
            # which the kernels do not tell: Python decides.
            if not any(map(snapshot.shares_keys_with, earlier)):
                asked.append((kernel, snapshot.scope))
        return CurrentKeys(tuple(programmes), tuple(each[0] for each in asked), tuple(each[1] for each in asked))
