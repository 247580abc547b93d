"""TCF consent strings of version 2, written bit by bit as the specification of the core string lays them out."""

import base64
from collections.abc import Collection, Sequence

OPERATOR = 21  # the id of the operator's vendor
REQUIRED = (1, 2, 3, 4, 7, 10)


def consent_string(
    *,
    purposes: Collection[int] = (),
    interest_purposes: Collection[int] = (),
    vendors: Sequence[int | tuple[int, int]] = (),
    interest_vendors: Sequence[int | tuple[int, int]] = (),
    version: int = 2,
    restrictions: int = 0,
) -> str:
    """Write a core string. Vendors are written as single bits, or as ranges if there is a pair among them.

    Args:
        purposes, interest_purposes, vendors, interest_vendors: by consent and by legitimate interest.
        version: 2 in all strings of today.
        restrictions: a number of publisher restrictions, which are not written.
    """
    bits = f"{version:06b}" + "0" * 36 * 2 + "0" * 12 * 2 + "0" * 6 + f"{ord('E') - 65:06b}{ord('N') - 65:06b}"
    bits += "0" * 12 + f"{4:06b}" + "00" + "0" * 12
    bits += flags(purposes, 24) + flags(interest_purposes, 24)
    bits += "0" + "000000" * 2 + vendor_section(vendors) + vendor_section(interest_vendors) + f"{restrictions:012b}"
    bits += "0" * (-len(bits) % 8)
    raw = int(bits, 2).to_bytes(len(bits) // 8, "big")
    return base64.urlsafe_b64encode(raw).decode().rstrip("=")


def flags(numbers: Collection[int], count: int) -> str:
    return "".join("1" if number in numbers else "0" for number in range(1, count + 1))


def vendor_section(vendors: Sequence[int | tuple[int, int]]) -> str:
    singles = [vendor for vendor in vendors if isinstance(vendor, int)]
    if len(singles) == len(vendors):
        return f"{max(singles, default=0):016b}0" + flags(singles, max(singles, default=0))
    entries = "".join(
        f"0{each:016b}" if isinstance(each, int) else f"1{each[0]:016b}{each[1]:016b}" for each in vendors
    )
    return f"{9999:016b}1{len(vendors):012b}" + entries


SUFFICIENT = consent_string(purposes=REQUIRED, vendors=(OPERATOR,))
INSUFFICIENT = consent_string(purposes=REQUIRED[:-1], vendors=(OPERATOR,))
