"""The operator's keys and their rotation: a key set for the master key, and one for each site."""

import os
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from itertools import count

MASTER_KEYSET_ID = 1

_KEY_LENGTH = 32
_FIRST_UNLISTED_ID = 900_000_000  # no rotation reaches this id
_HEAD_START_S = 3600  # age of the first keys, so that a client whose clock is behind can use them


@dataclass(frozen=True, slots=True, kw_only=True)
class OperatorKey:
    """A key of a key set; times are Unix seconds."""

    key_id: int
    keyset_id: int
    secret: bytes = field(repr=False)
    activates_s: int
    expires_s: int


class KeyRing:
    """Key sets with ids from MASTER_KEYSET_ID on, each with a current key and older ones."""

    def __init__(self, randbytes: Callable[[int], bytes], keyset_count: int, lifetime_s: int, now_s: int) -> None:
        self._randbytes = randbytes
        self._lifetime_s = lifetime_s
        self._keyset_ids = range(MASTER_KEYSET_ID, MASTER_KEYSET_ID + keyset_count)
        self._ids = count(1)
        self._unlisted_ids = count(_FIRST_UNLISTED_ID)
        self._current: dict[int, OperatorKey] = {}
        self._keys: list[OperatorKey] = []
        self.rotate(now_s - _HEAD_START_S)

    def rotate(self, now_s: int) -> None:
        """Make a new current key for every key set. Old keys stay listed until they expire."""
        for keyset_id in self._keyset_ids:
            key = self._make(next(self._ids), keyset_id, self._randbytes(_KEY_LENGTH), now_s)
            self._current[keyset_id] = key
            self._keys.append(key)

    def expire(self, now_s: int) -> None:
        """Expire all keys now. `current` still returns them."""
        self._keys = [replace(key, expires_s=min(key.expires_s, now_s)) for key in self._keys]

    def current(self, keyset_id: int) -> OperatorKey:
        """Return the newest key of a key set, expired or not.

        Raises:
            KeyError: there is no such key set.
        """
        return self._current[keyset_id]

    def listed(self, now_s: int) -> list[OperatorKey]:
        """Return the keys that have not expired, oldest first."""
        return [key for key in self._keys if key.expires_s > now_s]

    def make_unlisted(self, now_s: int) -> OperatorKey:
        """Make a key that no key response lists."""
        # Not from `randbytes`: later listed keys must not depend on it.
        return self._make(next(self._unlisted_ids), MASTER_KEYSET_ID, os.urandom(_KEY_LENGTH), now_s)

    def _make(self, key_id: int, keyset_id: int, secret: bytes, now_s: int) -> OperatorKey:
        return OperatorKey(
            key_id=key_id,
            keyset_id=keyset_id,
            secret=secret,
            activates_s=now_s,
            expires_s=now_s + self._lifetime_s,
        )
