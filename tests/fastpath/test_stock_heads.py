"""What stock HTTP clients send is plain, and aiohttp gives the same answers to it."""

import re

import pytest

from bidstream_svc.server.fastpath.heads import PlainHeads
from bidstream_svc.server.routes import ROUTES
from tests.fastpath.corpus import TOKEN
from tests.fastpath.stock_heads import STOCK_HEADS
from tests.fastpath.support import HOSTS, FastPathSide, Side, talk

BODY = b'{"token":"%b"}' % TOKEN.encode()


@pytest.mark.parametrize("head", STOCK_HEADS.values(), ids=STOCK_HEADS)
async def test_a_stock_client_is_answered_by_the_fast_path_as_by_aiohttp(head: bytes) -> None:
    heads = PlainHeads(ROUTES, None, HOSTS)
    assert heads.find(head) is not None
    assert heads.find(head) is not None  # from the memo
    request = re.sub(rb"(?i)(content-length: )\d+", rb"\g<1>%d" % len(BODY), head) + BODY
    fast_path, aiohttp = FastPathSide(), Side()
    answered = await talk(fast_path, [request] * 3)
    assert str(answered) == "200 200 200 wait"
    assert answered == await talk(aiohttp, [request] * 3)
    fast_path.close()
