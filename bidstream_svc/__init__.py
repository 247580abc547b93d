"""Decryption of UID2 and EUID advertising tokens: a sidecar for bidders, and an SDK.

docs/sdk.md describes these names. The clients are asynchronous; `bidstream_svc.sdk` has synchronous ones.
"""

from importlib import import_module
from typing import TYPE_CHECKING

from bidstream_svc._version import __version__
from bidstream_svc.core.decrypt import Verdict, decrypt
from bidstream_svc.core.errors import (
    BidstreamError,
    ConfigurationError,
    EnvelopeError,
    IdentityError,
    InsufficientUserConsentError,
    KeyResponseError,
    OperatorAnswerError,
    OperatorError,
    OperatorHttpError,
    OperatorNetworkError,
    OperatorOversizeError,
    OperatorRateLimitedError,
    OperatorRedirectError,
    OperatorTimeoutError,
    OperatorUnauthorizedError,
)
from bidstream_svc.core.identity import Identity, IdentityKind
from bidstream_svc.core.key_response import parse_key_response
from bidstream_svc.core.keys import KeyPurpose, KeySnapshot
from bidstream_svc.core.sharing import Encryption, EncryptionStatus
from bidstream_svc.core.status import DecryptionStatus, FailureReason

if TYPE_CHECKING:
    from bidstream_svc.operator import (
        BidstreamClient,
        Credentials,
        IdentityBucket,
        IdentityMapClient,
        IdentityMapResult,
        IdentityMapV3Result,
        IdentityTokens,
        MappedIdentity,
        MappedIdentityV3,
        OperatorTransport,
        OptedOut,
        PublisherClient,
        RetryPolicy,
        SharingClient,
        UnmappedIdentity,
    )

__all__ = [
    "BidstreamClient",
    "BidstreamError",
    "ConfigurationError",
    "Credentials",
    "DecryptionStatus",
    "Encryption",
    "EncryptionStatus",
    "EnvelopeError",
    "FailureReason",
    "Identity",
    "IdentityBucket",
    "IdentityError",
    "IdentityKind",
    "IdentityMapClient",
    "IdentityMapResult",
    "IdentityMapV3Result",
    "IdentityTokens",
    "InsufficientUserConsentError",
    "KeyPurpose",
    "KeyResponseError",
    "KeySnapshot",
    "MappedIdentity",
    "MappedIdentityV3",
    "OperatorAnswerError",
    "OperatorError",
    "OperatorHttpError",
    "OperatorNetworkError",
    "OperatorOversizeError",
    "OperatorRateLimitedError",
    "OperatorRedirectError",
    "OperatorTimeoutError",
    "OperatorTransport",
    "OperatorUnauthorizedError",
    "OptedOut",
    "PublisherClient",
    "RetryPolicy",
    "SharingClient",
    "UnmappedIdentity",
    "Verdict",
    "__version__",
    "decrypt",
    "parse_key_response",
]

if not TYPE_CHECKING:  # with a `__getattr__`, a type checker accepts any name

    def __getattr__(name: str) -> object:
        """Import the clients, and aiohttp with them, on first use: decryption needs neither."""
        if name not in __all__:
            raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
        globals()[name] = value = getattr(import_module("bidstream_svc.operator"), name)
        return value
