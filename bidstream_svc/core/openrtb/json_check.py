"""Checks of JSON beyond those of msgspec, which skips what no type asks for: UTF-8, the depth, lone surrogates.

Every function that needs long for a long text is a generator that yields between short steps.
"""

import re
from codecs import BOM_UTF8
from collections.abc import Generator
from typing import TypeVar

import msgspec

from bidstream_svc.core.errors import BidRequestError

MAX_DEPTH = 64
_STEP_BYTES = 32 * 1024

_Result = TypeVar("_Result")

# Keeps brackets, all as square ones, and quotes.
_BRACKETS = bytes.maketrans(b"{}", b"[]")
_NOT_BRACKETS = bytes(set(range(256)) - set(b'[]{}"'))
# A surrogate that is not part of a pair, in a text without escaped backslashes.
_LONE_SURROGATE = re.compile(
    rb"\\u[dD](?:[89abAB][0-9a-fA-F]{2}(?!\\u[dD][c-fC-F][0-9a-fA-F]{2})"
    rb"|(?<!\\u[dD][89abAB][0-9a-fA-F]{2}\\u[dD])[c-fC-F][0-9a-fA-F]{2})"
)
_ESCAPED_BACKSLASH, _PLACEHOLDER = b"\\\\", b"\0\0"


class _Object(msgspec.Struct, gc=False):
    """Any object; its members are skipped."""


_check_syntax = msgspec.json.Decoder(_Object).decode


def finish(steps: Generator[None, None, _Result]) -> _Result:
    """Run a generator to its end and return its result."""
    while True:
        try:
            next(steps)
        except StopIteration as end:
            result: _Result = end.value
            return result


def finish_if_steps(result: _Result | Generator[None, None, _Result]) -> _Result:
    """Return a result, or that of a generator."""
    return finish(result) if isinstance(result, Generator) else result


def without_bom(body: bytes) -> bytes:
    """Return the body without a byte order mark."""
    return body.removeprefix(BOM_UTF8)


def is_utf8(body: bytes) -> bool:
    """Return whether the bytes are UTF-8."""
    if body.isascii():
        return True
    try:
        body.decode()
    except UnicodeDecodeError:
        return False
    return True


def is_surely_shallow(body: bytes) -> bool:
    """Return whether there are too few brackets for a depth above MAX_DEPTH. False says nothing."""
    return body.count(b"{") + body.count(b"[") <= MAX_DEPTH


def is_shallow(text: bytes) -> Generator[None, None, bool]:
    """Return whether valid JSON is nested at most MAX_DEPTH levels deep."""
    if is_surely_shallow(text):
        return True
    brackets = yield from _brackets(text)
    for _ in range(MAX_DEPTH):
        if not brackets:
            return True
        brackets = brackets.replace(b"[]", b"")  # the innermost level
        if len(brackets) > _STEP_BYTES:
            yield
    return not brackets


def _brackets(text: bytes) -> Generator[None, None, bytes]:
    """Return the brackets outside of strings, all as square ones."""
    if b"\\" in text:  # after this, every quote begins or ends a string
        text = text.replace(b"\\\\", b"").replace(b'\\"', b"")
    kept: list[bytes] = []
    outside = 0  # the parity of the parts that are outside of strings
    for start in range(0, len(text), _STEP_BYTES):
        parts = text[start : start + _STEP_BYTES].translate(_BRACKETS, _NOT_BRACKETS).split(b'"')
        kept += parts[outside::2]
        outside = (outside + len(parts) - 1) % 2
        if start:
            yield
    return b"".join(kept)


def replace_lone_surrogates(body: bytes) -> bytes:
    r"""Replace each by `\ufffd`, so that msgspec reads the text. Nothing moves: the length is the same.

    Raises:
        BidRequestError: a NUL, which no JSON contains.
    """
    if b"\0" in body:
        raise BidRequestError("the body is not a JSON object in UTF-8")
    if b"\\u" not in body:
        return body
    text = body.replace(_ESCAPED_BACKSLASH, _PLACEHOLDER)
    return _LONE_SURROGATE.sub(rb"\\ufffd", text).replace(_PLACEHOLDER, _ESCAPED_BACKSLASH)


def check_object(text: bytes) -> Generator[None, None, None]:
    """Check that a text without lone surrogates is a JSON object.

    Raises:
        BidRequestError: it is not, or is nested too deeply.
    """
    try:
        _check_syntax(text)
        is_valid = is_utf8(text) and (yield from is_shallow(text))
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError):
        is_valid = False
    if not is_valid:
        raise BidRequestError("the body is not a JSON object in UTF-8, or is nested more than 64 levels deep")
