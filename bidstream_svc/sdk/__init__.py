"""Synchronous, thread-safe clients with the names and signatures of the published SDK for Python, `uid2_client`.

::

    from bidstream_svc.sdk import BidstreamClient

    client = BidstreamClient(base_url, api_key, client_secret)
    client.refresh()
    decrypted = client.decrypt_token_into_raw_uid(token, "example.com")

Failed calls raise the exceptions of `bidstream_svc.core.errors`; only `refresh` returns the failure instead. No repr or
exception shows a token, a raw uid, a secret or personal data.

A name of the published SDK that is not here raises ReplacedNameError, which says what to use.
"""

from typing import TYPE_CHECKING

from bidstream_svc.core.errors import BidstreamError as Uid2ClientError
from bidstream_svc.core.errors import EncryptionError
from bidstream_svc.core.identity import IdentityScope
from bidstream_svc.core.sharing import EncryptionStatus
from bidstream_svc.core.status import DecryptionStatus
from bidstream_svc.sdk.auto_refresh import EncryptionKeysAutoRefresher, EncryptionKeysAutoRefreshResult
from bidstream_svc.sdk.decryption import (
    BidstreamClient,
    DecryptedToken,
    EncryptionDataResponse,
    RefreshResponse,
    SharingClient,
)
from bidstream_svc.sdk.enums import AdvertisingTokenVersion, IdentityType
from bidstream_svc.sdk.hashing import (
    base64_to_byte_array,
    byte_array_to_base64,
    get_base64_encoded_hash,
    get_datetime_utc_iso_format,
    get_sha256_bytes,
    is_ascii_digit,
    is_phone_number_normalized,
    normalize_and_hash_email,
    normalize_and_hash_phone,
    normalize_email_string,
)
from bidstream_svc.sdk.identity_map import (
    Bucket,
    IdentityBucketsResponse,
    IdentityMapClient,
    IdentityMapInput,
    IdentityMapResponse,
    MappedIdentityV2,
    UnmappedIdentityV2,
)
from bidstream_svc.sdk.identity_map_v3 import (
    IdentityMapV3Client,
    IdentityMapV3Input,
    IdentityMapV3Response,
    MappedIdentity,
    UnmappedIdentity,
    UnmappedIdentityReason,
)
from bidstream_svc.sdk.publisher import (
    IdentityTokens,
    TokenGenerateInput,
    TokenGenerateResponse,
    TokenRefreshResponse,
    Uid2PublisherClient,
)
from bidstream_svc.sdk.replaced import REPLACED, ReplacedNameError, replaced_name_error

# Names of earlier releases, when the two above were those of version 2.
MappedIdentityV3 = MappedIdentity
UnmappedIdentityV3 = UnmappedIdentity

__all__ = [
    "AdvertisingTokenVersion",
    "BidstreamClient",
    "Bucket",
    "DecryptedToken",
    "DecryptionStatus",
    "EncryptionDataResponse",
    "EncryptionError",
    "EncryptionKeysAutoRefreshResult",
    "EncryptionKeysAutoRefresher",
    "EncryptionStatus",
    "IdentityBucketsResponse",
    "IdentityMapClient",
    "IdentityMapInput",
    "IdentityMapResponse",
    "IdentityMapV3Client",
    "IdentityMapV3Input",
    "IdentityMapV3Response",
    "IdentityScope",
    "IdentityTokens",
    "IdentityType",
    "MappedIdentity",
    "MappedIdentityV2",
    "MappedIdentityV3",
    "RefreshResponse",
    "ReplacedNameError",
    "SharingClient",
    "TokenGenerateInput",
    "TokenGenerateResponse",
    "TokenRefreshResponse",
    "Uid2ClientError",
    "Uid2PublisherClient",
    "UnmappedIdentity",
    "UnmappedIdentityReason",
    "UnmappedIdentityV2",
    "UnmappedIdentityV3",
    "base64_to_byte_array",
    "byte_array_to_base64",
    "get_base64_encoded_hash",
    "get_datetime_utc_iso_format",
    "get_sha256_bytes",
    "is_ascii_digit",
    "is_phone_number_normalized",
    "normalize_and_hash_email",
    "normalize_and_hash_phone",
    "normalize_email_string",
]

if not TYPE_CHECKING:  # with a `__getattr__`, a type checker accepts any name

    def __getattr__(name: str) -> object:
        """Say what to use in place of a name of the published SDK."""
        if name in REPLACED:
            raise replaced_name_error(name)
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
