"""TCF consent strings, as an EUID operator judges them.

A string permits a token if the operator's vendor has each of the required purposes: by the user's consent to the vendor
and the purpose, or by legitimate interest that was disclosed for both.

Source: IAB Europe, Transparency and Consent String v2. Only the first segment, the core string, counts; the others must
be well formed.
"""

from typing import NamedTuple

import pybase64

VENDOR_ID = 21  # the operator's, unless it is configured otherwise
# Store information; select basic ads; create a profile; select personalised ads; measure ads; develop products.
REQUIRED_PURPOSES = frozenset({1, 2, 3, 4, 7, 10})

_VERSION = 2
_PURPOSES = 24
# Bits between the version and the purposes: created 36, last updated 36, CMP id 12, CMP version 12, screen 6,
# language 12, vendor list version 12, policy version 6, service specific 1, non-standard texts 1, special features 12.
_HEADER_BITS = 36 + 36 + 12 + 12 + 6 + 12 + 12 + 6 + 1 + 1 + 12
_PURPOSE_ONE_AND_COUNTRY_BITS = 1 + 12
_PURPOSE_AND_KIND_BITS = 6 + 2


class ConsentStringError(ValueError):
    """The text is not a TCF consent string of version 2."""


class Consent(NamedTuple):
    """What a core string says: purposes by consent and by legitimate interest, and the vendors with each of them.

    Vendors are kept as ranges: a short string may repeat the longest range thousands of times.
    """

    purposes: frozenset[int]
    interest_purposes: frozenset[int]
    vendors: tuple[range, ...]
    interest_vendors: tuple[range, ...]

    def is_sufficient(self, vendor_id: int = VENDOR_ID) -> bool:
        """Whether the vendor has every one of REQUIRED_PURPOSES."""
        by_consent = self.purposes if _contains(self.vendors, vendor_id) else frozenset()
        by_interest = self.interest_purposes if _contains(self.interest_vendors, vendor_id) else frozenset()
        return by_consent | by_interest >= REQUIRED_PURPOSES


def _contains(ranges: tuple[range, ...], number: int) -> bool:
    return any(number in numbers for numbers in ranges)


def read_consent(text: str) -> Consent:
    """Parse a TCF consent string.

    Raises:
        ConsentStringError: it is not one of version 2, or it ends early.
    """
    core, *others = text.rstrip(".").split(".")
    for other in others:
        _check_segment(_decode(other))
    return _read_core(_decode(core))


def _decode(segment: str) -> "_Bits":
    if "+" in segment or "/" in segment:  # which the decoder accepts beside - and _
        raise ConsentStringError("not base64url")
    try:
        return _Bits(pybase64.b64decode(segment + "=" * (-len(segment) % 4), b"-_", validate=True))
    except ValueError:
        raise ConsentStringError("not base64url") from None


def _check_segment(bits: "_Bits") -> None:
    match bits.take(3):
        case 1 | 2:  # vendors that were disclosed, or are allowed
            _take_vendors(bits)
        case 3:  # consent for the publisher, with purposes of its own
            bits.take(2 * _PURPOSES)
            bits.take_set(2 * bits.take(6))
        case _:
            raise ConsentStringError("unknown segment")


def _read_core(bits: "_Bits") -> Consent:
    if bits.take(6) != _VERSION:
        raise ConsentStringError("not version 2")
    bits.take(_HEADER_BITS)
    purposes, interest_purposes = bits.take_set(_PURPOSES), bits.take_set(_PURPOSES)
    bits.take(_PURPOSE_ONE_AND_COUNTRY_BITS)
    consent = Consent(purposes, interest_purposes, _take_vendors(bits), _take_vendors(bits))
    for _ in range(bits.take(12)):  # restrictions by the publisher: not used, but a string without them is cut
        bits.take(_PURPOSE_AND_KIND_BITS)
        _take_ranges(bits)
    return consent


def _take_vendors(bits: "_Bits") -> tuple[range, ...]:
    """Read a section of vendors: a bit for each up to the highest id, or a list of ids and ranges of ids."""
    max_id, is_range = bits.take(16), bits.take(1)
    return _take_ranges(bits) if is_range else tuple(range(vendor, vendor + 1) for vendor in bits.take_set(max_id))


def _take_ranges(bits: "_Bits") -> tuple[range, ...]:
    ranges: list[range] = []
    for _ in range(bits.take(12)):
        has_end, first = bits.take(1), bits.take(16)
        last = bits.take(16) if has_end else first
        if last < first:
            raise ConsentStringError("range ends before it begins")
        ranges.append(range(first, last + 1))
    return tuple(ranges)


class _Bits:
    """A sequence of bits, read from the front."""

    def __init__(self, raw: bytes) -> None:
        self._digits = "".join(f"{byte:08b}" for byte in raw)
        self._position = 0

    def take(self, count: int) -> int:
        """The next bits as an integer, the most significant first."""
        return int(self._take(count), 2)

    def take_set(self, count: int) -> frozenset[int]:
        """The positions of the ones among the next bits; the first position is 1."""
        return frozenset(number for number, digit in enumerate(self._take(count), 1) if digit == "1")

    def _take(self, count: int) -> str:
        digits = self._digits[self._position : self._position + count]
        if len(digits) < count:
            raise ConsentStringError("ends early")
        self._position += count
        return digits
