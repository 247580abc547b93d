"""The fast path and aiohttp give the same answers and counts for the same bytes, however they are split."""

from random import Random

import pytest

from bidstream_svc.server.auth import BearerToken
from tests.fastpath.corpus import CORPUS, GUARDED_CORPUS
from tests.fastpath.support import FastPathSide, Side, cut, talk

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


@pytest.mark.parametrize("name", _CASES)
async def test_fast_path_and_aiohttp_give_the_same_answers(name: str, bearer: BearerToken) -> None:
    requests, expected = _CASES[name]
    token = bearer if name.startswith(_GUARDED) else None
    by_request = await talk(Side(token, has_kernel=False), requests)
    assert str(by_request) == expected
    sides: list[Side] = [FastPathSide(token), FastPathSide(token, has_kernel=False), Side(token)]
    for side in sides:
        assert await talk(side, requests) == by_request

    stream = b"".join(requests)
    everywhere = range(1, len(stream))
    if name in _CUT_EVERYWHERE:
        cuts = [{offset} for offset in everywhere]
    else:
        random = Random(name)  # noqa: S311 - to be repeatable
        cuts = [set(random.choices(everywhere, k=random.randint(1, 4))) for _ in range(_RANDOM_CUTS) if everywhere]
    for side in sides:
        for offsets in (set(), *cuts):
            assert await talk(side, cut(stream, offsets)) == by_request, sorted(offsets)
        if len(stream) < _MAX_PIECES:
            assert await talk(side, cut(stream, everywhere)) == by_request
            assert await talk(side, cut(stream, everywhere), at_once=True) == by_request
        side.close()


@pytest.mark.parametrize("name", _LAST)
async def test_fast_path_and_aiohttp_take_the_same_leave(name: str) -> None:
    fast_path, aiohttp = FastPathSide(), Side()
    for side in (fast_path, aiohttp):
        side.drain()
    for pieces in (CORPUS[name].requests, [b"".join(CORPUS[name].requests)]):
        answers, is_closed, _ = outcome = await talk(fast_path, pieces)
        assert outcome == await talk(aiohttp, pieces)
        assert len(answers) == 1
        assert b"Connection: close" in answers[0].headers
        assert is_closed
    fast_path.close()
