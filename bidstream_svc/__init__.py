"""Decryption of UID2 and EUID advertising tokens: a sidecar for bidders, and an SDK.

docs/sdk.md describes these names. The clients are asynchronous; `bidstream_svc.sdk` has synchronous ones.
"""

from importlib import import_module
from typing import TYPE_CHECKING

from bidstream_svc._version import __version__

if TYPE_CHECKING:
    from bidstream_svc.core.decrypt import Verdict, decrypt
    from bidstream_svc.core.errors import (
        BidRequestError,
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
        OptOutStoreError,
    )
    from bidstream_svc.core.identity import Identity, IdentityKind
    from bidstream_svc.core.kernel import IS_NATIVE as is_native  # noqa: N811 - public names are in lower case
    from bidstream_svc.core.key_response import parse_key_response
    from bidstream_svc.core.keys import KeyPurpose, KeySnapshot
    from bidstream_svc.core.openrtb import BidRequestId, BidRequestIds, decrypt_bid_request, rewrite_bid_request
    from bidstream_svc.core.sharing import Encryption, EncryptionStatus
    from bidstream_svc.core.status import DecryptionStatus, FailureReason
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
    from bidstream_svc.optouts.optout_lookup import OptOuts

__all__ = [
    "BidRequestError",
    "BidRequestId",
    "BidRequestIds",
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
    "OptOutStoreError",
    "OptOuts",
    "OptedOut",
    "PublisherClient",
    "RetryPolicy",
    "SharingClient",
    "UnmappedIdentity",
    "Verdict",
    "__version__",
    "decrypt",
    "decrypt_bid_request",
    "is_native",
    "parse_key_response",
    "rewrite_bid_request",
]

# Where the names are, so that each module is imported on first use: decryption needs no aiohttp, and the command line
# imports nothing before it is ready for Ctrl-C.
_MODULES = ("errors", "decrypt", "identity", "key_response", "keys", "openrtb", "sharing", "status")

if not TYPE_CHECKING:  # with a `__getattr__`, a type checker accepts any name

    def __getattr__(name: str) -> object:
        """Import what is public, on first use."""
        if name not in __all__:
            raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
        if name == "is_native":
            return bool(import_module(f"{__name__}.core.kernel").IS_NATIVE)
        for module_name in (*(f"core.{each}" for each in _MODULES), "optouts.optout_lookup", "operator"):
            module = import_module(f"{__name__}.{module_name}")
            if hasattr(module, name):
                globals()[name] = value = getattr(module, name)
                return value
        raise AssertionError(name)

    def __dir__() -> list[str]:
        """List what is public, for `help` and for completion in a shell, whether it has been imported or not."""
        return sorted({*globals(), *__all__})
