"""What tells the base64 spellings of a token apart: standard or URL-safe alphabet, padded or not.

`decrypt` reads them strictly, which means: one alphabet, right padding or (base64url tradition) none at all, no stray
character and no unused bit set. So each spelling stands for other bytes, and changing a character of a token never
leaves it the same token.
"""

__all__ = ["FINAL_CHARACTERS", "PADDINGS", "URL_ALPHABET"]

URL_ALPHABET = b"-_"
# What a text lacks, by its length % 4. No spelling has length % 4 == 1, and no decoder takes "===".
PADDINGS = ("", "===", "==", "=")
# The last characters whose unused bits are zero, by the number of bytes % 3: a full last group has no unused bits.
# "=" is none of them: whoever looks at the last character of a text that lacks padding finds half a padding, too.
FINAL_CHARACTERS = ("", "AQgw", "AEIMQUYcgkosw048")
