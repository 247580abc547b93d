"""Repairs JSON that its writer's library accepts and msgspec does not: a byte order mark, lone surrogates.

A lone surrogate is replaced by U+FFFD, which occurs in no token and no domain: so it affects only the token or the
domain that it is in. A long body is repaired in short steps, so that none stops the event loop for long.
"""

import re
from codecs import BOM_UTF8
from collections.abc import Generator

from bidstream_svc.server.batch_body import MAX_BATCH_TOKENS, STEP_BYTES

_BACKSLASH, _ESCAPED_BACKSLASH = b"\\\\", b"\\u005c"
# A surrogate that is not part of a pair, in JSON where no other escape ends with a backslash. It begins with a literal,
# which `re` finds fastest.
_LONE_SURROGATE = re.compile(
    rb"\\u[dD](?:[89abAB][0-9a-fA-F]{2}(?!\\u[dD][c-fC-F][0-9a-fA-F]{2})"
    rb"|(?<!\\u[dD][89abAB][0-9a-fA-F]{2}\\u[dD])[c-fC-F][0-9a-fA-F]{2})"
)
_REPLACEMENT = rb"\\ufffd"
# Limits the time that a body may take. It allows one in each token and domain of a batch.
_MAX_REPLACED = 2 * MAX_BATCH_TOKENS
_MAX_ESCAPES = 4 * _MAX_REPLACED
# Behind it, no escape is incomplete, and none forms a pair with the next.
_GAP = re.compile(rb"[^\\]{6}")
# So many bytes without a gap have too many escapes.
_MAX_BYTES_BEFORE_GAP = 6 * (_MAX_ESCAPES + 2)


def repair(body: bytes, step_bytes: int = STEP_BYTES) -> Generator[None, None, bytes | None]:
    """Yield between the steps and return the body without a byte order mark and lone surrogates.

    Returns None if it has neither. A body with too many escapes keeps its surrogates.
    """
    text = body.removeprefix(BOM_UTF8)
    repaired = yield from _replace_surrogates(text, step_bytes)
    if repaired is None and len(text) < len(body):
        return text
    return repaired


def _replace_surrogates(text: bytes, step_bytes: int) -> Generator[None, None, bytes | None]:
    """Return the text without lone surrogates; None if it has none or has too many escapes."""
    pieces: list[bytes] = []
    start = escapes = replaced = 0
    while start < len(text):
        if start:
            yield
        end = _end_of_piece(text, start, step_bytes)
        piece = text[start:end]
        escapes += piece.count(b"\\")
        if escapes > _MAX_ESCAPES:
            return None
        if b"\\u" in piece and replaced < _MAX_REPLACED:
            escaped = piece.replace(_BACKSLASH, _ESCAPED_BACKSLASH)
            piece, count = _LONE_SURROGATE.subn(_REPLACEMENT, escaped, _MAX_REPLACED - replaced)
            replaced += count
        pieces.append(piece)
        start = end
    return b"".join(pieces) if replaced else None


def _end_of_piece(text: bytes, start: int, step_bytes: int) -> int:
    """Return where a piece that begins at `start` may end. It is much longer than a step only if escapes are dense."""
    earliest = start + step_bytes
    latest = earliest + _MAX_BYTES_BEFORE_GAP
    gap = _GAP.search(text, earliest, latest)
    return min(latest, len(text)) if gap is None else gap.end()
