"""Arbitrary requests, split arbitrarily: the expected answers, the same as aiohttp's, and no exception."""

import asyncio
from collections.abc import Iterator

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.fastpath.corpus import BATCH, BODY, CHUNKED, GOOD, LARGE_BATCH, TYPED, batch, make
from tests.fastpath.support import FastPathSide, Side, cut, talk

# Each with its answer; none ends the connection, and what the fast path takes is more frequent.
KNOWN = {
    GOOD: [200],
    TYPED: [200],
    BATCH: [200],
    batch(65): [200],
    LARGE_BATCH: [200],
    make(b""): [400],
    make(b"{"): [400],
    make({"token": None}): [400],
    make(b"[]", target="/decrypt/batch"): [400],
    CHUNKED: [200],
    make(target="/nowhere"): [404],
    make(b"", method="GET", length=None): [405],
    make(BODY, "Content-Type: text/plain"): [415],
    make(BODY, "Expect: 100-continue"): [100, 200],
    make(BODY, "Connection: Keep-Alive"): [200],
}
LINES = [
    *(b"Host: localhost", b"Host: elsewhere", b"host:localhost", b"User-Agent: x", b"X-Test: \xff", b"X:", b"X: a\tb "),
    *(b"Content-Length: 16", b"Content-Length: 3", b"content-length:16 ", b"Content-Length : 16"),
    *(b"Content-Type: application/json", b"Content-Type: application/x+json;a", b"Content-Type: text/html"),
    *(b"Connection: keep-alive", b"Connection: close", b"Connection: Upgrade", b"Upgrade: websocket", b"Upgrade: h2c"),
    *(b"Transfer-Encoding: chunked", b"Expect: 100-continue", b"TE: trailers", b"Trailer: X", b"Content-Encoding: br"),
    *(b" folded", b"\tfolded", b"no colon", b": no name", b"Bad Name: x", b"X: a\x00b", b"X: a\rb", b"X: a\nb", b""),
    *(b"Proxy-Connection: close", b"Keep-Alive: 1", b"ETag: x", b"Server: x", b"Sec-WebSocket-Key1: x"),
    *(b"Connection: TE, Keep-Alive", b"Connection: Upgrade, HTTP2-Settings", b"Connection: keep-alive, close"),
    *(b"Connection: content-length", b"HTTP2-Settings: x", b"Upgrade: H2C", b"Max-Forwards: 1", b"TE: gzip;q=1"),
    *(b"Content-Length: +16", b"X: " + b"y" * 4096),
]
REQUEST_LINES = [
    *(b"POST /decrypt HTTP/1.1", b"POST /decrypt/batch HTTP/1.1", b"POST /decrypt?x HTTP/1.1", b"GET / HTTP/1.1"),
    *(b"POST /decrypt HTTP/1.0", b"POST /decrypt  HTTP/1.1", b"POST /decrypt HTTP/1.1 ", b"POST /decrypt", b"post /x"),
]
usually_plain = st.one_of(st.just(REQUEST_LINES[0]), st.sampled_from(REQUEST_LINES))
odd_heads = st.builds(
    lambda first, lines: b"\r\n".join([first, *lines, b"", b""]),
    usually_plain,
    st.one_of(
        st.lists(st.sampled_from(LINES), max_size=6),
        st.lists(st.sampled_from(LINES), max_size=3).map(lambda lines: [LINES[0], *lines, LINES[7]]),
    ),
)
odd_requests = st.builds(lambda head, body: head + body, odd_heads, st.sampled_from([b"", BODY, CHUNKED[-30:]]))
spoilt_requests = st.builds(
    lambda request, at, gone, new: request[: at % len(request)] + new + request[at % len(request) + gone :],
    st.sampled_from([GOOD, TYPED, BATCH, CHUNKED]),
    st.integers(0, 10_000),
    st.integers(0, 3),
    st.one_of(st.binary(max_size=3), st.sampled_from([b"\r\n", b"\n", b"\r", b" ", b"\t", b":", b"\r\n\r\n"])),
).filter(bool)
offsets = st.sets(st.integers(1, 3_000), max_size=8)


@pytest.fixture(scope="module")
def runner() -> Iterator[asyncio.Runner]:
    with asyncio.Runner() as runner:
        yield runner


@pytest.fixture(scope="module")
def sides(runner: asyncio.Runner) -> Iterator[tuple[FastPathSide, Side]]:
    async def make_sides() -> tuple[FastPathSide, Side]:
        return FastPathSide(), Side()

    fast_path, aiohttp = runner.run(make_sides())
    yield fast_path, aiohttp
    fast_path.close()


@given(
    requests=st.lists(st.sampled_from([*KNOWN, GOOD, TYPED, BATCH, LARGE_BATCH]), max_size=10),
    offsets=offsets,
    at_once=st.booleans(),
)
@settings(max_examples=120)
def test_known_requests_in_any_pieces_get_their_answers(
    runner: asyncio.Runner, sides: tuple[FastPathSide, Side], requests: list[bytes], offsets: set[int], *, at_once: bool
) -> None:
    fast_path, _ = sides
    outcome = runner.run(talk(fast_path, cut(b"".join(requests), offsets), at_once=at_once))
    assert [answer.status for answer in outcome.answers] == [code for request in requests for code in KNOWN[request]]
    assert not outcome.is_closed


@given(
    before=st.lists(st.sampled_from(list(KNOWN)), max_size=3),
    odd=st.one_of(odd_requests, spoilt_requests),
    offsets=offsets,
)
@settings(max_examples=250)
def test_odd_requests_in_any_pieces_get_the_answers_of_aiohttp(
    runner: asyncio.Runner, sides: tuple[FastPathSide, Side], before: list[bytes], odd: bytes, offsets: set[int]
) -> None:
    fast_path, aiohttp = sides
    runner.run(compare(fast_path, aiohttp, b"".join([*before, odd, GOOD]), offsets))


async def compare(fast_path: FastPathSide, aiohttp: Side, stream: bytes, offsets: set[int]) -> None:
    assert await talk(fast_path, cut(stream, offsets)) == await talk(aiohttp, [stream])
