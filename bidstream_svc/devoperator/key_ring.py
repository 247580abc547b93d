"""The operator's keys and their rotation: a key set for the master key, and one for each site."""

import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from itertools import count

MASTER_KEYSET_ID = 9_999_999  # the id that operators give it in key responses

_KEY_LENGTH = 32
_FIRST_UNLISTED_ID = 900_000_000  # no rotation reaches this id
_HEAD_START_S = 3600  # age of the first keys, so that a client whose clock is behind can use them


@dataclass(frozen=True, slots=True, kw_only=True)
class OperatorKey:
    """A key of a key set; times are Unix seconds."""

    key_id: int
    keyset_id: int
    secret: bytes = field(repr=False)
    created_s: int
    activates_s: int
    expires_s: int


class KeyRing:
    """Key sets, each with a current key, older ones, and perhaps ones that are not active yet."""

    def __init__(
        self, randbytes: Callable[[int], bytes], keyset_ids: Sequence[int], lifetime_s: int, now_s: int
    ) -> None:
        self._randbytes = randbytes
        self._lifetime_s = lifetime_s
        self._keyset_ids = keyset_ids
        self._ids = count(1)
        self._unlisted_ids = count(_FIRST_UNLISTED_ID)
        self._keys: list[OperatorKey] = []
        self.rotate(now_s - _HEAD_START_S)

    def rotate(self, now_s: int, *, activates_in_s: int = 0) -> None:
        """Make a new key for every key set, current after a time. Old keys stay listed until they expire."""
        for keyset_id in self._keyset_ids:
            secret = self._randbytes(_KEY_LENGTH)
            self._keys.append(self._make(next(self._ids), keyset_id, secret, now_s, activates_in_s=activates_in_s))

    def expire(self, now_s: int) -> None:
        """Expire all keys now. `current` still returns them."""
        self._keys = [replace(key, expires_s=min(key.expires_s, now_s)) for key in self._keys]

    def current(self, keyset_id: int, now_s: int) -> OperatorKey:
        """Return the most recently activated key of the key set with this id, expired or not.

        Raises:
            KeyError: there is no key set with this id.
        """
        active = [key for key in self._keys if key.keyset_id == keyset_id and key.activates_s <= now_s]
        if not active:
            raise KeyError(keyset_id)
        return max(active, key=lambda key: (key.activates_s, key.key_id))

    def listed(self, now_s: int) -> list[OperatorKey]:
        """Return the keys that have not expired, active or not, oldest first."""
        return [key for key in self._keys if key.expires_s > now_s]

    def all(self) -> list[OperatorKey]:
        """Return the keys that are listed or were."""
        return list(self._keys)

    def make_unlisted(self, now_s: int) -> OperatorKey:
        """Make a key that no key response lists."""
        # Not from `randbytes`: later listed keys must not depend on it.
        return self._make(next(self._unlisted_ids), MASTER_KEYSET_ID, os.urandom(_KEY_LENGTH), now_s)

    def _make(self, key_id: int, keyset_id: int, secret: bytes, now_s: int, *, activates_in_s: int = 0) -> OperatorKey:
        return OperatorKey(
            key_id=key_id,
            keyset_id=keyset_id,
            secret=secret,
            created_s=now_s,
            activates_s=now_s + activates_in_s,
            expires_s=now_s + activates_in_s + self._lifetime_s,
        )
