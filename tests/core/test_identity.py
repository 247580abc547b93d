"""Normalisation and hashes of identities, and errors that do not repeat the input."""

import base64
import hashlib
from collections.abc import Callable

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bidstream_svc.core.errors import BidstreamError, IdentityError
from bidstream_svc.core.identity import (
    Identity,
    IdentityKind,
    IdentityScope,
    IdentityType,
    hash_identity,
    normalise_email,
    normalise_hash,
    normalise_phone,
)

# /token/validate documents this one.
VALIDATE_HASH = "ntI244ZRTXwAwpki6/M5cyBYW7h/Wq576lnN3l9+W/c="


@pytest.mark.parametrize(
    ("address", "normalised"),
    [
        ("user@example.com", "user@example.com"),
        ("  User@Example.COM ", "user@example.com"),
        ("\tuser@example.com\n", "\tuser@example.com\n"),
        ("us.er+tag@example.com", "us.er+tag@example.com"),
        ("us.er@gmail.com", "user@gmail.com"),
        ("us.er+tag@gmail.com", "user@gmail.com"),
        ("U.S.E.R+a+b@GMAIL.com", "user@gmail.com"),
        ("user+a.b@gmail.com", "user@gmail.com"),
        ("us.er+tag@googlemail.com", "us.er+tag@googlemail.com"),
        ("us.er+tag@mail.gmail.com", "us.er+tag@mail.gmail.com"),
        ("us er@example.com", "user@example.com"),
        ("user@ example. com ", "user@ example. com"),
        ("JOS\u00c9@example.com", "jos\u00c9@example.com"),
        ("\u0130@example.com", "\u0130@example.com"),
        ("a@b", "a@b"),
    ],
)
def test_email(address: str, normalised: str) -> None:
    assert normalise_email(address) == normalised
    assert normalise_email(normalised) == normalised


@pytest.mark.parametrize(
    "address",
    [
        *("", " ", "@", "user", "user@", "@example.com", "user@@example.com", "a@b@c", "a@b@gmail.com"),
        *(" @example.com", "+tag@gmail.com", "...@gmail.com", ".+x@gmail.com"),
    ],
)
def test_email_refused_without_repeating_it(address: str) -> None:
    with pytest.raises(IdentityError) as caught:
        normalise_email(address)
    assert str(caught.value) == "not an e-mail address: exactly one @ between two non-empty parts is required"
    assert caught.value.__cause__ is caught.value.__context__ is None


@given(st.text() | st.from_regex(r"[a-zA-Z.+ ]+@(gmail|x)\.com", fullmatch=True))
def test_email_is_normalised_once_or_refused(address: str) -> None:
    try:
        normalised = normalise_email(address)
    except IdentityError:
        return
    assert normalised.count("@") == 1
    assert normalised == normalised.strip(" ")
    assert normalise_email(normalised) == normalised


@pytest.mark.parametrize("number", ["+1234567890", "+123456789012345", "+0000000000"])
def test_phone(number: str) -> None:
    assert normalise_phone(number) == number


@pytest.mark.parametrize(
    "number",
    [
        *("", "+", "1234567890", "+123456789", "+1234567890123456", "+1 234 567 8901", "+1-234-567-8901"),
        *("+(12)34567890", " +1234567890", "+1234567890 ", "+1234567890\n", "++1234567890", "+123456789a"),
        *("+\u0661\u0662\u0663\u0664\u0665\u0666\u0667\u0668\u0669\u0660", "\uff0b1234567890"),
    ],
)
def test_phone_refused_without_repeating_it(number: str) -> None:
    with pytest.raises(IdentityError) as caught:
        normalise_phone(number)
    assert str(caught.value) == "phone number is not in E.164 format: + and 10 to 15 digits are required"


def test_hash_of_the_documented_address() -> None:
    assert hash_identity(normalise_email(" Validate@Example.com")) == VALIDATE_HASH


