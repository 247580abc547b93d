"""Lines of JSON objects: the values that are asked for, and the text without one of the members."""

import re
from collections.abc import Callable, Iterable
from typing import Any

import msgspec

_SPACE = b" \t\r\n"
_STRING = rb'"[^"\\]*+(?:\\.[^"\\]*+)*+"'
_NAME = re.compile(rb"[ \t\r\n]*+(" + _STRING + rb")[ \t\r\n]*+:[ \t\r\n]*+", re.DOTALL)
_SCALAR = re.compile(_STRING + rb"|[^,\]}[{ \t\r\n]++", re.DOTALL)
_NEXT_BRACKET = re.compile(rb'[^"\[\]{}]*+(?:' + _STRING + rb'[^"\[\]{}]*+)*+([\[\]{}])', re.DOTALL)
_NEXT_MEMBER = re.compile(rb"[ \t\r\n]*+([,}])")
_PLAIN_NAME = re.compile(r"[A-Za-z0-9_]+")
ABSENT = msgspec.Raw()

_decode_text = msgspec.json.Decoder(str).decode

# A JSON object -> the JSON of each name's value, ABSENT where it has none.
ReadMembers = Callable[[bytes], tuple[msgspec.Raw, ...]]


def make_reader(names: Iterable[str]) -> ReadMembers:
    """Make a function that reads the values of some names. Of several members with one name, the last counts.

    The function raises msgspec.MsgspecError, UnicodeDecodeError or RecursionError if a text is not a JSON object. It
    does not check that what is not asked for is UTF-8.
    """
    fields = [
        (f"value{index}", msgspec.Raw, msgspec.field(name=name, default=ABSENT)) for index, name in enumerate(names)
    ]
    decode: Callable[[bytes], Any] = msgspec.json.Decoder(msgspec.defstruct("Members", fields, gc=False)).decode
    astuple = msgspec.structs.astuple
    return lambda line: astuple(decode(line))


def text_of(value: bytes) -> bytes | None:
    """Return the text of a JSON string, in UTF-8; None for any other value, and for what is not valid Unicode."""
    if not value.startswith(b'"'):
        return None
    if b"\\" not in value:
        return value[1:-1]
    try:
        return _decode_text(value).encode()
    except (msgspec.MsgspecError, UnicodeError):  # a lone surrogate
        return None


def make_remover(name: str) -> Callable[[bytes, bytes], bytes]:
    """Make a function from a JSON object, and the value of the name in it, to the object without members of the name.

    All other members stay as they are, byte for byte.
    """
    needle = b'"%b"' % name.encode()
    width = len(needle)
    is_plain = _PLAIN_NAME.fullmatch(name) is not None

    def remove(line: bytes, value: bytes) -> bytes:
        if is_plain and value:
            start = line.find(needle)
            value_start = line.find(value, start + width)
            end = value_start + len(value)
            # No other backslash and no second needle: the name is spelled nowhere else, and this is where it is.
            if (
                line[start + width : max(0, value_start)].strip(_SPACE) == b":"
                and line.find(b"\\", 0, start) < 0
                and line.find(b"\\", end) < 0
                and line.find(needle, end) < 0
            ):
                return _cut(line, start, end)
        return _remove_all(line, name)

    return remove


def _cut(line: bytes, start: int, end: int) -> bytes:
    """Cut a member out, and one comma."""
    rest = line[end:].lstrip(_SPACE)
    if rest.startswith(b","):
        return line[:start] + rest[1:].lstrip(_SPACE)
    return line[:start].rstrip(_SPACE).removesuffix(b",") + rest


def _remove_all(line: bytes, name: str) -> bytes:
    """Remove every member of a name, in whatever spelling."""
    position = line.index(b"{") + 1
    kept: list[bytes] = []
    while found := _NAME.match(line, position):
        end = _end_of_value(line, found.end())
        if _name_of(found[1]) != name:
            kept.append(line[position:end])
        behind = _NEXT_MEMBER.match(line, end)
        assert behind is not None  # it is valid JSON
        position = behind.end()
    return b"{" + b",".join(kept) + b"}"


def _name_of(text: bytes) -> str | None:
    try:
        return _decode_text(text)
    except (msgspec.MsgspecError, UnicodeError):
        return None


def _end_of_value(line: bytes, start: int) -> int:
    scalar = _SCALAR.match(line, start)
    if scalar is not None:
        return scalar.end()
    depth = 0
    for bracket in _NEXT_BRACKET.finditer(line, start):  # pragma: no branch - it is valid JSON
        depth += 1 if bracket[1] in b"[{" else -1
        if not depth:
            break
    return bracket.end()
