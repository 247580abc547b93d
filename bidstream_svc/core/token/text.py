"""The base64 spellings of a token: standard or URL-safe alphabet, padded or not.

Read strictly, which means: one alphabet, right padding or (base64url tradition) none at all, no stray character and no
unused bit set. So each spelling stands for other bytes, and changing a character of a token never leaves it the same
token.
"""

import pybase64

_URL_ALPHABET = b"-_"
# What a text lacks, by its length % 4. No spelling has length % 4 == 1, and no decoder takes "===".
_PADDINGS = ("", "===", "==", "=")
# The last characters whose unused bits are zero, by the number of bytes % 3: a full last group has no unused bits.
# "=" is none of them: whoever looks at the last character of a text that lacks padding finds half a padding, too.
_FINAL_CHARACTERS = ("", "AQgw", "AEIMQUYcgkosw048")


def decode_text(token: str) -> bytes:
    """The bytes of a token in any spelling; `native` has the same in C.

    Raises:
        ValueError: it is no strict base64.
    """
    padding = _PADDINGS[len(token) % 4]
    is_url_safe = "-" in token or "_" in token
    if is_url_safe and ("+" in token or "/" in token):
        raise ValueError("of two alphabets")
    # Given an alphabet, even the standard one, the decoder first copies the text.
    raw = pybase64.b64decode(token + padding, _URL_ALPHABET if is_url_safe else None, True)
    rest = len(raw) % 3
    if rest and token[-1 if padding else rest - 4] not in _FINAL_CHARACTERS[rest]:
        raise ValueError("an unused bit is set")
    return raw


def is_padded_standard(token: str) -> bool:
    """Whether a token that decodes is spelt as versions 2 and 3 must be."""
    return len(token) % 4 == 0 and "-" not in token and "_" not in token
