"""Enumerations of the published SDK that have other members than those of `core`."""

from enum import IntEnum


class IdentityType(IntEnum):
    """What a raw uid was derived from. EMAIL and PHONE are the same members."""

    Email = 0
    Phone = 1
    EMAIL = 0
    PHONE = 1


class AdvertisingTokenVersion(IntEnum):
    """The version of a token: the value is its version byte, and 2 for version 2, which has none."""

    ADVERTISING_TOKEN_V2 = 2
    ADVERTISING_TOKEN_V3 = 112
    ADVERTISING_TOKEN_V4 = 128
