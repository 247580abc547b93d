"""Connections whose request never ends: in the head, in the body, at any speed."""

import asyncio
from random import Random

from tests.attacks.target import Target

_LINES, _LINE_BYTES = 60, 8_000
_BATCH_BYTES = 4 * 1024 * 1024
_SLOW_S = 0.5
_START = b"POST /decrypt HTTP/1.1\r\nHost: localhost\r\n"
_STRANGE_START = b"GET /elsewhere HTTP/1.1\r\nHost: localhost\r\n"  # not for the fast path
_JSON = b"Content-Type: application/json\r\n"
_LONG_LINE = b"X-Filler: " + b"a" * (_LINE_BYTES - 12) + b"\r\n"
_BODY = b" " * (_BATCH_BYTES - 1)
_CHUNK = b"10000\r\n" + b" " * 65_536 + b"\r\n"
_random = Random(11)  # noqa: S311 - spreads sends


async def _endless(target: Target, start: bytes, piece: bytes, pieces: int, address: str = "") -> None:
    async with target.connect(address) as stream:
        await stream.send(start)
        for _ in range(pieces):
            await stream.send(piece)
        await stream.hold()


async def long_lines(target: Target) -> None:
    await _endless(target, _START, _LONG_LINE, _LINES)


async def long_lines_elsewhere(target: Target) -> None:
    await _endless(target, _STRANGE_START, _LONG_LINE, _LINES)


async def short_lines(target: Target) -> None:
    await _endless(target, _START, b"X: a\r\n" * 1_000, 60)


async def one_line(target: Target) -> None:
    await _endless(target, _START + b"X-Filler: ", b"a" * _LINE_BYTES, _LINES)


async def long_target(target: Target) -> None:
    await _endless(target, b"GET /", b"a" * _LINE_BYTES, _LINES)


async def admin_heads(target: Target) -> None:
    await _endless(target, b"GET /livez HTTP/1.1\r\nHost: localhost\r\n", _LONG_LINE, _LINES, target.admin)


async def trailers(target: Target) -> None:
    start = _START + _JSON + b"Transfer-Encoding: chunked\r\n\r\n1\r\n{\r\n0\r\n"
    await _endless(target, start, _LONG_LINE, _LINES)


async def chunk_extensions(target: Target) -> None:
    start = _START + _JSON + b"Transfer-Encoding: chunked\r\n\r\n1;"
    await _endless(target, start, b"a" * _LINE_BYTES, _LINES)


async def batches(target: Target) -> None:
    head = b"POST /decrypt/batch HTTP/1.1\r\nHost: localhost\r\n" + _JSON
    await _endless(target, head + b"Content-Length: %d\r\n\r\n" % _BATCH_BYTES, _BODY, 1)


async def chunked_batches(target: Target) -> None:
    head = b"POST /decrypt/batch HTTP/1.1\r\nHost: localhost\r\n" + _JSON
    await _endless(target, head + b"Transfer-Encoding: chunked\r\n\r\n", _CHUNK, _BATCH_BYTES // 65_536 - 1)


async def expecting(target: Target) -> None:
    """Waits for 100 Continue, and sends no body then."""
    head = b"POST /decrypt/batch HTTP/1.1\r\nHost: localhost\r\nExpect: 100-continue\r\n" + _JSON
    await _endless(target, head + b"Content-Length: %d\r\n\r\n" % _BATCH_BYTES, b"", 0)


async def _slow(target: Target, start: bytes) -> None:
    async with target.connect() as stream:
        await stream.send(start)
        stream.landed()
        while not stream.reader.at_eof():
            await asyncio.sleep(_SLOW_S * (0.5 + _random.random()))
            await stream.send(b"a")


async def slow_heads(target: Target) -> None:
    await _slow(target, _START + b"X-Slow: ")


async def slow_bodies(target: Target) -> None:
    await _slow(target, _START + _JSON + b"Content-Length: 9000\r\n\r\n")


async def half_closed(target: Target) -> None:
    """Ends its side in the middle of the request (over TLS, which has no half, in the middle of a record)."""
    async with target.connect(handshake=False) as stream:
        await stream.send(_START if not target.is_tls else b"\x16\x03\x01\x40\x00" + b"a" * 100)
        stream.writer.write_eof()
        await stream.hold()
