"""Bodies in many small chunks are refused before they cost much."""

import pytest

from bidstream_svc.server.connections import ConnectionLimits
from tests.fastpath.support import LIMITS, Side, settle, split_answers
from tests.support.sidecar import RunningService

TOKEN = b'{"token":"%b"}'
HEAD = b"POST /decrypt HTTP/1.1\r\nHost: localhost\r\nTransfer-Encoding: chunked\r\n\r\n"
LARGE_HEAD = HEAD.replace(b"/decrypt", b"/decrypt/batch")
REFUSED = {"code": "invalid_request", "message": "the body is sent in too many small chunks"}


@pytest.fixture
def limits() -> ConnectionLimits:
    return LIMITS


def chunks(body: bytes, size: int) -> bytes:
    parts = [body[start : start + size] for start in range(0, len(body), size)]
    return b"".join(b"%x\r\n%b\r\n" % (len(part), part) for part in parts) + b"0\r\n\r\n"


@pytest.mark.parametrize(
    ("length", "size", "status"), [(500, 1, 200), (5_000, 16, 200), (16_000, 64, 200), (16_000, 1, 400)]
)
def test_few_or_large_chunks_are_read(service: RunningService, length: int, size: int, status: int) -> None:
    body = TOKEN % (b"a" * (length - len(TOKEN) + 2))
    with service.connect() as connection:
        connection.send(HEAD + chunks(body, size))
        answer = connection.receive()
    assert answer.status == status
    if status == 400:
        assert answer.json["error"] == REFUSED


@pytest.mark.parametrize("pieces", [1, 7, 300, 4096, 1 << 20])
@pytest.mark.parametrize("is_endless", [False, True])
async def test_small_chunks_are_refused_however_they_arrive(side: Side, pieces: int, *, is_endless: bool) -> None:
    stream = chunks(b" " * 20_000, 1)
    stream = LARGE_HEAD + (stream[:-5] if is_endless else stream)
    transport = side.connect()
    for start in range(0, len(stream), pieces):
        transport.feed(stream[start : start + pieces])
        if start < 10_000:
            await settle()
    await settle()
    (answer,) = split_answers(transport.sent)
    assert answer.status == 400
    assert b"too many small chunks" in answer.body
    transport.lose()
    await settle()
    assert side.counted_with(400) == 1


async def test_small_chunks_are_refused_after_an_answer(side: Side) -> None:
    """The body of a request that was answered from its head is thrown away, which takes as long."""
    transport = side.connect()
    transport.feed(LARGE_HEAD.replace(b"Host: ", b"Content-Type: text/plain\r\nHost: "))
    await settle()
    assert transport.statuses == [415]
    for _ in range(20):
        transport.feed(b"1\r\na\r\n" * 200)
        await settle()
    assert transport.is_closing()
    assert transport.statuses == [415]


async def test_small_chunks_behind_a_request_do_not_cost_its_answer(side: Side) -> None:
    transport = side.connect()
    request = HEAD + chunks(TOKEN % b"abcd", 100)
    transport.feed(request)
    transport.feed(HEAD + b"1\r\na\r\n" * 5000)
    await settle()
    transport.lose()
    await settle()
    assert transport.statuses == [200, 400]


async def test_each_request_may_have_as_many(side: Side) -> None:
    transport = side.connect()
    for _ in range(10):
        transport.feed(HEAD + chunks(TOKEN % (b"a" * 400), 1))
        await settle()
    assert transport.statuses == [200] * 10


async def test_a_request_is_answered_once(side: Side) -> None:
    """It was answered from its head; its trailer then exceeds the limit."""
    transport = side.connect()
    transport.feed(HEAD.replace(b"/decrypt", b"/nowhere"))
    await settle()
    assert transport.statuses == [404]
    transport.feed(b"1\r\na\r\n0\r\nX: " + b"a" * 20_000)
    await settle()
    assert transport.statuses == [404]
    assert transport.is_closing()


async def test_http_1_0_knows_no_interim_responses(side: Side) -> None:
    transport = side.connect()
    transport.feed(
        b"POST /decrypt HTTP/1.0\r\nExpect: 100-continue\r\nContent-Length: 15\r\n\r\n" + b'{"token":"abcd"}'
    )
    await settle()
    assert b"100 Continue" not in transport.sent
