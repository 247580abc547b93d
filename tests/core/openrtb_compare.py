"""Compares the bid-request module with its plain implementation."""

import json
from contextlib import suppress

import pytest

from bidstream_svc.core.errors import BidRequestError
from bidstream_svc.core.keys import KeySnapshot
from bidstream_svc.core.openrtb import decrypt_bid_request, rewrite_bid_request
from tests.core.openrtb_oracle import Expected, NotABidRequestError, expected, parse
from tests.vectors.inputs import NOW_MS
from tests.vectors.load import key_snapshot

KEYS: list[KeySnapshot] = [keys for keys in (key_snapshot("uid2"), key_snapshot("euid")) if keys is not None]


def compare(body: bytes) -> Expected | None:
    """Return what is expected, and found; None if the body is refused by both."""
    wanted = None
    with suppress(NotABidRequestError):
        wanted = expected(body, KEYS, NOW_MS)
    if wanted is None:
        for function in (decrypt_bid_request, rewrite_bid_request):
            with pytest.raises(BidRequestError):
                function(body, KEYS, NOW_MS)
        return None
    answer = decrypt_bid_request(body, KEYS, NOW_MS)
    assert json.loads(answer.to_json()) == wanted.answer()
    rewritten, statuses = rewrite_bid_request(body, KEYS, NOW_MS)
    assert parse(rewritten).render() == wanted.rewritten
    assert [*statuses] == [found["status"] for found in wanted.ids]
    return wanted
