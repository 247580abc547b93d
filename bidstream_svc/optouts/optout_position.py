"""The position in the stream, and how the store keeps it."""

import struct
from typing import NamedTuple

_HEAD = struct.Struct(">16sQ")


class Position(NamedTuple):
    """A place in the stream: all entries up to it have been applied.

    Attributes:
        epoch: 16 random bytes, that of the stream; another one means another stream.
        sequence: the number of the entry in its epoch, from 1; 0 before the first.
        entry_id: the server's id of the entry, such as `1700000000000-0`.
    """

    epoch: bytes
    sequence: int
    entry_id: str


def encode_position(position: Position) -> bytes:
    """Encode a position: epoch, sequence u64 BE, the entry's id as text."""
    return _HEAD.pack(position.epoch, position.sequence) + position.entry_id.encode()


def decode_position(encoded: bytes) -> Position:
    """Decode what `encode_position` encodes.

    Raises:
        struct.error: it is too short.
    """
    epoch, sequence = _HEAD.unpack_from(encoded)
    return Position(epoch, sequence, encoded[_HEAD.size :].decode())
