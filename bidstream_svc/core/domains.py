"""Domain and app names as bid requests spell them, compared with those a site has registered."""

from functools import cache

from publicsuffixlist import PublicSuffixList


def normalise_domain(name: str) -> str:
    """Trim, lower-case and drop one trailing dot: `" Example.COM. "` becomes `"example.com"`."""
    return name.strip().lower().removesuffix(".")


@cache
def load_public_suffixes() -> PublicSuffixList:
    """Read the Public Suffix List that the package ships (about 80 ms, once); call it before the first token."""
    return PublicSuffixList(accept_unknown=False)


def registrable_domain(name: str) -> str | None:
    """The part of a normalised host name that somebody can register: `news.bbc.co.uk` gives `bbc.co.uk`.

    None where the list knows no suffix of the name: most bundle ids (`com.acme.shooter`; not `com.acme.game`,
    whose last part happens to be a top-level domain), IP addresses, `localhost`.
    """
    domain: str | None = load_public_suffixes().privatesuffix(name)
    return domain
