"""Outcomes of a decryption: eleven statuses for callers, and finer reasons for diagnosis.

Source: docs/protocol.md, "The verdict".
"""

from enum import StrEnum
from typing import Self


class DecryptionStatus(StrEnum):
    """The eleven statuses of the protocol. The value is the name used over HTTP."""

    __hash__ = str.__hash__  # that of an Enum is written in Python and takes ten times as long

    SUCCESS = "SUCCESS"
    NOT_AUTHORIZED_FOR_KEY = "NOT_AUTHORIZED_FOR_KEY"
    NOT_INITIALIZED = "NOT_INITIALIZED"
    INVALID_PAYLOAD = "INVALID_PAYLOAD"
    EXPIRED_TOKEN = "EXPIRED_TOKEN"  # noqa: S105 - a status, not a credential
    KEYS_NOT_SYNCED = "KEYS_NOT_SYNCED"
    VERSION_NOT_SUPPORTED = "VERSION_NOT_SUPPORTED"
    DOMAIN_NAME_CHECK_FAILED = "DOMAIN_NAME_CHECK_FAILED"
    INVALID_TOKEN_LIFETIME = "INVALID_TOKEN_LIFETIME"  # noqa: S105
    USER_OPTED_OUT = "USER_OPTED_OUT"
    OPTOUTS_NOT_SYNCED = "OPTOUTS_NOT_SYNCED"

    # The published SDK's second name for it, an alias: comparisons with it work, and it is not listed.
    NOT_AUTHORIZED_FOR_MASTER_KEY = "NOT_AUTHORIZED_FOR_KEY"


class FailureReason(StrEnum):
    """Why a token was not decrypted, in the order of the checks. The values are those of a metric's `reason` label.

    Attributes:
        status: the DecryptionStatus that callers get for it.
    """

    status: DecryptionStatus
    __hash__ = str.__hash__  # as of DecryptionStatus

    def __new__(cls, value: str, status: DecryptionStatus) -> Self:
        """Store the status beside the value."""
        member = str.__new__(cls, value)
        member._value_ = value
        member.status = status
        return member

    NO_KEYS = "no_keys", DecryptionStatus.NOT_INITIALIZED
    KEYS_EXPIRED = "keys_expired", DecryptionStatus.KEYS_NOT_SYNCED
    NOT_A_TOKEN = "not_a_token", DecryptionStatus.INVALID_PAYLOAD
    BAD_ENCODING = "bad_encoding", DecryptionStatus.INVALID_PAYLOAD
    VERSION_UNKNOWN = "version_unknown", DecryptionStatus.VERSION_NOT_SUPPORTED
    IDENTITY_SCOPE = "identity_scope", DecryptionStatus.INVALID_PAYLOAD
    MASTER_KEY_UNKNOWN = "master_key_unknown", DecryptionStatus.NOT_AUTHORIZED_FOR_KEY
    MASTER_LAYER = "master_layer", DecryptionStatus.INVALID_PAYLOAD
    EXPIRED = "expired", DecryptionStatus.EXPIRED_TOKEN
    SITE_KEY_UNKNOWN = "site_key_unknown", DecryptionStatus.NOT_AUTHORIZED_FOR_KEY
    SITE_LAYER = "site_layer", DecryptionStatus.INVALID_PAYLOAD
    DOMAIN_MISSING = "domain_missing", DecryptionStatus.DOMAIN_NAME_CHECK_FAILED
    SITE_UNKNOWN = "site_unknown", DecryptionStatus.DOMAIN_NAME_CHECK_FAILED
    DOMAIN_NOT_LISTED = "domain_not_listed", DecryptionStatus.DOMAIN_NAME_CHECK_FAILED
    LIFETIME_TOO_LONG = "lifetime_too_long", DecryptionStatus.INVALID_TOKEN_LIFETIME
    GENERATED_IN_FUTURE = "generated_in_future", DecryptionStatus.INVALID_TOKEN_LIFETIME
    OPTED_OUT_AT_GENERATION = "opted_out_at_generation", DecryptionStatus.USER_OPTED_OUT
    OPTED_OUT = "opted_out", DecryptionStatus.USER_OPTED_OUT
    OPTOUTS_NOT_SYNCED = "optouts_not_synced", DecryptionStatus.OPTOUTS_NOT_SYNCED
