"""Vectors for the domain check of client-side tokens."""

from typing import Any

from tests.vectors.inputs import (
    LISTED_SITE,
    MISSING_NAMES_SITE,
    NO_NAMES_SITE,
    NULL_NAMES_SITE,
    UNLISTED_SITE,
    build,
)
from tests.vectors.record import failure, success

CLIENT_SIDE = 0x2
# Where the published SDK for Python looks: bit 1 counted from the most significant.
WRONG_END = 0x40000000

_LISTED = {
    "as listed": "example.com",
    "upper case": "EXAMPLE.com",
    "a trailing dot": "example.com.",
    "white space around": " example.com\t",
    "a subdomain": "www.example.com",
    "a subdomain in upper case, as the reference has it": "Subdomain.EXAMPLE.com",
    "a deep subdomain": "a.b.c.example.com",
    "under a suffix of two parts": "example.co.uk",
    "a subdomain under a suffix of two parts": "news.example.co.uk",
    "a bundle id": "com.acme.shooter",
    "a bundle id in upper case": "com.Acme.Shooter",
    "an IP address": "192.0.2.7",
    "a listed subdomain": "shop.example.net",
    "an IDNA form as listed": "xn--bcher-kva.de",
    "the name of an IDNA form": "bücher.de",
    "a subdomain of it, decomposed and in upper case": "www.BU\u0308CHER.DE",
    "a name as listed that is not ASCII": "straße.de",
    "its IDNA form in upper case": "XN--STRAE-OQA.de",
}
_NOT_LISTED = {
    "another": "example.org",
    "a longer name": "notexample.com",
    "listed name as a subdomain": "example.com.example.org",
    "a part of a listed name": "example",
    "a suffix": "co.uk",
    "a top-level domain": "com",
    "a part of a bundle id": "com.acme",
    "more than a bundle id": "com.acme.shooter.free",
    "another IP address": "192.0.2.8",
    "an IP address whose end is listed": "1.192.0.2.7",
    "parent of a listed subdomain": "example.net",
    "below a listed subdomain": "a.shop.example.net",
    "beside a listed subdomain": "blog.example.net",
    "an empty label": "www..example.com",
    "a leading dot": ".example.com",
    "a URL": "https://example.com/",
    "a port": "example.com:443",
    "a space within": "example. com",
    "a lone surrogate": "\ud800.com",
    "an IDNA form of another name": "xn--bchr-kva.de",
    "an IDNA form that is not valid": "xn--bcher-kva9.de",
    "two letters for one": "strasse.de",
}
_NO_DOMAIN = {
    "null": None,
    "empty": "",
    "white space": " \t",
    "a dot": ".",
    "a number": 5,
    "a list": ["example.com"],
    "256 characters": "a." * 122 + " example.com",
}


def vectors() -> list[dict[str, Any]]:
    return [*_domains(), *_sites(), *_privacy_bits(), *_order()]


def _domains() -> list[dict[str, Any]]:
    token = build(4, privacy_bits=CLIENT_SIDE)
    return [
        *(success(11, f"listed: {name}", token, domain=domain) for name, domain in _LISTED.items()),
        *(failure(11, f"not listed: {n}", token, "domain_not_listed", domain=d) for n, d in _NOT_LISTED.items()),
        *(failure(11, f"no domain: {n}", token, "domain_missing", domain=d) for n, d in _NO_DOMAIN.items()),
    ]


def _sites() -> list[dict[str, Any]]:
    def token(site_id: int) -> Any:
        return build(4, privacy_bits=CLIENT_SIDE, site_id=site_id)

    listed, unlisted = token(LISTED_SITE), token(UNLISTED_SITE)
    return [
        failure(11, "site without site_data", unlisted, "site_unknown", domain="example.com"),
        failure(11, "site without names", token(NO_NAMES_SITE), "domain_not_listed", domain="example.com"),
        failure(11, "site with missing names", token(MISSING_NAMES_SITE), "domain_not_listed", domain="example.com"),
        failure(11, "site with null names", token(NULL_NAMES_SITE), "domain_not_listed", domain="example.com"),
        failure(11, "no site_data", listed, "site_unknown", keys="site_data missing", domain="example.com"),
        failure(11, "null site_data", listed, "site_unknown", keys="site_data null", domain="example.com"),
        failure(11, "no domain comes before no site", unlisted, "domain_missing"),
        success(11, "not of the client side, site without site_data", build(4, site_id=UNLISTED_SITE)),
        success(11, "not of the client side, no site_data at all", build(4), keys="site_data missing"),
        success(11, "not of the client side, any domain", build(4), domain="example.org"),
        success(11, "keys for sharing ask for no domain", listed, keys="sharing"),
    ]


def _privacy_bits() -> list[dict[str, Any]]:
    out = []
    for version in (2, 3, 4):
        set_bit = build(version, privacy_bits=CLIENT_SIDE)
        out += [
            failure(11, f"v{version}, bit 0x2, no domain", set_bit, "domain_missing"),
            success(11, f"v{version}, bit 0x2, listed domain", set_bit, domain="example.com"),
            success(11, f"v{version}, bit from the wrong end", build(version, privacy_bits=WRONG_END)),
            success(11, f"v{version}, every bit but 0x2 and 0x4", build(version, privacy_bits=0xFFFFFFF9)),
            failure(11, f"v{version}, every bit", build(version, privacy_bits=0xFFFFFFFF), "domain_missing"),
            success(11, f"v{version}, bit 0x1", build(version, privacy_bits=0x1)),
            success(11, f"v{version}, bit 0x8", build(version, privacy_bits=0x8)),
        ]
    return out


def _order() -> list[dict[str, Any]]:
    too_long = build(4, privacy_bits=CLIENT_SIDE, generated_ms=0)
    return [
        failure(11, "the domain comes before the lifetime", too_long, "domain_not_listed", domain="example.org"),
        failure(12, "the lifetime comes behind a good domain", too_long, "lifetime_too_long", domain="example.com"),
    ]
