"""Bid requests of any form: the plain implementation gives the same answers, and the same bytes but for white space."""

import json
from collections.abc import Generator

from hypothesis import given, settings
from hypothesis import strategies as st

from bidstream_svc.core.openrtb import MAX_ENTRIES, SOURCES, BidRequestDecryptor, bind_keys, finish_if_steps
from bidstream_svc.core.openrtb.bid_reader import read_plain
from bidstream_svc.core.openrtb.bid_scanner import BidScanner
from bidstream_svc.core.openrtb.json_check import finish
from tests.core.openrtb_compare import KEYS, compare
from tests.core.openrtb_strategies import any_bid_requests, usual_bid_requests
from tests.vectors.inputs import NOW_MS

_EXAMPLES = 40  # an example is large


@settings(max_examples=_EXAMPLES)
@given(any_bid_requests)
def test_any_bid_request(body: bytes) -> None:
    compare(body)


@settings(max_examples=_EXAMPLES)
@given(usual_bid_requests)
def test_usual_bid_requests(body: bytes) -> None:
    compare(body)
    found = bind_keys(KEYS).find(body, NOW_MS)
    assert not isinstance(found, Generator), "it is read in one decoding"


@settings(max_examples=_EXAMPLES)
@given(any_bid_requests | usual_bid_requests)
def test_both_ways_to_read_and_rewrite_agree(body: bytes) -> None:
    plain = read_plain(body, SOURCES)
    scanner = BidScanner(body, SOURCES, MAX_ENTRIES)
    request = finish(scanner.read())
    if plain is not None:
        assert (plain.raw_id, plain.entries, plain.site, plain.app) == (
            request.raw_id,
            request.entries,
            request.site,
            request.app,
        )
    decryptor: BidRequestDecryptor = bind_keys(KEYS)
    rewritten = decryptor.rewrite(body, NOW_MS)
    if not isinstance(rewritten, Generator):
        uids = [found.uid for found in finish_if_steps(decryptor.find(body, NOW_MS)).ids]
        assert finish(scanner.rewrite(uids)) == rewritten[0]


@settings(max_examples=_EXAMPLES)
@given(any_bid_requests, st.data())
def test_any_change_of_a_byte(body: bytes, data: st.DataObject) -> None:
    position = data.draw(st.integers(0, len(body) - 1))
    changed = data.draw(st.sampled_from([b"", b'"', b"{", b"]", b",", b"\\", b"\xff", b"\0", b"\xed\xa0\x80"]))
    compare(body[:position] + changed + body[position + data.draw(st.integers(0, 2)) :])


@given(st.integers(60, 68), st.sampled_from(["[]", '{"":}']), st.sampled_from(["", '"[[\\"{",', '"a\\\\",']))
def test_depth(depth: int, brackets: str, before: str) -> None:
    opening, closing = brackets[:-1], brackets[-1]
    body = f'{{"x":[{before}{opening * (depth - 2)}1{closing * (depth - 2)}]}}'
    compare(body.encode())


def test_rewritten_json_is_what_it_was_but_for_the_ids() -> None:
    body = json.dumps({"user": {"eids": [{"source": "euid.eu", "uids": [{"id": "x"}]}]}, "x": [1.5]}).encode()
    rewritten, statuses = finish_if_steps(bind_keys(KEYS).rewrite(body, NOW_MS))
    assert json.loads(rewritten) == {"user": {"eids": []}, "x": [1.5]}
    assert statuses == ("INVALID_PAYLOAD",)
