"""The base64 spellings of a token, read strictly.

Strict means: one alphabet, right padding or (base64url tradition) none at all, no stray character and no unused bit
set. So each spelling stands for other bytes, and changing a character of a token never leaves it the same token.
"""

import pybase64

__all__ = ["decode_token_text", "is_standard_base64"]

_URL_ALPHABET = b"-_"
_PADDINGS = ("", "===", "==", "=")  # by length % 4; no spelling has length % 4 == 1, and "===" is refused
# By the number of bytes in the last group: the last characters whose unused bits are zero. Group 0 is full.
_FINAL_CHARACTERS = (None, "AQgw", "AEIMQUYcgkosw048")


def decode_token_text(text: str) -> bytes:
    """Decode any of the four spellings: standard or URL-safe alphabet, padded or not.

    Raises:
        ValueError: it is none of them.
    """
    padding = _PADDINGS[len(text) % 4]
    if padding == "=" and text.endswith("="):
        raise ValueError("half of the padding")
    padded = text + padding
    if "-" in text or "_" in text:
        if "+" in text or "/" in text:
            raise ValueError("two alphabets in one text")
        raw = pybase64.b64decode(padded, _URL_ALPHABET, True)
    else:
        raw = pybase64.b64decode(padded, None, True)
    finals = _FINAL_CHARACTERS[len(raw) % 3]
    if finals is not None and padded[len(raw) % 3 - 3 - 1] not in finals:
        raise ValueError("unused bits are set")
    return raw


def is_standard_base64(text: str) -> bool:
    """Whether a text that `decode_token_text` accepts is in the standard alphabet, padded: what v2 and v3 ask for."""
    return len(text) % 4 == 0 and "-" not in text and "_" not in text
