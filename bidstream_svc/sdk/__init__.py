"""Synchronous, thread-safe clients with the names and signatures of the published SDK for Python.

::

    from bidstream_svc.sdk import BidstreamClient

    client = BidstreamClient(base_url, api_key, client_secret)
    client.refresh()
    decrypted = client.decrypt_token_into_raw_uid(token, "example.com")

Failed calls raise the exceptions of `bidstream_svc.core.errors`; only `refresh` returns the failure instead. No repr or
exception shows a token, a raw uid, a secret or personal data.
"""

from bidstream_svc.core.sharing import EncryptionStatus
from bidstream_svc.core.status import DecryptionStatus
from bidstream_svc.sdk.decryption import (
    BidstreamClient,
    DecryptedToken,
    EncryptionDataResponse,
    RefreshResponse,
    SharingClient,
)
from bidstream_svc.sdk.identity_map import (
    Bucket,
    IdentityBucketsResponse,
    IdentityMapClient,
    IdentityMapInput,
    IdentityMapResponse,
    MappedIdentity,
    UnmappedIdentity,
)
from bidstream_svc.sdk.identity_map_v3 import (
    IdentityMapV3Client,
    IdentityMapV3Input,
    IdentityMapV3Response,
    MappedIdentityV3,
    UnmappedIdentityReason,
    UnmappedIdentityV3,
)
from bidstream_svc.sdk.publisher import (
    IdentityTokens,
    TokenGenerateInput,
    TokenGenerateResponse,
    TokenRefreshResponse,
    Uid2PublisherClient,
)

__all__ = [
    "BidstreamClient",
    "Bucket",
    "DecryptedToken",
    "DecryptionStatus",
    "EncryptionDataResponse",
    "EncryptionStatus",
    "IdentityBucketsResponse",
    "IdentityMapClient",
    "IdentityMapInput",
    "IdentityMapResponse",
    "IdentityMapV3Client",
    "IdentityMapV3Input",
    "IdentityMapV3Response",
    "IdentityTokens",
    "MappedIdentity",
    "MappedIdentityV3",
    "RefreshResponse",
    "SharingClient",
    "TokenGenerateInput",
    "TokenGenerateResponse",
    "TokenRefreshResponse",
    "Uid2PublisherClient",
    "UnmappedIdentity",
    "UnmappedIdentityReason",
    "UnmappedIdentityV3",
]
