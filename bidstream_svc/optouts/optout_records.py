"""Opt-outs as values and as bytes, of which the values of the store, entries of the stream and snapshots are made.

packed:  scope u8 | length of the raw id u8 | raw id | arrived s u32 | entry s u32, 0 for unknown; little-endian
record:  raw id | arrived s u32 | entry s u32, 0 for unknown; little-endian
"""

import struct
from collections.abc import Iterable
from typing import NamedTuple

import pybase64

from bidstream_svc.core.errors import OptOutRecordError
from bidstream_svc.core.identity import IdentityScope

RAW_ID_LENGTHS = frozenset({32, 33})
_MAX_TEXT_LENGTH = 48  # 44 characters, and some room for clumsy padding
_HEAD = struct.Struct("<BB")
_TIMES = struct.Struct("<II")
TIMES_BYTES = _TIMES.size  # of a record, behind the raw id
_MAX_S = 2**32 - 1
_SCOPE_BIT = 0x10  # of the first byte of a raw id of 33 bytes
_LONG_ID_LENGTH = 33


class OptOut(NamedTuple):
    """An opt-out.

    Attributes:
        scope: the programme.
        raw_id: the raw uid, 32 or 33 bytes.
        arrived_s: when this fleet got it, Unix seconds.
        entry_s: when the user opted out by the programme's clock, Unix seconds; None if that is unknown.
    """

    scope: IdentityScope
    raw_id: bytes
    arrived_s: int
    entry_s: int | None = None

    @property
    def opted_out_s(self) -> int:
        """When the user opted out, as far as is known, Unix seconds: not after it arrived, whatever `entry_s` says."""
        return min(self.entry_s or self.arrived_s, self.arrived_s)


def decode_raw_id(text: str) -> bytes:
    """Decode a raw uid: base64 of 32 or 33 bytes, of either alphabet, with or without padding.

    Raises:
        OptOutRecordError: it is something else.
    """
    if len(text) <= _MAX_TEXT_LENGTH:
        raw_id = _decode_base64(text)
        if raw_id is None:
            # Not `translate`, which takes ten times as long.
            standard = text.replace("-", "+").replace("_", "/").rstrip("=")
            raw_id = _decode_base64(standard + "=" * (-len(standard) % 4))
        if raw_id is not None and len(raw_id) in RAW_ID_LENGTHS:
            return raw_id
    raise OptOutRecordError("not a raw uid: base64 of 32 or 33 bytes is required")


def _decode_base64(text: str) -> bytes | None:
    try:
        return pybase64.b64decode(text, validate=True)
    except ValueError:  # also for text that is not ASCII
        return None


def scope_of_raw_id(raw_id: bytes) -> IdentityScope | None:
    """Return the programme that a raw uid tells: that of 33 bytes does, that of 32 bytes does not."""
    if len(raw_id) != _LONG_ID_LENGTH:
        return None
    return IdentityScope.EUID if raw_id[0] & _SCOPE_BIT else IdentityScope.UID2


def encode_record(optout: OptOut) -> bytes:
    """Encode an opt-out as the store keeps it: the raw id, then its times. Records are ordered as their ids are."""
    return optout.raw_id + _TIMES.pack(optout.arrived_s, optout.entry_s or 0)


def decode_record(scope: IdentityScope, record: bytes) -> OptOut:
    """Decode a record of the store."""
    raw_id, (arrived_s, entry_s) = record[: -_TIMES.size], _TIMES.unpack_from(record, len(record) - _TIMES.size)
    return OptOut(scope, raw_id, arrived_s, entry_s or None)


def pack(optouts: Iterable[OptOut]) -> bytes:
    """Encode opt-outs one behind the other."""
    return b"".join(
        _HEAD.pack(optout.scope, len(optout.raw_id))
        + optout.raw_id
        + _TIMES.pack(optout.arrived_s, optout.entry_s or 0)
        for optout in optouts
    )


def unpack(packed: bytes) -> list[OptOut]:
    """Decode what `pack` encodes.

    Raises:
        OptOutRecordError: it is truncated, or has an unknown programme or a wrong length.
    """
    optouts = []
    start = 0
    try:
        while start < len(packed):
            scope, length = _HEAD.unpack_from(packed, start)
            raw_id = packed[start + _HEAD.size : start + _HEAD.size + length]
            arrived_s, entry_s = _TIMES.unpack_from(packed, start + _HEAD.size + length)
            if length not in RAW_ID_LENGTHS:
                raise OptOutRecordError("not packed opt-outs: a raw id has another length")
            optouts.append(OptOut(IdentityScope(scope), raw_id, arrived_s, entry_s or None))
            start += _HEAD.size + length + _TIMES.size
    except (struct.error, ValueError) as error:
        if isinstance(error, OptOutRecordError):
            raise
        raise OptOutRecordError("not packed opt-outs") from None
    return optouts


def clamp_time_s(time_s: int) -> int | None:
    """Return a time that a record can hold; None for one that it cannot, and for 0."""
    return time_s if 0 < time_s <= _MAX_S else None
