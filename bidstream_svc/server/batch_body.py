"""Reads the body of a batch in short steps, so that no body stops the event loop for long.

A body of at most STEP_BYTES is decoded at once. The list in a longer one is cut into slices of at most STEP_BYTES that
are decoded one by one. A slice ends at a `}` that a comma follows. Such a `}` ends an element, or it is inside a string
or a nested object, and then the slice is not the content of a JSON list. If every slice is, together they are the list,
because there is only one way to read a JSON text.

Where that fails, the body has an unusual form or an error. It is then read value by value: fields of the body and
elements of `requests`. So none of them may be longer than STEP_BYTES, and a body that is longer than that may have at
most MAX_FIELDS fields.
"""

import re
from collections.abc import Callable, Generator
from typing import Annotated, NoReturn, TypeAlias

import msgspec

MAX_BATCH_TOKENS = 1_000
# The worst body of this length takes about 0.5 ms to decode.
STEP_BYTES = 32 * 1024
MAX_FIELDS = 64
_VALUES_PER_STEP = 64


class TokenRequest(msgspec.Struct, gc=False):
    """A request for one token: the body of `/decrypt`, and an element of a batch."""

    token: str
    domain: str | None = None
    # Not a Literal: the error message of that has the value.
    scope: Annotated[str, msgspec.Meta(pattern=r"\A(UID2|EUID)\Z")] | None = None


# Requests in order, in lists that were each made from at most about STEP_BYTES.
Parts: TypeAlias = list[list[TokenRequest]]


class _Batch(msgspec.Struct, gc=False):
    requests: Annotated[list[TokenRequest], msgspec.Meta(min_length=1, max_length=MAX_BATCH_TOKENS)]


_decode_whole = msgspec.json.Decoder(_Batch).decode
_decode_list = msgspec.json.Decoder(list[TokenRequest]).decode
decode_request: Callable[[bytes], TokenRequest] = msgspec.json.Decoder(TokenRequest).decode
_decode_name = msgspec.json.Decoder(str).decode
_skip_value = msgspec.json.Decoder(msgspec.Raw).decode

_OPENING = re.compile(rb'[ \t\n\r]{0,64}\{[ \t\n\r]{0,64}"requests"[ \t\n\r]{0,64}:[ \t\n\r]{0,64}\[')
_CLOSING = re.compile(rb"\][ \t\n\r]{0,64}\}[ \t\n\r]{0,64}\Z")
_MAX_CLOSING_BYTES = 130
_SPACE = re.compile(rb"[ \t\n\r]*")
_END_OF_ELEMENT = b"},"
_ERROR = re.compile(r"JSON is malformed: (.+) \(byte (\d+)\)")
_TRAILING = "trailing characters"


def decode_batch(body: bytes) -> list[TokenRequest]:
    """Return the requests in a body that is short enough to be decoded at once; errors as in `read_batch`."""
    return _decode_whole(body).requests


def read_batch(body: bytes, step_bytes: int = STEP_BYTES) -> Generator[None, None, Parts]:
    """Yield between the steps and return the requests in the body.

    Raises:
        msgspec.MsgspecError, UnicodeDecodeError, RecursionError: as the decoder of msgspec does.
    """
    if len(body) <= step_bytes:
        return [decode_batch(body)]
    parts = yield from _read_slices(body, step_bytes)
    if parts is None:
        parts = yield from _ValueReader(body, step_bytes).read()
    return parts


def _read_slices(body: bytes, step_bytes: int) -> Generator[None, None, Parts | None]:
    """Return the requests if the body has the usual form and is valid; None otherwise."""
    opening = _OPENING.match(body)
    closing = _CLOSING.search(body, max(0, len(body) - _MAX_CLOSING_BYTES))
    if opening is None or closing is None:
        return None
    parts: Parts = []
    view = memoryview(body)  # its slices are not copies
    count = 0
    start, end = opening.end(), closing.start()
    while start < end:
        is_last = end - start <= step_bytes
        slice_end = end if is_last else body.rfind(_END_OF_ELEMENT, start, start + step_bytes) + 1
        try:
            part = _decode_list(b"".join((b"[", view[start:slice_end], b"]")))
        except (msgspec.MsgspecError, ValueError, RecursionError):
            return None
        if not part:  # no `}` was found, or nothing is behind the last comma
            return None
        parts.append(part)
        count += len(part)
        if count > MAX_BATCH_TOKENS:
            _refuse_length()
        start = slice_end + 1  # behind the comma
        yield
    return parts


