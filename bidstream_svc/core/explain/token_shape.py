"""What a text is that is not a token, or how a token was spoilt on its way. It is only described, never quoted."""

import re
from collections.abc import Iterator
from typing import NamedTuple

from bidstream_svc.core.explain.plain_words import plural
from bidstream_svc.core.token import decode_text, v2, v3, v4

_REFRESH_TOKEN_CHARACTERS = 388
_RAW_UID_LENGTHS = (32, 33)
_GCM_TOKEN_LENGTHS = (163, 164)  # bytes of versions 3 and 4, with raw uids of 32 and 33 bytes
_V2_LENGTH_OF_BLOCKS = 5 + 16  # bytes before the encrypted blocks of version 2
_V2_MIN_LENGTH = 133
_BLOCK = 16
_MIN_PREFIXED = 20  # characters behind a prefix; `=` at the end is padding
_MAX_TEMPLATE = 200
_MAX_EXAMINED = 4096  # characters; to look at more closely would hold up others, and no token is so long

_QUOTES = "\"'`\u201c\u201d\u2018\u2019\u00ab\u00bb"
_PERCENT = re.compile(r"%([0-9A-Fa-f]{2})")
_ENTITY = re.compile(r"&(?:#[0-9]{1,4}|#[xX][0-9A-Fa-f]{1,4}|amp|equals|plus|sol|quot);")
_KNOWN_PREFIX = re.compile(r"(uid2|euid|advertising_token|token|bearer|id)\s*[:= ]\s*", re.IGNORECASE)
_PREFIX = re.compile(r"[A-Za-z0-9_.-]{1,30}[:=]")
_TEMPLATE = re.compile(r"\{\{.*\}\}|\{[\w.]+\}|\$\{.*\}|%%.*%%|\[[A-Za-z0-9_ ]+\]|<[A-Za-z0-9_ ]+>|__[A-Z0-9_]+__")
_PLACEHOLDERS = {"null", "undefined", "none", "nan", "optout", "token", "true", "false", "[object object]"}
_HEX = re.compile(r"(?:[0-9A-Fa-f]{2}){16,}")
_UUID = re.compile(r"[0-9A-Fa-f]{8}(?:-[0-9A-Fa-f]{4}){3}-[0-9A-Fa-f]{12}")
_FOREIGN = re.compile(r"[^A-Za-z0-9+/=_-]")


class Slip(NamedTuple):
    """What is wrong with a text.

    Attributes:
        text: a clause about "it": "it is in quotes".
        mended: the text without the fault, if that may be a token; else None.
    """

    text: str
    mended: str | None = None

    def __repr__(self) -> str:
        """Omit the mended text."""
        return f"Slip({self.text!r})"


def describe_slip(text: str) -> str | None:
    """Return what is wrong with how a token is written, as a clause about "it"; None if nothing is."""
    if _version_of(text) is not None:
        return None
    slip = next(_slips(text), None)
    if slip is None:
        return None
    mended = slip.mended
    for _ in range(3):  # several faults at once, such as quotes around a percent-encoded token
        if mended is None:
            return slip.text
        version = _version_of(mended)
        if version is not None:
            return f"{slip.text}; without that it is a version {version} token"
        inner = next(_slips(mended), None)
        mended = None if inner is None else inner.mended
    return slip.text


def is_something_else(text: str) -> bool:
    """Return whether a text never was a token: it is empty, a template, a word, JSON or a URL."""
    return next(_slips_of_other_things(text), None) is not None


def describe_kind(raw: bytes, text: str) -> str | None:
    """Return what else bytes may be that do not decrypt, as a clause about "it"; None if that is not known."""
    if len(text) == _REFRESH_TOKEN_CHARACTERS:
        return "it has the 388 characters of a refresh token, which only the operator can read"
    if len(text) > _MAX_EXAMINED:
        return None
    if _UUID.fullmatch(text):
        return "it is a UUID, the id of another vendor or of a device"
    if _HEX.fullmatch(text):
        return "it is a hexadecimal number, such as a hash"
    if len(raw) in _RAW_UID_LENGTHS:
        return f"it has the {len(raw)} bytes of a raw uid or of a hash, and needs no decryption"
    return None


def describe_length(raw: bytes, version: int) -> str | None:
    """Return what is unusual about the length of a token, as a clause about "it"; None if nothing is."""
    length = len(raw)
    if version in {3, 4}:
        least, most = _GCM_TOKEN_LENGTHS
        if length < least:
            return f"it has {plural(length, 'byte')} of at least {least}, so it was cut off"
        if length > most:
            return f"it has {length} bytes, {length - most} more than usual, so something was appended"
        return None
    if length < _V2_MIN_LENGTH or (length - _V2_LENGTH_OF_BLOCKS) % _BLOCK:
        return f"it has {plural(length, 'byte')}, no whole token: it was cut off, or something was appended"
    return None


