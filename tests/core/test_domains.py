"""Normalisation of domain and app names in bid requests."""

from pathlib import Path

import idna
import pytest
from hypothesis import assume, example, given
from hypothesis import strategies as st
from publicsuffixlist import PSLFILE

from bidstream_svc.core.domains import is_registered, load_public_suffixes, normalise_domain, registrable_domain


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
        ("xn--mnchen-3ya.example", "m\u00fcnchen.example"),
        ("XN--MNCHEN-3YA.Example.", "m\u00fcnchen.example"),
        ("mu\u0308nchen.example", "m\u00fcnchen.example"),
        ("www.xn--fiqs8s", "www.\u4e2d\u56fd"),
        ("www\u3002\u4e2d\u56fd\uff61", "www.\u4e2d\u56fd"),
        ("\uff45\uff58\uff41\uff4d\uff50\uff4c\uff45\uff0ecom", "example.com"),
        ("xn--n3h.net", "\u2603.net"),
        # Not the IDNA form of any name.
        ("xn--abc-.com", "xn--abc-.com"),
        ("xn--.com", "xn--.com"),
        ("xn--99999999.com", "xn--99999999.com"),
        ("xn--mnchen-1ra.com", "xn--mnchen-1ra.com"),
        ("xn--b\u00fccher.de", "xn--b\u00fccher.de"),
        (f"xn--{'a' * 70}-bua.de", f"xn--{'a' * 70}-bua.de"),
        ("A\ud800.xn--bcher-kva.de", "a\ud800.b\u00fccher.de"),
        # 255 characters, and one more.
        ("a" * 252 + ".de", "a" * 252 + ".de"),
        ("a" * 253 + ".de", ""),
        ("\u0130" * 256, ""),
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


@example("a.jp.co..", 1)
@example("com.com.de.", 0)
@given(st.text(st.characters(categories=None)) | st.text("a.co\u00e9-*!J"), st.integers(0, 5))
def test_registered_is_the_name_or_its_registrable_domain(text: str, parents: int) -> None:
    name = normalise_domain(text)
    domain = registrable_domain(name)
    parent = ".".join(name.split(".")[parents:])
    for registered in ({name}, {parent}, {parent, domain or ""}, {domain or ""}, {parent.rstrip(".")}, {"x"}):
        assert is_registered(name, registered) == (name in registered or domain in registered)


_names = st.text(
    st.characters(categories=("L", "M", "N", "P")) | st.sampled_from(".-aA\u00df\u3002\uff0e"), max_size=12
)


@example("xn--mnchen-3ya.example")
@example("\u0392\u038c\u039b\u039f\u03a3.gr")
@given(_names | st.builds("{}\u00fc.{}".format, _names, st.sampled_from(["de", "\u4e2d\u56fd", "xn--fiqs8s"])))
def test_a_name_and_its_idna_form_are_one_name(name: str) -> None:
    try:
        idna_form = idna.encode(name, uts46=True).decode("ascii")
    except idna.IDNAError:
        assume(False)
    assert normalise_domain(name) == normalise_domain(idna_form) == normalise_domain(idna_form.upper())


@given(
    st.text(st.characters(categories=None), max_size=300)
    | st.text("xn-a1.\u00fc9\ufdfa", max_size=20).map("xn--{}".format)
)
def test_normalisation_is_final(text: str) -> None:
    name = normalise_domain(text)
    assume(name == name.strip())  # an acute accent that stands alone is mapped to a space and a combining accent
    assert normalise_domain(f"{name}.") in {name, ""}


def test_suffixes_of_the_list_are_as_normalised() -> None:
    lines = Path(PSLFILE).read_text("utf-8").splitlines()
    suffixes = [line.lstrip("*.!") for line in lines if not (line.isascii() or line.startswith("//"))]
    assert len(suffixes) > 100
    for suffix in suffixes:
        assert normalise_domain(suffix) == suffix
        assert registrable_domain(normalise_domain("a." + idna.encode(suffix).decode("ascii"))) is not None


def test_list_is_read_once() -> None:
    assert load_public_suffixes() is load_public_suffixes()
