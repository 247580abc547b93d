"""Strict base64 decoding of tokens: standard or URL-safe alphabet, with or without padding.

Mixed alphabets, wrong padding, other characters and non-zero unused bits are errors. So changing a character of a token
always changes its bytes.

Source: RFC 4648, sections 3.5, 4 and 5.
"""

import pybase64

_URL_ALPHABET = b"-_"
# Missing padding by length % 4. A length % 4 of 1 is invalid, and so is "===".
_PADDINGS = ("", "===", "==", "=")
# The last characters whose unused bits are zero, by the number of bytes % 3; a full last group has no unused bits.
# "=" is not among them, so a text with half of its padding is refused as well.
_FINAL_CHARACTERS = ("", "AQgw", "AEIMQUYcgkosw048")


def decode_text(token: str) -> bytes:
    """Decode a token in either alphabet, padded or not.

    Raises:
        ValueError: not strict base64.
    """
    padding = _PADDINGS[len(token) % 4]
    is_url_safe = "-" in token or "_" in token
    if is_url_safe and ("+" in token or "/" in token):
        raise ValueError("mixed alphabets")
    # None because with any explicit alphabet pybase64 copies the text first.
    raw = pybase64.b64decode(token + padding, _URL_ALPHABET if is_url_safe else None, True)
    rest = len(raw) % 3
    if rest and token[-1 if padding else rest - 4] not in _FINAL_CHARACTERS[rest]:
        raise ValueError("unused bits are not zero")
    return raw


def is_padded_standard(token: str) -> bool:
    """Whether a valid base64 text is padded and in the standard alphabet, as versions 2 and 3 require."""
    return len(token) % 4 == 0 and "-" not in token and "_" not in token