@given(st.text(st.characters(exclude_categories=["Cs"])))
def test_hash_is_base64_of_sha256_of_utf8(text: str) -> None:
    hashed = hash_identity(text)
    assert hashed == base64.b64encode(hashlib.sha256(text.encode("utf-8")).digest()).decode()
    assert normalise_hash(hashed) == normalise_hash(hashlib.sha256(text.encode()).hexdigest()) == hashed


@pytest.mark.parametrize(
    "identify", [hash_identity, normalise_email, Identity.from_email, Identity.from_unhashed_email]
)
def test_a_lone_surrogate_is_refused_without_repeating_it(identify: Callable[[str], object]) -> None:
    with pytest.raises(IdentityError) as caught:
        identify("secret-name\ud800@example.com")
    assert "secret" not in str(caught.value)
    assert caught.value.__cause__ is None
    assert caught.value.__suppress_context__, "the context carries the text"


@pytest.mark.parametrize(
    "text",
    [
        "",
        "a",
        "user@example.com",
        VALIDATE_HASH[:-1],
        VALIDATE_HASH + "\n",
        " " + VALIDATE_HASH,
        "\ud800",
        "\u00e9" * 44,
    ]
    + [base64.b64encode(bytes(length)).decode() for length in (31, 33, 64)]
    + [VALIDATE_HASH[:-2] + "d="],
    ids=ascii,
)
def test_invalid_hashes(text: str) -> None:
    with pytest.raises(IdentityError) as caught:
        normalise_hash(text)
    assert str(caught.value).startswith("identity hash is not a SHA-256")
    assert caught.value.__cause__ is caught.value.__context__ is None


@pytest.mark.parametrize(
    ("kind", "text", "sent_as", "value", "identity_type"),
    [
        (IdentityKind.EMAIL, " Validate@Example.com", IdentityKind.EMAIL_HASH, VALIDATE_HASH, IdentityType.EMAIL),
        (IdentityKind.EMAIL_HASH, VALIDATE_HASH, IdentityKind.EMAIL_HASH, VALIDATE_HASH, IdentityType.EMAIL),
        (IdentityKind.PHONE, "+1234567890", IdentityKind.PHONE_HASH, hash_identity("+1234567890"), IdentityType.PHONE),
        (IdentityKind.PHONE_HASH, VALIDATE_HASH, IdentityKind.PHONE_HASH, VALIDATE_HASH, IdentityType.PHONE),
    ],
)
def test_a_parsed_identity_is_sent_hashed(
    kind: IdentityKind, text: str, sent_as: IdentityKind, value: str, identity_type: IdentityType
) -> None:
    identity = Identity.parse(kind, text)
    assert (identity.kind, identity.value, identity.identity_type) == (sent_as, value, identity_type)
    assert value not in repr(identity)


def test_an_identity_may_be_left_to_the_operator_to_hash() -> None:
    email = Identity.from_unhashed_email(" Validate@Example.com")
    assert (email.kind, email.value) == (IdentityKind.EMAIL, "validate@example.com")
    assert email.identity_type is IdentityType.EMAIL
    phone = Identity.from_unhashed_phone("+1234567890")
    assert (phone.kind, phone.value) == (IdentityKind.PHONE, "+1234567890")
    assert phone.identity_type is IdentityType.PHONE


@pytest.mark.parametrize("kind", IdentityKind)
def test_a_malformed_identity_is_refused_whatever_its_kind(kind: IdentityKind) -> None:
    with pytest.raises(IdentityError):
        Identity.parse(kind, "malformed")


def test_an_identity_error_can_be_caught_in_three_ways() -> None:
    assert issubclass(IdentityError, BidstreamError)
    assert issubclass(IdentityError, ValueError)


def test_scopes_and_types_have_the_values_of_the_wire() -> None:
    assert [(scope.name, scope.value) for scope in IdentityScope] == [("UID2", 0), ("EUID", 1)]
    assert [(kind.name, kind.value) for kind in IdentityType] == [("EMAIL", 0), ("PHONE", 1)]
