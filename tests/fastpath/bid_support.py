"""Bid requests for both ways of HTTP, and what the pure functions give for them."""

from typing import NamedTuple

import orjson

from bidstream_svc.core.errors import BidRequestError
from bidstream_svc.core.openrtb import decrypt_bid_request, rewrite_bid_request
from tests.core.openrtb_cases import BID_REQUESTS, DIRECTORY, REFUSED
from tests.core.openrtb_compare import KEYS
from tests.core.test_openrtb import HOSTILE
from tests.fastpath.support import HttpAnswer, Side, talk
from tests.vectors.inputs import NOW_MS


def hostile(name: str, size: int) -> bytes:
    opening, pattern, closing = HOSTILE[name]
    return (opening + pattern * ((size - len(opening) - len(closing)) // len(pattern)) + closing).encode()


IDS, REWRITE = "/openrtb", "/openrtb/rewrite"
GZIP = "Content-Encoding: gzip"
CASES = {
    **{name: (DIRECTORY / f"{name}.request").read_bytes() for name in BID_REQUESTS},
    **{f"refused, {name}": body for name, body in REFUSED.items()},
    **{f"hostile, {name}": hostile(name, 4_000) for name in HOSTILE},
}
SMALL = CASES["2.6-site"]
LIMIT = 512 * 1024


class Expected(NamedTuple):
    """An answer; the statuses are those in the head."""

    code: int
    body: bytes
    statuses: bytes | None


def expected(path: str, body: bytes) -> Expected:
    """What the pure functions give."""
    try:
        if path == IDS:
            return Expected(200, decrypt_bid_request(body, KEYS, NOW_MS).to_json(), None)
        rewritten, statuses = rewrite_bid_request(body, KEYS, NOW_MS)
    except BidRequestError as error:
        refusal = {"error": {"code": "invalid_json", "message": str(error)}}
        return Expected(400, orjson.dumps(refusal), None)
    return Expected(200, rewritten, ",".join(statuses).encode() if statuses else None)


def statuses_of(answer: HttpAnswer) -> bytes | None:
    marked = [line.partition(b": ")[2] for line in answer.headers if line.startswith(b"Bidstream-Statuses: ")]
    return marked[0] if marked else None


def seen(answer: HttpAnswer) -> Expected:
    return Expected(answer.status, answer.body, statuses_of(answer))


async def answers_to(side: Side, *requests: bytes) -> list[HttpAnswer]:
    return (await talk(side, requests)).answers
