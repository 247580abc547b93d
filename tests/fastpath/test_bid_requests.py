"""`POST /openrtb` and `/openrtb/rewrite`: by the fast path and by aiohttp, what the pure functions give."""

import gzip
import json
from collections import Counter
from collections.abc import Iterable, Mapping
from itertools import product
from random import Random
from typing import Any

import pytest

from bidstream_svc.core.identity import IdentityScope
from bidstream_svc.devoperator import OperatorState
from bidstream_svc.metrics.cells import BID_REQUESTS, DECRYPT_FAILURES, DECRYPTIONS
from tests.core.openrtb_cases import BID_REQUESTS as FILES
from tests.core.openrtb_cases import DIRECTORY
from tests.core.openrtb_oracle import parse
from tests.fastpath.bid_support import CASES, GZIP, IDS, REWRITE, Expected, answers_to, expected, seen, statuses_of
from tests.fastpath.corpus import make
from tests.fastpath.support import Outcome, Side, cut, talk

_CUT_EVERYWHERE = {"bom", "site-domain", "refused, nan"}
_RANDOM_CUTS = 3


def tell(outcome: Outcome) -> list[Expected]:
    assert not outcome.is_closed
    return [seen(answer) for answer in outcome.answers]


def cuts_of(name: str, length: int) -> Iterable[set[int]]:
    """Nowhere; at every single offset of some, and at random."""
    random = Random(name)  # noqa: S311 - to be repeatable
    yield set()
    if name in _CUT_EVERYWHERE:
        yield from ({offset} for offset in range(1, length))
    for _ in range(_RANDOM_CUTS):
        yield set(random.choices(range(1, length), k=random.randint(1, 4)))


@pytest.mark.parametrize("path", [IDS, REWRITE])
@pytest.mark.parametrize("name", CASES)
async def test_by_both_ways_what_the_pure_functions_give(bid_sides: list[Side], name: str, path: str) -> None:
    body = CASES[name]
    wanted = [expected(path, body)] * 2
    stream = make(body, target=path) + make(body, "Content-Type: application/json", target=path)
    counted = None
    for side in bid_sides:
        for offsets in cuts_of(name, len(stream)):
            outcome = await talk(side, cut(stream, offsets))
            assert tell(outcome) == wanted, sorted(offsets)
            assert counted is None or outcome.counted == counted
            counted = outcome.counted


@pytest.mark.parametrize("path", [IDS, REWRITE])
@pytest.mark.parametrize("name", CASES)
async def test_in_gzip_the_same(bid_sides: list[Side], name: str, path: str) -> None:
    body = CASES[name]
    wanted = expected(path, body)
    inflated = make(body, "Content-Encoding: identity", target=path)
    stream = make(gzip.compress(body), GZIP, target=path) + make(body, target=path) + inflated
    for side in bid_sides:
        for offsets in (set[int](), {len(stream) // 10, len(stream) // 2}):
            assert tell(await talk(side, cut(stream, offsets))) == [wanted] * 3


def test_the_files_are_what_is_expected() -> None:
    """So that the two above compare with the committed files."""
    for name in FILES:
        answer, rewritten = ((DIRECTORY / f"{name}.{kind}").read_bytes() for kind in ("answer", "rewritten"))
        assert json.loads(expected(IDS, CASES[name]).body) == json.loads(answer)
        statuses = [found["status"] for found in json.loads(answer)["ids"]]
        wanted = expected(REWRITE, CASES[name])
        assert parse(wanted.body).render().encode() == rewritten
        assert wanted.statuses == (",".join(statuses).encode() or None)


# What is counted


def counted(side: Side, cells: Mapping[Any, int]) -> dict[Any, int]:
    return {key: side.metrics.row[cell] for key, cell in cells.items() if side.metrics.row[cell]}


@pytest.mark.parametrize("path", [IDS, REWRITE])
async def test_each_token_and_each_bid_request_counts_once(bid_sides: list[Side], path: str) -> None:
    names = ["both-places-same-token", "two-programmes", "every-failure", "not-tokens", "no-user", "refused, nan"]
    for side in bid_sides:
        await answers_to(side, *(make(CASES[name], target=path) for name in names))
        assert counted(side, BID_REQUESTS) == {"success": 3, "failure": 1, "no_token": 1, "invalid": 1}
        assert counted(side, side.metrics.http_requests) == {(path, 200): 5, (path, 400): 1}
        found = [json.loads(expected(IDS, CASES[name]).body)["ids"] for name in names[1:4]]
        tokens = Counter((each["scope"], each["status"]) for ids in found for each in ids)
        tokens["UID2", "SUCCESS"] += 1
        assert counted(side, DECRYPTIONS) == tokens
        failures = sum(count for (_, status), count in tokens.items() if status != "SUCCESS")
        assert sum(counted(side, DECRYPT_FAILURES).values()) == failures
        assert counted(side, DECRYPT_FAILURES).keys() >= {"expired", "domain_not_listed"}


async def test_the_kernel_is_asked_first(bid_sides: list[Side]) -> None:
    for side in bid_sides:
        kernel = side.store.keys.kernel
        for path in (IDS, REWRITE):
            await answers_to(side, make(CASES["2.6-site"], target=path))
        assert kernel is None or kernel.used_master_keys()


async def test_an_unknown_key_requests_a_refresh_of_its_programme(bid_sides: list[Side]) -> None:
    token = OperatorState(seed=99, scope=IdentityScope.EUID).mint_token()
    body = json.dumps({"user": {"eids": [{"source": "euid.eu", "uids": [{"id": token}]}]}}).encode()
    for side, path in product(bid_sides, [IDS, REWRITE]):
        (answer,) = await answers_to(side, make(body, target=path))
        assert b"NOT_AUTHORIZED_FOR_KEY" in (statuses_of(answer) or answer.body)
    assert [side.unknown_keys for side in bid_sides] == [[IdentityScope.EUID] * 2] * len(bid_sides)