class _ValueReader:
    """Reads a batch value by value.

    Args:
        body: the body.
        step_bytes: the maximum length of a value.
    """

    def __init__(self, body: bytes, step_bytes: int) -> None:
        self._body = body
        self._step_bytes = step_bytes
        self._position = 0
        self._count = 0  # of elements

    def read(self) -> Generator[None, None, Parts]:
        """Read the body; see `read_batch`."""
        yield from self._skip_space()
        if self._body[self._position : self._position + 1] in {b"[", b'"'}:
            raise msgspec.ValidationError("Expected `object`")
        yield from self._expect(b"{")
        parts: Parts | None = None
        for _ in range(MAX_FIELDS):
            name = _decode_name((yield from self._read_value("$")))
            yield from self._expect(b":")
            if name == "requests":
                parts = yield from self._read_elements()
            else:
                yield from self._read_value("$")
            yield
            if (yield from self._expect(b",}")) == b"}":
                break
        else:
            raise msgspec.ValidationError(f"Expected `object` of length <= {MAX_FIELDS}")
        yield from self._skip_space()
        if self._position < len(self._body):
            raise msgspec.DecodeError
        if parts is None:
            raise msgspec.ValidationError("Object missing required field `requests`")
        return parts

    def _read_elements(self) -> Generator[None, None, Parts]:
        yield from self._skip_space()
        if self._body[self._position : self._position + 1] != b"[":
            yield from self._read_value("$.requests")
            raise msgspec.ValidationError("Expected `array` - at `$.requests`")
        self._position += 1
        parts: Parts = [[]]
        index, part_start, end = 0, self._position, b","
        while end == b",":
            if self._count >= MAX_BATCH_TOKENS:
                _refuse_length()
            element = yield from self._read_value(f"$.requests[{index}]")
            try:
                parts[-1].append(decode_request(element))
            except msgspec.ValidationError as error:
                raise _with_path(error, index) from None
            self._count += 1
            index += 1
            end = yield from self._expect(b",]")
            if len(parts[-1]) >= _VALUES_PER_STEP or self._position - part_start >= self._step_bytes:
                parts.append([])
                part_start = self._position
                yield
        return parts

    def _read_value(self, path: str) -> Generator[None, None, bytes]:
        """Return the bytes of the value that follows, and of the space behind it."""
        yield from self._skip_space()
        start, limit = self._position, self._position + self._step_bytes
        window = self._body[start:limit]
        is_cut = limit < len(self._body)
        length = _length_of_value(window)
        if length is None and not is_cut:
            raise msgspec.DecodeError("Input data was truncated")
        if length is None or (is_cut and length == len(window) and window[-1:].isdigit()):  # perhaps half a number
            raise msgspec.ValidationError(f"Expected a value of at most {self._step_bytes} bytes - at `{path}`")
        self._position += length
        return self._body[start : self._position]

    def _expect(self, characters: bytes) -> Generator[None, None, bytes]:
        """Return the character that follows, which must be one of these."""
        yield from self._skip_space()
        found = self._body[self._position : self._position + 1]
        if not found or found not in characters:
            raise msgspec.DecodeError
        self._position += 1
        return found

    def _skip_space(self) -> Generator[None, None, None]:
        start, end = self._position, self._position + self._step_bytes
        while (found := _SPACE.match(self._body, start, end)) and found.end() == end:
            start, end = end, end + self._step_bytes
            yield
        assert found is not None
        self._position = found.end()


def _length_of_value(text: bytes) -> int | None:
    """Return where the JSON value at the start of a text, and the space behind it, ends; None if it is incomplete.

    Only the message of msgspec's error has the position. The scanner of `json` takes up to a hundred times as long,
    because it makes objects.

    Raises:
        msgspec.DecodeError: it is malformed.
        RecursionError: it is nested too deeply.
    """
    try:
        _skip_value(text)
    except msgspec.DecodeError as error:
        found = _ERROR.fullmatch(str(error))
        if found is None:  # "Input data was truncated"
            return None
        reason, position = found[1], int(found[2])
        if reason == _TRAILING:
            return position - 1
        if position >= len(text):  # a number ends with `e`, `.` or `-`
            return None
        raise
    return len(text)


def _with_path(error: msgspec.ValidationError, index: int) -> msgspec.ValidationError:
    """Return the error that msgspec raises for this element in its batch."""
    message, _, path = str(error).partition(" - at `$")
    return msgspec.ValidationError(f"{message} - at `$.requests[{index}]{path or '`'}")


def _refuse_length() -> NoReturn:
    raise msgspec.ValidationError(f"Expected `array` of length <= {MAX_BATCH_TOKENS} - at `$.requests`")
