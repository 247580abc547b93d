"""Hashes of identities are those of the reference operator; vectors/normalisation.json says how they came about."""

from collections.abc import Callable
from typing import Any, NamedTuple

import pytest

from bidstream_svc.core.errors import IdentityError
from bidstream_svc.core.identity import Identity, IdentityKind, hash_identity
from tests.vectors.load import load


class Pair(NamedTuple):
    kind: IdentityKind
    text: str
    hashed: str | None  # None for what the operator refuses


GROUPS = load("normalisation.json")
PAIRS = [Pair(IdentityKind(group["kind"]), *pair) for group in GROUPS for pair in group["pairs"]]
UNHASHED: dict[IdentityKind, Callable[[str], Identity]] = {
    IdentityKind.EMAIL: Identity.from_unhashed_email,
    IdentityKind.PHONE: Identity.from_unhashed_phone,
}


def _hash(identify: Callable[[str], Identity], text: str) -> str | None:
    """The hash of the identity that a text names, whether it is sent hashed or not; None if it is refused."""
    try:
        identity = identify(text)
    except IdentityError:
        return None
    return hash_identity(identity.value) if identity.kind in UNHASHED else identity.value


def test_the_table_is_large_and_says_where_it_comes_from() -> None:
    assert len(PAIRS) >= 300
    assert {pair.kind for pair in PAIRS} == set(IdentityKind)
    assert all(group["rule"] and "operator" in group["provenance"] for group in GROUPS)


@pytest.mark.parametrize("group", GROUPS, ids=lambda group: f"{group['kind']}: {group['rule']}")
def test_the_hash_is_the_operators(group: dict[str, Any]) -> None:
    kind = IdentityKind(group["kind"])
    expected: dict[str, str | None] = dict(group["pairs"])
    assert {text: _hash(lambda each: Identity.parse(kind, each), text) for text in expected} == expected


@pytest.mark.parametrize("kind", UNHASHED)
def test_it_does_not_matter_who_hashes(kind: IdentityKind) -> None:
    expected = {pair.text: pair.hashed for pair in PAIRS if pair.kind is kind}
    assert {text: _hash(UNHASHED[kind], text) for text in expected} == expected


@pytest.mark.parametrize("kind", UNHASHED)
def test_what_is_normalised_stays_as_it_is(kind: IdentityKind) -> None:
    normalised = {UNHASHED[kind](pair.text).value for pair in PAIRS if pair.kind is kind and pair.hashed}
    assert normalised == {UNHASHED[kind](text).value for text in normalised}