def version_of(raw: bytes) -> int | None:
    """Return the version that the first bytes of a token tell: 2, 3 or 4; None for anything else."""
    if raw[:1] == bytes([v2.PREFIX]):
        return 2
    return {bytes([v3.VERSION]): 3, bytes([v4.VERSION]): 4}.get(raw[1:2])


def _is_base64(text: str) -> bool:
    try:
        decode_text(text)
    except ValueError:
        return False
    return True


def _version_of(text: str) -> int | None:
    try:
        return version_of(decode_text(text))
    except ValueError:
        return None


def _slips(text: str) -> Iterator[Slip]:
    yield from _slips_of_other_things(text)
    if len(text) > _MAX_EXAMINED:
        yield Slip(f"it has {plural(len(text), 'character')}, and a token has a few hundred")
        return
    yield from _slips_around(text)
    yield from _slips_of_encoding(text)
    if not _is_base64(text):
        yield from _slips_of_base64(text)


def _slips_of_other_things(text: str) -> Iterator[Slip]:
    short = text.strip().strip(_QUOTES) if len(text) <= _MAX_TEMPLATE else ""
    if not text.strip():
        yield Slip("it is empty" if not text else "it is nothing but white space")
    if short.lower() in _PLACEHOLDERS:
        yield Slip(f"it is the word {short.lower()}, which a program wrote where it had no token")
    elif _TEMPLATE.fullmatch(short):
        yield Slip("it is a template or a macro that was not filled in")
    elif text.lstrip()[:1] in {"{", "["}:
        yield Slip(_kind_of_json(text))
    elif "://" in text[:16]:
        yield Slip("it is a URL")
    elif text.startswith("eyJ") and text.count(".") == 2:  # noqa: PLR2004 - the three parts of a JWT
        yield Slip("it is a JSON Web Token")
    elif "@" in text:
        yield Slip("it has an @, as e-mail addresses have")


def _kind_of_json(text: str) -> str:
    if '"advertising_token"' in text:
        return "it is a whole identity in JSON; the token is the value of advertising_token in it"
    if '"eids"' in text or '"imp"' in text:
        return "it is a bid request, which is to be explained as such"
    return "it is JSON, and not the token in it"


def _slips_around(text: str) -> Iterator[Slip]:
    if text != text.strip():
        yield Slip("it has white space around it", text.strip())
    if text[:1] in _QUOTES or text[-1:] in _QUOTES:
        yield Slip("it is in quotes", text.strip(_QUOTES + "\\"))
    if text.endswith(("...", "\u2026")):
        yield Slip("it ends in dots: what displayed it has cut it off")
    if known := _KNOWN_PREFIX.match(text):
        yield Slip(f"it has the prefix {known[1]} before it", text[known.end() :])
    elif (prefix := _PREFIX.match(text)) and len(text) - prefix.end() > _MIN_PREFIXED:
        yield Slip("it has a prefix before it", text[prefix.end() :])


def _slips_of_encoding(text: str) -> Iterator[Slip]:
    if _PERCENT.search(text):
        decoded = _PERCENT.sub(lambda found: chr(int(found[1], 16)), text)
        yield Slip("it is percent-encoded, as in a URL", decoded)
    if _ENTITY.search(text):
        yield Slip("it is encoded for HTML")
    if "\\" in text:
        yield Slip("it has the backslashes of a string in JSON", text.replace("\\/", "/").replace("\\u003d", "="))
    if any(each.isspace() for each in text):
        joined = "".join(text.split())
        with_plus = text.replace(" ", "+")
        if "+" not in text and _version_of(with_plus) is not None:
            yield Slip("it has spaces where + belongs, so it was decoded as a form", with_plus)
        yield Slip("it is broken by white space, as a line break in a mail, or is more than one token", joined)


def _slips_of_base64(text: str) -> Iterator[Slip]:
    if foreign := _FOREIGN.search(text):
        character = foreign[0]
        code = f"U+{ord(character):04X}"
        shown = f"{character} ({code})" if character.isprintable() else code
        yield Slip(f"character {foreign.start() + 1:,} is {shown}, which base64 does not have")
    elif "=" in text.rstrip("="):
        yield Slip("it has = within it, so it is more than one token")
    elif any(each in text for each in "+/") and any(each in text for each in "-_"):
        yield Slip("it mixes the two alphabets of base64, + and / with - and _")
    elif len(text.rstrip("=")) % 4 == 1:
        yield Slip(f"its length, {plural(len(text.rstrip('=')), 'character')}, is none of base64: it was cut off")
    elif "=" in text and len(text) % 4:
        yield Slip("its padding with = is incomplete", text.rstrip("="))
    else:
        yield Slip("its last character is not one that ends a token: it was cut off or changed")
