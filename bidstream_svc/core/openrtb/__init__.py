"""Whole OpenRTB bid requests: bytes in, the decrypted ids or the rewritten bytes out.

Source: docs/openrtb.md.
"""

from bidstream_svc.core.openrtb.bid_decryptor import (
    MAX_BID_REQUEST_BYTES,
    MAX_ENTRIES,
    SOURCES,
    Answered,
    BidRequestDecryptor,
    BidRequestId,
    BidRequestIds,
    Rewritten,
    ask_kernel_first,
    bind_keys,
    decrypt_bid_request,
    rewrite_bid_request,
)
from bidstream_svc.core.openrtb.bid_reader import Sources
from bidstream_svc.core.openrtb.json_check import finish_if_steps

__all__ = [
    "MAX_BID_REQUEST_BYTES",
    "MAX_ENTRIES",
    "SOURCES",
    "Answered",
    "BidRequestDecryptor",
    "BidRequestId",
    "BidRequestIds",
    "Rewritten",
    "Sources",
    "ask_kernel_first",
    "bind_keys",
    "decrypt_bid_request",
    "finish_if_steps",
    "rewrite_bid_request",
]
