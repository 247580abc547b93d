"""Identities from people's files, checked more strictly than operators do.

An operator hashes whatever has one `@`. So `Bob <a@x.com>` and `mailto:a@x.com` would get raw uids, of nobody. Files
hold such values by mistake, and here they are invalid.
"""

import re
import unicodedata

from bidstream_svc.core.errors import IdentityError
from bidstream_svc.core.identity import Identity, IdentityKind, hash_identity, normalise_email

_MAX_ADDRESS_LENGTH = 254  # RFC 5321, 4.5.3.1.3, without the angle brackets
# RFC 5322, 3.2.3 (atext) and dots, anywhere: some mobile operators have given out addresses with `..` and `.@`. Less is
# accepted than there, because of what exports and templates leave: marks at the start, `{{`, bars, `%40`, `email=`.
_ATEXT = r"A-Za-z0-9!#$%&'*+\-/=?^_`~."
_PERCENT_ENCODED = re.compile("%[0-9A-Fa-f]{2}")
_ESCAPED_BRACKET = re.compile("u003[CEce]")  # of JSON's `\u003c` and `\u003e`, without the backslash
_ADDRESS = re.compile(
    rf"(?!{_ESCAPED_BRACKET.pattern})(?![^@+]*=)(?![^@]*{_PERCENT_ENCODED.pattern})[A-Za-z0-9_+\-.][{_ATEXT}]*@"
    r"(?:[A-Za-z0-9_](?:[A-Za-z0-9_-]*[A-Za-z0-9_])?\.)+"  # RFC 1035, 2.3.1, and underscores, which some hosts have
    r"(?:[A-Za-z]{2,}|[Xx][Nn]--[A-Za-z0-9-]*[A-Za-z0-9])",  # RFC 3696, 2: no top-level domain is of digits
    re.ASCII,
)
_FOREIGN_CHARACTER = re.compile(rf"[^{_ATEXT}@]")
_BAD_STARTS = "!#$%&'*/=?^`~"
_NON_ASCII = re.compile(r"[^\x00-\x7f]")
_WORD_CATEGORIES = frozenset("LMN")  # letters, marks, numbers
_MENTION_OF_HASH = re.compile(r"[0-9A-Fa-f]{64}|[A-Za-z0-9+/]{43}=", re.ASCII)
_MENTION = {
    IdentityKind.EMAIL: re.compile("@"),
    IdentityKind.PHONE: re.compile(r"[0-9](?:[ ()./-]*[0-9]){8}", re.ASCII),
    IdentityKind.EMAIL_HASH: _MENTION_OF_HASH,
    IdentityKind.PHONE_HASH: _MENTION_OF_HASH,
}
_HASH_OF_NOTHING = hash_identity("")


def parse_person(kind: IdentityKind, text: str) -> Identity:
    """Make a hashed identity from a value in a file.

    Whitespace around the value is ignored. An address must be one that a mail server could have, and a hash must not be
    that of an empty text.

    Raises:
        IdentityError: the value is malformed for its kind. The message names at most one character of it, and no letter
            or digit.
    """
    text = text.strip()
    if kind is IdentityKind.EMAIL:
        _check_address(text)
    identity = Identity.parse(kind, text)
    if identity.value == _HASH_OF_NOTHING:
        raise IdentityError("identity hash is that of an empty text")
    return identity


def mentions_person(kind: IdentityKind, text: str) -> bool:
    """Whether a part of a text may be meant as a value of this kind, valid or not."""
    return _MENTION[kind].search(text) is not None


def _check_address(text: str) -> None:
    if len(text) <= _MAX_ADDRESS_LENGTH:
        if _ADDRESS.fullmatch(text):
            return
        # RFC 6531: any letter outside ASCII may stand where an ASCII letter may.
        if (
            not text.isascii()
            and all(_is_word(character) for character in _NON_ASCII.findall(text))
            and unicodedata.is_normalized("NFKC", text)
            and _ADDRESS.fullmatch(_NON_ASCII.sub("x", text))
        ):
            return
    _explain(text)


def _explain(text: str) -> None:
    """Raise IdentityError for a text that is not an address."""
    if "@" not in text:
        normalise_email(text)
    for character in _FOREIGN_CHARACTER.findall(text):
        if unicodedata.category(character) == "Cs" or character == "\N{REPLACEMENT CHARACTER}":
            raise IdentityError("identity is not valid Unicode text")
        if not _is_word(character):
            raise IdentityError(f"not an e-mail address: contains {_describe(character)}")
    normalise_email(text)
    if len(text) > _MAX_ADDRESS_LENGTH:
        raise IdentityError(f"not an e-mail address: longer than {_MAX_ADDRESS_LENGTH} characters")
    if not unicodedata.is_normalized("NFKC", text):  # full-width letters, or accents that are characters by themselves
        raise IdentityError("not an e-mail address: not in Unicode normalisation form NFKC")
    if text[0] in _BAD_STARTS:
        raise IdentityError(f"not an e-mail address: begins with {_describe(text[0])}")
    local = text.partition("@")[0]
    if _ESCAPED_BRACKET.match(local):
        raise IdentityError("not an e-mail address: begins with an escaped angle bracket")
    if "=" in local.partition("+")[0]:
        raise IdentityError("not an e-mail address: has = before any +, as `email=` has")
    if _PERCENT_ENCODED.search(local):
        raise IdentityError("not an e-mail address: has a percent-encoded character")
    raise IdentityError("not an e-mail address: what follows the @ is not a domain")


def _is_word(character: str) -> bool:
    return not character.isascii() and unicodedata.category(character)[0] in _WORD_CATEGORIES


def _describe(character: str) -> str:
    """Name a character that is neither a letter nor a digit."""
    name = unicodedata.name(character, "a control character").lower()
    return f"U+{ord(character):04X} ({name})"
