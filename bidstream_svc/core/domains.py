"""Normalisation of domain and app names, so that those of a bid request compare with those of a site."""

from collections.abc import Callable, Container, Iterable
from functools import cache

from idna import IDNAError, uts46_remap
from publicsuffixlist import PublicSuffixList

MAX_CHARACTERS = 255  # RFC 1035, section 2.3.4, has these two limits
_MAX_LABEL_CHARACTERS = 63
_A_LABEL_PREFIX = "xn--"


def normalise_domain(name: str) -> str:
    """Strip whitespace, lower-case, and drop one trailing dot: `" Example.COM. "` becomes `"example.com"`.

    The IDNA form of a name becomes the name: `"xn--bcher-kva.de"` and `"BÜCHER.de"` both become `"bücher.de"`. A name
    of more than 255 characters becomes `""`. No text raises.
    """
    if len(name) > MAX_CHARACTERS:
        return ""
    name = name.strip()
    name = name.lower() if name.isascii() else _map_characters(name)
    if _A_LABEL_PREFIX in name:
        name = ".".join(map(_u_label, name.split(".")))
    return name.removesuffix(".")


def _map_characters(name: str) -> str:
    """Map upper case, full-width letters and other variants to one form; only lower-case a name that is not allowed.

    Source: UTS 46, section 4 (https://www.unicode.org/reports/tr46/), with UseSTD3ASCIIRules=false.
    """
    try:
        return uts46_remap(name, std3_rules=False)
    except IDNAError:
        return name.lower()


def _u_label(label: str) -> str:
    """Decode `xn--bcher-kva` to `bücher`. Any label that is not the IDNA form of another is returned unchanged.

    What IDNA 2008 forbids to register is decoded as well, because names are only compared: `☃.net` and its A-label are
    one name for a browser.

    Source: UTS 46, section 4; RFC 5890, section 2.3.2.1.
    """
    if not label.startswith(_A_LABEL_PREFIX) or len(label) > _MAX_LABEL_CHARACTERS:
        return label
    try:
        decoded = label.removeprefix(_A_LABEL_PREFIX).encode("ascii").decode("punycode")
        # Without this check, `xn--abc-` would be another spelling of `abc`.
        is_canonical = not decoded.isascii() and uts46_remap(decoded, std3_rules=False) == decoded
    except UnicodeError:  # includes IDNAError
        return label
    return decoded if is_canonical else label


@cache
def load_public_suffixes() -> PublicSuffixList:
    """Load the bundled Public Suffix List, and the tables of IDNA. Call it before serving: it takes about 30 ms."""
    _map_characters("ü")  # idna reads its tables at the first use
    "ü".encode("punycode")  # and Python its codec
    # Normalised names have no suffix of the list in its IDNA form. To encode them all takes three times as long.
    return PublicSuffixList(accept_unknown=False, accept_encoded_idn=False)


def registrable_domain(name: str) -> str | None:
    """Return the registrable domain of a normalised host name: `bbc.co.uk` for `news.bbc.co.uk`.

    None if the name has no public suffix: IP addresses, `localhost`, and most bundle ids, such as `com.acme.shooter`
    (but not `com.acme.game`, because `game` is a top-level domain).

    Source: https://publicsuffix.org.
    """
    domain: str | None = load_public_suffixes().privatesuffix(name)
    return domain


def is_registered(name: str, registered: Container[str]) -> bool:
    """Return whether a normalised name or its registrable domain is among the names that a site has registered."""
    if name in registered:
        return True
    # The registrable domain is the name or one of its parents. To find it takes twenty times as long as to look for
    # all of them, and for most names that are not registered there is none.
    parent = name.rstrip(".")
    while parent:
        if parent in registered:
            return registrable_domain(name) in registered
        parent = parent.partition(".")[2]
    return False


class NameCandidates:
    """The domain and app names of one bid request. Any of them that is registered passes the domain check.

    Names are read and normalised when a token first needs them, and once for all tokens of the request.

    Args:
        read: returns (field, name) pairs in the order in which they are tried.

    Attributes:
        matched: the field whose name was found registered; None before that.
    """

    __slots__ = ("_first", "_names", "_read", "matched")

    def __init__(self, read: Callable[[], Iterable[tuple[str, str]]]) -> None:
        self._read = read
        self._first: tuple[str, str] | None = None
        self._names: list[tuple[str, str]] | None = None
        self.matched: str | None = None

    def __bool__(self) -> bool:
        """Whether there is a name at all."""
        return bool(self._normalised())

    def first(self) -> tuple[str, str]:
        """Return the first field with a name, and that name as it came; two empty strings if there is none."""
        if self._first is None:
            self._first = next((pair for pair in self._read() if pair[1]), ("", ""))
        return self._first

    def find(self, registered: Container[str]) -> bool:
        """Find the first name that is registered, as it is or by its registrable domain, and set `matched`."""
        for field, name in self._normalised():
            if is_registered(name, registered):
                self.matched = field
                return True
        return False

    def _normalised(self) -> list[tuple[str, str]]:
        if self._names is None:
            normalised = [(field, normalise_domain(name)) for field, name in self._read()]
            self._names = [(field, name) for field, name in normalised if name]
        return self._names
