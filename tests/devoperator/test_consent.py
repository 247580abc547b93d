"""Consent strings: those of our own encoder, and those that the specification and the operator's own tests show."""

import base64

import pytest

from bidstream_svc.devoperator.consent import ConsentStringError, read_consent
from tests.support.consent import INSUFFICIENT, OPERATOR, REQUIRED, SUFFICIENT, consent_string

MANY = (2, OPERATOR, 755)


@pytest.mark.parametrize(
    ("text", "is_sufficient"),
    [
        (SUFFICIENT, True),
        (SUFFICIENT + ".", True),
        (SUFFICIENT + ".IABgIA.QABgIA.YAAAAAAAAAAA", True),  # disclosed vendors, allowed vendors, publisher's consent
        (INSUFFICIENT, False),
        (consent_string(purposes=range(1, 25), vendors=(1, 2, 20, 22)), False),
        (consent_string(purposes=range(1, 25)), False),
        (consent_string(vendors=(OPERATOR,)), False),
        (consent_string(interest_purposes=REQUIRED, interest_vendors=(OPERATOR,)), True),
        (consent_string(interest_purposes=REQUIRED, vendors=(OPERATOR,)), False),
        # Some purposes by consent, the others by legitimate interest.
        (
            consent_string(
                purposes=(1, 3, 4),
                interest_purposes=(2, 7, 10),
                vendors=MANY,
                interest_vendors=MANY,
            ),
            True,
        ),
        (consent_string(purposes=(1, 3, 4), interest_purposes=(2, 7, 10), vendors=MANY), False),
        # Ranges.
        (consent_string(purposes=REQUIRED, vendors=(1, (20, 22), 700)), True),
        (consent_string(purposes=REQUIRED, vendors=(1, (22, 700), OPERATOR)), True),
        (consent_string(purposes=REQUIRED, vendors=(1, (22, 700))), False),
    ],
)
def test_consent(text: str, is_sufficient: bool) -> None:  # noqa: FBT001 - a parameter of the test
    assert read_consent(text).is_sufficient() is is_sufficient


def test_a_short_string_with_many_wide_ranges_stays_small() -> None:
    consent = read_consent(consent_string(purposes=REQUIRED, vendors=((1, 65_535),) * 4000))
    assert consent.is_sufficient()
    assert len(consent.vendors) == 4000


@pytest.mark.parametrize(
    "text",
    [
        "",
        "junk",
        "CPhJRpMPhJRpM",
        "not base64url!",
        "\ud800",
        SUFFICIENT[:-4],
        SUFFICIENT[:20],
        consent_string(purposes=REQUIRED, vendors=(OPERATOR,), version=1),
        base64.urlsafe_b64encode(bytes(64)).decode(),
        "C+" + SUFFICIENT[2:],
        "." + SUFFICIENT,
        consent_string(purposes=REQUIRED, vendors=(OPERATOR,), restrictions=1),
        consent_string(purposes=REQUIRED, vendors=(1, (22, 20), OPERATOR)),
        SUFFICIENT + ".!!!!",
        SUFFICIENT + ".AAAA",  # an unknown segment
        SUFFICIENT + ".IFoE",  # disclosed vendors, cut
        SUFFICIENT + ".YAAA",
        consent_string(purposes=REQUIRED, vendors=(1, (2, 30)))[:44],
    ],
)
def test_what_is_no_consent_string(text: str) -> None:
    with pytest.raises(ConsentStringError):
        read_consent(text)


def test_any_truncation_is_refused_or_says_no_more() -> None:
    whole = read_consent(SUFFICIENT)
    for length in range(len(SUFFICIENT)):
        try:
            part = read_consent(SUFFICIENT[:length])
        except ConsentStringError:
            continue
        assert part == whole  # only padding was cut
