"""Asynchronous clients of an operator: keys, tokens for publishers, identity maps. They share a transport.

::

    async with OperatorTransport(url, Credentials.from_base64(api_key, client_secret)) as transport:
        tokens = await PublisherClient(transport).generate_token(Identity.from_email(address))
"""

import logging

from bidstream_svc.operator.batches import Progress
from bidstream_svc.operator.bidstream_client import BidstreamClient, SharingClient
from bidstream_svc.operator.credentials import Credentials
from bidstream_svc.operator.identity_map_client import (
    IdentityBucket,
    IdentityMapClient,
    IdentityMapResult,
    IdentityMapV3Result,
    MappedIdentity,
    MappedIdentityV3,
    OptedOut,
    UnmappedIdentity,
)
from bidstream_svc.operator.key_fetch import FetchedKeys, fetch_keys, open_cached_keys
from bidstream_svc.operator.publisher_client import PublisherClient
from bidstream_svc.operator.tokens import IdentityTokens
from bidstream_svc.operator.transport import OperatorTransport, RetryPolicy

# Without a handler, logging would print a library's warnings on stderr.
logging.getLogger("bidstream_svc").addHandler(logging.NullHandler())

__all__ = [
    "BidstreamClient",
    "Credentials",
    "FetchedKeys",
    "IdentityBucket",
    "IdentityMapClient",
    "IdentityMapResult",
    "IdentityMapV3Result",
    "IdentityTokens",
    "MappedIdentity",
    "MappedIdentityV3",
    "OperatorTransport",
    "OptedOut",
    "Progress",
    "PublisherClient",
    "RetryPolicy",
    "SharingClient",
    "UnmappedIdentity",
    "fetch_keys",
    "open_cached_keys",
]
