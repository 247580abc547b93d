"""Inflates bodies with `Content-Encoding: gzip`, in short steps and never beyond a limit.

A body is one member of RFC 1952 or several, and nothing else. What follows the last member makes it malformed, as does
a member that is cut off, or whose checksum or length is wrong.
"""

import zlib
from collections.abc import Generator

from bidstream_svc.server.answers import MALFORMED_GZIP, Answer, too_large

_GZIP = zlib.MAX_WBITS + 16  # a header and a trailer of gzip, not of zlib
# A step takes up to about 0.2 ms.
_STEP_BYTES = 64 * 1024
_PIECE_BYTES = 16 * 1024


def inflate(body: bytes, max_bytes: int) -> Generator[int, None, bytes | Answer]:
    """Return the inflated body, or the answer if it is malformed or has more than `max_bytes`.

    It yields between steps: the number of bytes inflated so far.
    """
    text = bytearray()
    member = zlib.decompressobj(_GZIP)
    piece, end = b"", 0  # what is read of the body and not inflated, and where it ends
    while piece or end < len(body) or not member.eof:
        if end:
            yield len(text)
        if not piece:
            piece = body[end : end + _PIECE_BYTES]
            end += len(piece)
        if member.eof:
            member = zlib.decompressobj(_GZIP)
        try:
            inflated = member.decompress(piece, _STEP_BYTES)
        except zlib.error:
            return MALFORMED_GZIP
        if not (piece or inflated or member.eof):
            return MALFORMED_GZIP  # it is cut off
        piece = member.unused_data if member.eof else member.unconsumed_tail
        text += inflated
        if len(text) > max_bytes:
            return too_large(max_bytes)
    return bytes(text)
