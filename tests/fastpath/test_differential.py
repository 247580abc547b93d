"""The fast path and aiohttp give the same answers and counts for the same bytes, however they are split."""

from random import Random

import pytest

from bidstream_svc.server.auth import BearerToken
from tests.fastpath.corpus import CORPUS, GUARDED_CORPUS, Case
from tests.fastpath.support import FastPathSide, Outcome, Side, cut, possible_outcomes, talk

_GUARDED = "guarded, "
_CASES = {**CORPUS, **{_GUARDED + name: case for name, case in GUARDED_CORPUS.items()}}
# One of each kind at every byte, the others at random.
_CUT_EVERYWHERE = {
    "two heads in turns",
    "chunked",
    "expect",
    "length too short",
    "length, blank before colon",
    "close",
    "upgrade to websocket",
    "bare LF",
    "folded by tab",
    "garbage behind good",
    "batch among others",
    "guarded, not shown",
}
_LAST = ["good", "ten", "not JSON", "batch", "two large batches", "chunked", "GET", "Keep-Alive"]
_RANDOM_CUTS = 5
_MAX_PIECES = 2_000


class Sides:
    """Both, and how to compare them."""

    def __init__(self, case: Case, bearer: BearerToken | None) -> None:
        self._requests = case.requests
        self._aiohttp, self.fast_path = Side(bearer), FastPathSide(bearer)

    async def compare_by_request(self) -> Outcome:
        """Where no piece holds more than one request, they are equal."""
        by_request = await talk(self._aiohttp, self._requests)
        assert await talk(self.fast_path, self._requests) == by_request
        return by_request

    async def compare(self, offsets: set[int], by_request: Outcome, *, at_once: bool = False) -> None:
        outcome = await talk(self.fast_path, cut(b"".join(self._requests), offsets), at_once=at_once)
        if outcome != by_request:
            possible = [found async for found in possible_outcomes(self._aiohttp, self._requests, offsets)]
            assert outcome in possible, (sorted(offsets), str(outcome), *map(str, possible))


@pytest.mark.parametrize("name", _CASES)
async def test_fast_path_and_aiohttp_give_the_same_answers(name: str, bearer: BearerToken) -> None:
    case = _CASES[name]
    sides = Sides(case, bearer if name.startswith(_GUARDED) else None)
    by_request = await sides.compare_by_request()
    assert str(by_request) == case.outcome

    length = sum(map(len, case.requests))
    everywhere = range(1, length)
    if name in _CUT_EVERYWHERE:
        cuts = [{offset} for offset in everywhere]
    else:
        random = Random(name)  # noqa: S311 - to be repeatable
        cuts = [set(random.choices(everywhere, k=random.randint(1, 4))) for _ in range(_RANDOM_CUTS) if everywhere]
    for offsets in (set(), *cuts):
        await sides.compare(offsets, by_request)
    if length < _MAX_PIECES:
        await sides.compare(set(everywhere), by_request)
        await sides.compare(set(everywhere), by_request, at_once=True)
    sides.fast_path.close()


@pytest.mark.parametrize("name", _LAST)
async def test_fast_path_and_aiohttp_take_the_same_leave(name: str) -> None:
    fast_path, aiohttp = FastPathSide(), Side()
    for side in (fast_path, aiohttp):
        side.drain()
    for pieces in (CORPUS[name].requests, [b"".join(CORPUS[name].requests)]):
        answers, is_closed, _ = await talk(fast_path, pieces)
        assert (answers, is_closed) == (await talk(aiohttp, pieces))[:2]
        assert len(answers) == 1
        assert b"Connection: close" in answers[0].headers
        assert is_closed
    fast_path.close()
