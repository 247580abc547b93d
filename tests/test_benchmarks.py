"""What the benchmarks send: the expected verdicts are right, and the requests differ as those of clients do."""

from collections import Counter

import httptools
import pytest

from benchmarks import bulk_material
from benchmarks.heads import PLAIN, TRACED, stock_heads, with_body
from benchmarks.material import NOW_S, KeySet, make_samples
from benchmarks.traffic import (
    CLIENT_SIDE_SHARE,
    FAILURES,
    VERSION_SHARES,
    make_failing,
    make_traffic,
    spell_bodies,
    traffic_batches,
    traffic_requests,
)
from bidstream_svc import DecryptionStatus, decrypt, parse_key_response
from bidstream_svc.core.token_details import read_details
from bidstream_svc.server.batch_body import decode_batch, decode_request
from tests.docs.markdown import ROOT, section, table

README = ROOT / "benchmarks" / "README.md"

KEY_SET = KeySet(10)
KEYS = parse_key_response(KEY_SET.response())
TRAFFIC = make_traffic(KEY_SET, 500, failing_share=30)


@pytest.mark.parametrize("kind", FAILURES)
def test_a_failing_token_fails_as_expected(kind: str) -> None:
    for sample in make_failing(KEY_SET, 5, kind):
        status, uid, _, _ = decrypt(sample.token, sample.domain, KEYS, NOW_S * 1000)
        assert (status, uid) == (sample.status, None)


def test_traffic_has_the_expected_verdicts() -> None:
    for sample, body in zip(TRAFFIC, spell_bodies(TRAFFIC), strict=True):
        request = decode_request(body)
        verdict = decrypt(request.token, request.domain, KEYS, NOW_S * 1000)
        assert verdict[:3] == (sample.status, sample.raw_uid, sample.established_ms)
    assert sum(sample.status != DecryptionStatus.SUCCESS for sample in TRAFFIC) == 150


def test_a_few_sites_have_most_of_a_log() -> None:
    drawn = Counter(bulk_material.draw_sites(100_000))
    assert sum(count for _, count in drawn.most_common(150)) / 100_000 == pytest.approx(0.45, abs=0.02)
    (most, *_), (again, *_) = drawn.most_common(1), Counter(bulk_material.draw_sites(100_000, seed=1)).most_common(1)
    assert most[0] == again[0]
    spread = Counter(bulk_material.draw_sites(100_000, exponent=0))
    assert max(spread.values()) < 30


def test_the_key_of_a_token_is_that_of_its_site() -> None:
    sites = [KEY_SET.sites, 1, KEY_SET.sites, 1]
    samples = make_samples(KEY_SET, len(sites), sites=sites)
    opened = [read_details(sample.token, KEYS) for sample in samples]
    expected = [(site, KEY_SET.key_id(9 if site > 1 else 1)) for site in sites]
    assert [(each.site_id, each.site_key_id) for each in opened if each is not None] == expected


def test_requests_differ() -> None:
    requests = [request for request, _ in traffic_requests(TRAFFIC)]
    assert len(set(requests)) == len(requests)
    assert len({len(request) for request in requests}) > 20


def test_a_batch_has_the_spellings_of_its_requests() -> None:
    (request, answer), *_ = traffic_batches(TRAFFIC, 64)
    body = request.partition(b"\r\n\r\n")[2]
    assert [each.token for each in decode_batch(body)] == [sample.token for sample in TRAFFIC[:64]]
    assert answer.count(b'"status"') == 64


def test_the_documented_shares_are_those_of_the_code() -> None:
    rows = dict(table(section(README, "Traffic"), "what"))
    assert rows["version"].startswith(", ".join(f"{name} {share} %" for name, share in VERSION_SHARES.items()))
    assert f"on the client side {CLIENT_SIDE_SHARE} %" in rows["generated"]
    assert rows["failing tokens"].endswith(f"{', '.join(FAILURES)}; all of them v4")


class _Request:
    """Receives the callbacks of httptools."""

    def __init__(self) -> None:
        self.target = b""
        self.body = b""
        self.is_complete = False

    def on_url(self, target: bytes) -> None:
        self.target += target

    def on_body(self, body: bytes) -> None:
        self.body += body

    def on_message_complete(self) -> None:
        self.is_complete = True


HEADS = {"plain": [PLAIN], "traced": [TRACED]} | stock_heads()


@pytest.mark.parametrize("client", HEADS)
def test_a_head_fits_any_body(client: str) -> None:
    for head in HEADS[client]:
        for body in (b"{}", b'{"token":"' + b"A" * 300 + b'"}'):
            request = _Request()
            parser = httptools.HttpRequestParser(request)
            try:
                parser.feed_data(with_body(head, body, b"/decrypt/batch"))
            except httptools.HttpParserUpgrade:
                assert b"h2c" in head
            assert (request.target, request.is_complete) == (b"/decrypt/batch", True)
            assert request.body in {body, b""}  # the parser leaves the body of an upgrade to its caller
            assert b"\r\nHost: 127.0.0.1:8080\r\n".lower() in head.lower()
