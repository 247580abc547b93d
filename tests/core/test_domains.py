"""Normalisation of domain and app names in bid requests."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bidstream_svc.core.domains import load_public_suffixes, normalise_domain, registrable_domain


@pytest.mark.parametrize(
    ("name", "normalised"),
    [
        ("example.com", "example.com"),
        ("Example.COM", "example.com"),
        (" Example.COM. \n", "example.com"),
        ("example.com..", "example.com."),
        (".", ""),
        ("", ""),
        ("com.Acme.Game", "com.acme.game"),
        ("M\u00dcNCHEN.example", "m\u00fcnchen.example"),
    ],
)
def test_normalise(name: str, normalised: str) -> None:
    assert normalise_domain(name) == normalised


@pytest.mark.parametrize(
    ("name", "domain"),
    [
        ("example.com", "example.com"),
        ("a.b.example.com", "example.com"),
        ("news.bbc.co.uk", "bbc.co.uk"),
        ("bbc.co.uk", "bbc.co.uk"),
        ("a.b.city.kawasaki.jp", "city.kawasaki.jp"),
        ("a.b.other.kawasaki.jp", "b.other.kawasaki.jp"),
        ("user.github.io", "user.github.io"),
        ("www.m\u00fcnchen.de", "m\u00fcnchen.de"),
        ("www.xn--mnchen-3ya.de", "xn--mnchen-3ya.de"),
        # A bundle id that ends in a top-level domain cannot be told from a host name.
        ("com.acme.game", "acme.game"),
        ("com.acme.shooter", None),
        ("co.uk", None),
        ("com", None),
        ("localhost", None),
        ("192.0.2.7", None),
        ("[2001:db8::1]", None),
        ("2001:db8::1", None),
        ("host.internal", None),
        ("www..example.com", None),
        (".example.com", None),
        ("..", None),
        ("", None),
    ],
)
def test_registrable(name: str, domain: str | None) -> None:
    assert registrable_domain(name) == domain


@given(st.text(st.characters(categories=None)) | st.text("a.co\u00e9-*!"))
def test_registrable_is_an_end_of_the_name_or_nothing(text: str) -> None:
    name = normalise_domain(text)
    domain = registrable_domain(name)
    assert domain is None or f".{name.removesuffix('.').lower()}".endswith(f".{domain}")


def test_list_is_read_once() -> None:
    assert load_public_suffixes() is load_public_suffixes()
