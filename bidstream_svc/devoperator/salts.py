"""Salted raw uids: stable for an identity until its salt bucket is rotated.

    first level   SHA-256(base64 of the identity's hash | first level salt); its first bytes choose the bucket
    raw uid       32 bytes: SHA-256(first level | salt of the bucket)
                  33 bytes: scope and identity type u8 | the same

As with operators, a bucket has raw uids of 32 bytes until it is rotated to the longer form. So both forms occur, and a
previous raw uid may be shorter than the current one. Operators have two forms of 33 bytes; this is the one from whose
first letter published SDKs read the identity type.
"""

from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from hashlib import sha256

import pybase64

from bidstream_svc.core.identity import Identity, IdentityScope

BUCKET_COUNT = 1024  # production operators have a million

_SALT_LENGTH = 32
_BUCKET_ID_LENGTH = 9  # bytes; 12 characters
_DAY_MS = 86_400_000
_ROTATION_MS = 365 * _DAY_MS
_PREVIOUS_KEPT_MS = 90 * _DAY_MS


@dataclass(frozen=True, slots=True)
class Salt:
    """The salt of a bucket, and the length in bytes of the raw uids that it makes."""

    secret: bytes = field(repr=False)
    raw_uid_length: int


@dataclass(slots=True)
class SaltBucket:
    """A salt shared by the identities that fall into its bucket."""

    bucket_id: str
    last_updated_ms: int
    salt: Salt
    previous_salt: Salt | None = None

    def refresh_from_ms(self, now_ms: int) -> int:
        """Return when the raw uids of this bucket may change, in Unix ms.

        This is a year after the last rotation, or the next midnight in UTC if that time has passed.
        """
        due_ms = self.last_updated_ms + _ROTATION_MS
        return due_ms if due_ms >= now_ms else (now_ms // _DAY_MS + 1) * _DAY_MS


class Salts:
    """All salt buckets, and the raw uids derived from them."""

    def __init__(self, randbytes: Callable[[int], bytes], scope: IdentityScope, now_ms: int) -> None:
        self._randbytes = randbytes
        self._scope = scope
        self._first_level_salt = randbytes(_SALT_LENGTH)
        self.buckets = [
            SaltBucket(
                bucket_id=pybase64.b64encode_as_string(randbytes(_BUCKET_ID_LENGTH)),
                last_updated_ms=now_ms - _DAY_MS,
                salt=Salt(randbytes(_SALT_LENGTH), 32 + number % 2),
            )
            for number in range(BUCKET_COUNT)
        ]

    def bucket_of(self, identity: Identity) -> SaltBucket:
        """Return the bucket of an identity, which never changes."""
        return self.buckets[int.from_bytes(self._first_level(identity)[:8], "big") % BUCKET_COUNT]

    def raw_uid(self, identity: Identity) -> str:
        """Return the base64 of the identity's raw uid: 44 characters."""
        return self._salted(identity, self.bucket_of(identity).salt)

    def previous_raw_uid(self, identity: Identity, now_ms: int) -> str | None:
        """Return the raw uid before the last rotation, or None 90 days after it."""
        bucket = self.bucket_of(identity)
        if bucket.previous_salt is None or bucket.last_updated_ms + _PREVIOUS_KEPT_MS <= now_ms:
            return None
        return self._salted(identity, bucket.previous_salt)

    def rotate(self, buckets: Iterable[SaltBucket], now_ms: int) -> None:
        """Replace the salts of these buckets. Their raw uids have 33 bytes from now on."""
        for bucket in buckets:
            bucket.previous_salt = bucket.salt
            bucket.salt = Salt(self._randbytes(_SALT_LENGTH), 33)
            bucket.last_updated_ms = now_ms

    def _first_level(self, identity: Identity) -> bytes:
        return sha256(identity.value.encode() + self._first_level_salt).digest()

    def _salted(self, identity: Identity, salt: Salt) -> str:
        head = bytes([self._scope << 4 | identity.identity_type << 2])
        digest = sha256(self._first_level(identity) + salt.secret).digest()
        return pybase64.b64encode_as_string((head + digest)[-salt.raw_uid_length :])
