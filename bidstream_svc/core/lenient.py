"""What operators, and proxies before them, write in more than one way: integers and text in JSON, and base64.

Some encoders write 259200.0 or "259200" where an integer is meant, and break base64 into lines of 76 characters.
`Integer` and `Base64` in a msgspec type accept that, at any depth. Others cut a text in the middle of a character and
leave half of a surrogate pair; only the text itself is invalid then, and not the JSON around it.

Source: docs/protocol.md, section 2; RFC 2045, section 6.8, for the lines; RFC 8259, section 8.2, for surrogates.
"""

import re
from collections.abc import Callable
from typing import TYPE_CHECKING, TypeAlias, TypeVar

import msgspec
import pybase64

_T = TypeVar("_T")

# At most as many digits as 64 bits need, because `int` refuses to read thousands.
_INTEGER_AS_TEXT = re.compile(r"(-?[0-9]{1,19})(?:\.0+)?")
_MIN, _MAX = -(2**63), 2**63 - 1
_WHITESPACE = b" \t\r\n\v\f"
# An escape in JSON. Whole pairs are matched before halves, and an escaped backslash hides what follows it.
_ESCAPE = re.compile(rb"\\(?:u[dD][89abAB]..\\u[dD][c-fC-F]..|(?P<half_pair>u[dD][89a-fA-F]..)|.)", re.DOTALL)
_NOT_UTF_8 = b"\xff"

if TYPE_CHECKING:
    Integer: TypeAlias = int
    Base64: TypeAlias = bytes
else:
    # msgspec passes the value of a field of an unknown type to a hook, and then checks the result with isinstance. With
    # these classes the result is a plain int, or plain bytes.

    class _TypeOfIntegers(type):
        def __instancecheck__(cls, instance: object) -> bool:
            return type(instance) is int

    class Integer(metaclass=_TypeOfIntegers):
        """An integer of at most 64 bits."""

    class _TypeOfBytes(type):
        def __instancecheck__(cls, instance: object) -> bool:
            return type(instance) is bytes

    class Base64(metaclass=_TypeOfBytes):
        """Bytes in base64."""


def make_decoder(shape: type[_T]) -> Callable[[str | bytes | msgspec.Raw], _T]:
    """Make a function that decodes JSON into a msgspec type, which may contain `Integer` and `Base64`.

    The function raises msgspec.MsgspecError, ValueError or RecursionError if the JSON is malformed. The messages of
    msgspec name the field, and never contain its value. A text that is not valid Unicode is an error only if it is
    decoded; in a `msgspec.Raw` it stays invalid.
    """
    decode = msgspec.json.Decoder(shape, dec_hook=_decode_value).decode

    def decode_lenient(json: str | bytes | msgspec.Raw) -> _T:
        try:
            return decode(json)
        except msgspec.ValidationError:
            raise
        except msgspec.DecodeError:
            marked = _mark_half_pairs(json.encode() if isinstance(json, str) else bytes(json))
            if marked is None:
                raise
        return decode(marked)

    return decode_lenient


def _mark_half_pairs(json: bytes) -> bytes | None:
    """Replace half surrogate pairs by a byte that no text has, because msgspec would refuse all of the JSON.

    Returns None if there are none.
    """
    marked = _ESCAPE.sub(lambda escape: _NOT_UTF_8 if escape["half_pair"] else escape[0], json)
    return marked if _NOT_UTF_8 in marked else None


def decode_base64(text: bytes | str) -> bytes:
    """Decode padded standard base64; whitespace is ignored.

    Raises:
        ValueError: not base64. The message does not contain the text.
    """
    try:
        return pybase64.b64decode(text, validate=True)
    except ValueError:  # removing whitespace first would take ten times as long as decoding
        ascii_text = text.encode("ascii", "replace") if isinstance(text, str) else text
        return pybase64.b64decode(ascii_text.translate(None, _WHITESPACE), validate=True)


def _decode_value(kind: type, value: object) -> object:
    return _decode_integer(value) if kind is Integer else _decode_bytes(value)


def _decode_integer(value: object) -> int:
    number: int | None = None
    if isinstance(value, int) and not isinstance(value, bool):
        number = value
    elif isinstance(value, float) and value.is_integer():
        number = int(value)
    elif isinstance(value, str) and (text := _INTEGER_AS_TEXT.fullmatch(value)):
        number = int(text[1])
    if number is None or not _MIN <= number <= _MAX:
        raise ValueError("Expected an integer of at most 64 bits")
    return number


def _decode_bytes(value: object) -> bytes:
    try:
        if isinstance(value, str):
            return decode_base64(value)
    except ValueError:
        pass
    raise ValueError("Expected base64") from None
