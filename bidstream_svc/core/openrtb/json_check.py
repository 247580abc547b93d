"""Checks of JSON beyond those of msgspec, which skips what no type asks for: UTF-8, the depth, lone surrogates."""

import re
from codecs import BOM_UTF8
from collections.abc import Generator
from typing import NoReturn, TypeVar

import msgspec

from bidstream_svc.core import kernel
from bidstream_svc.core.errors import BidRequestError

MAX_DEPTH = 64
_USUAL_DEPTH = 16
_PER_STEP = 1024
_REFUSAL = "the body is not a JSON object in UTF-8"

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


def is_usual_text(text: bytes) -> bool:
    """Return whether valid JSON is UTF-8 and certainly nested at most MAX_DEPTH levels deep. False says nothing."""
    return kernel.is_usual_text(text, MAX_DEPTH) or (is_utf8(text) and is_shallow(text))


def is_utf8(body: bytes) -> bool:
    """Return whether the bytes are UTF-8."""
    if body.isascii():
        return True
    try:
        body.decode()
    except UnicodeDecodeError:
        return False
    return True


def is_shallow(text: bytes) -> bool:
    """Return whether valid JSON is certainly nested at most MAX_DEPTH levels deep. False says nothing."""
    if text.count(b"{") + text.count(b"[") <= MAX_DEPTH:
        return True
    if b"\\" in text:  # after this, every quote begins or ends a string
        text = text.replace(b"\\\\", b"").replace(b'\\"', b"")
    brackets = b"".join(text.translate(_BRACKETS, _NOT_BRACKETS).split(b'"')[::2])
    for _ in range(_USUAL_DEPTH):
        brackets = brackets.replace(b"[]", b"")  # the innermost level
        if not brackets:
            return True
    return False


def replace_lone_surrogates(body: bytes) -> Generator[None, None, bytes]:
    r"""Replace each by `\ufffd`, so that msgspec reads the text. Nothing moves: the length is the same.

    Raises:
        BidRequestError: a NUL, which no JSON contains.
    """
    if b"\0" in body:
        raise BidRequestError(_REFUSAL)
    if b"\\u" not in body:
        return body
    text = bytearray(body)
    marked = body.replace(_ESCAPED_BACKSLASH, _PLACEHOLDER)
    for index, found in enumerate(_LONE_SURROGATE.finditer(marked)):
        text[found.start() : found.end()] = rb"\ufffd"
        if index % _PER_STEP == 0:
            yield
    return bytes(text)


def check_object(text: bytes) -> None:
    """Check that a text without lone surrogates is a JSON object. Its depth is not checked.

    Raises:
        BidRequestError: it is not.
    """
    try:
        _check_syntax(text)
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError):
        is_object = False
    else:
        is_object = is_utf8(text)
    if not is_object:
        raise BidRequestError(_REFUSAL)


def refuse_depth() -> NoReturn:
    """Raise the error for a text that is nested too deeply."""
    raise BidRequestError(f"the body is not a JSON object of at most {MAX_DEPTH} levels")
