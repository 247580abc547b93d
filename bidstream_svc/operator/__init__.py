"""Asynchronous calls to an operator: keys, tokens for publishers, identity maps; one transport under all of them."""

from bidstream_svc.operator.credentials import Credentials
from bidstream_svc.operator.keys import FetchedKeys, classify_key_refresh_failure, fetch_keys, open_cached_keys
from bidstream_svc.operator.transport import OperatorTransport, RetryPolicy

__all__ = [
    "Credentials",
    "FetchedKeys",
    "OperatorTransport",
    "RetryPolicy",
    "classify_key_refresh_failure",
    "fetch_keys",
    "open_cached_keys",
]
