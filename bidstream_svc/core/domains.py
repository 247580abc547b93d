"""Normalisation of domain and app names, so that those of a bid request compare with those of a site."""

from functools import cache

from publicsuffixlist import PublicSuffixList


def normalise_domain(name: str) -> str:
    """Strip whitespace, lower-case, and drop one trailing dot: `" Example.COM. "` becomes `"example.com"`."""
    return name.strip().lower().removesuffix(".")


@cache
def load_public_suffixes() -> PublicSuffixList:
    """Load the bundled Public Suffix List. The first call takes about 80 ms, so make it before serving."""
    return PublicSuffixList(accept_unknown=False)


def registrable_domain(name: str) -> str | None:
    """Return the registrable domain of a normalised host name: `bbc.co.uk` for `news.bbc.co.uk`.

    None if the name has no public suffix: IP addresses, `localhost`, and most bundle ids, such as `com.acme.shooter`
    (but not `com.acme.game`, because `game` is a top-level domain).

    Source: https://publicsuffix.org.
    """
    domain: str | None = load_public_suffixes().privatesuffix(name)
    return domain
