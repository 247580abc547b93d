"""Whole requests: the most expensive ones in a loop, scrapes, answers that are not read."""

import orjson

from tests.attacks.target import Stream, Target
from tests.support.raw_http import make_request

_BATCH, _DECRYPT = "/decrypt/batch", "/decrypt"
_BATCH_BYTES = 4 * 1024 * 1024
_DECRYPT_BYTES = 16 * 1024
_MAX_TOKENS = 1_000
_METRICS = make_request("/metrics", method="GET")
_PIPELINED = 400
_UNREAD_ROUNDS = 10_000
_ELEMENT = b'{"token":""},'
_CROWDED_BATCH = make_request(
    _BATCH, b'{"requests":[' + (_ELEMENT * ((_BATCH_BYTES - 20) // len(_ELEMENT)))[:-1] + b"]}"
)
_DEEP = make_request(_BATCH, b'{"requests":' + b"[" * (_BATCH_BYTES - 20))
_CHUNKED_HEAD = make_request(
    _DECRYPT, method="POST", headers={"Content-Type": "application/json", "Transfer-Encoding": "chunked"}
)
_HEADERS = make_request(_DECRYPT, {"token": "abcd"}, headers={f"X-{number}": "a" * 100 for number in range(80)})


async def _repeat(target: Target, request: bytes, address: str = "") -> None:
    """One request after the other on one connection, each answered before the next."""
    async with target.connect(address) as stream:
        while True:
            await stream.send(request)
            await stream.receive()


async def _pipeline_unread(target: Target, request: bytes, address: str = "") -> None:
    async with target.connect(address) as stream:
        _stop_reading(stream)
        stream.landed()
        for _ in range(_UNREAD_ROUNDS):
            await stream.send(request)
        await stream.hold_unread()


def _stop_reading(stream: Stream) -> None:
    stream.writer.transport.pause_reading()  # type: ignore[attr-defined] # the transport of a socket has it


async def crowded_batches(target: Target) -> None:
    """As many elements as fit; more than are allowed."""
    await _repeat(target, _CROWDED_BATCH)


async def deep_batches(target: Target) -> None:
    await _repeat(target, _DEEP)


async def full_batches(target: Target) -> None:
    """All that one request may ask for."""
    element = {"token": target.token, "domain": "www.site.example.com"}
    await _repeat(target, make_request(_BATCH, {"requests": [element] * _MAX_TOKENS}))


async def long_domains(target: Target) -> None:
    """A name of 4 MiB for a token whose domain is checked."""
    await _repeat(target, make_request(_BATCH, _long_domain(target, "a.", _BATCH_BYTES, batch=True)))


async def strange_domains(target: Target) -> None:
    """16 KiB of a letter that becomes two in lower case."""
    await _repeat(target, make_request(_DECRYPT, _long_domain(target, "\u0130", _DECRYPT_BYTES, batch=False)))


def _long_domain(target: Target, letters: str, size: int, *, batch: bool) -> bytes:
    room = size - len(target.token) - 100
    element = {"token": target.token, "domain": letters * (room // len(letters.encode()))}
    return orjson.dumps({"requests": [element]} if batch else element)


async def tiny_chunks(target: Target) -> None:
    """A body in chunks of a byte."""
    body = orjson.dumps({"token": target.token, "filler": "a" * (_DECRYPT_BYTES - len(target.token) - 100)})
    await _repeat(target, _CHUNKED_HEAD + b"".join(b"1\r\n%c\r\n" % byte for byte in body) + b"0\r\n\r\n")


async def many_headers(target: Target) -> None:
    await _repeat(target, _HEADERS)


async def scrapes(target: Target) -> None:
    await _repeat(target, _METRICS, target.admin)


async def unread_scrapes(target: Target) -> None:
    async with target.connect(target.admin) as stream:
        _stop_reading(stream)
        await stream.send(_METRICS * _PIPELINED)
        await stream.hold_unread()


async def unread_answers(target: Target) -> None:
    await _pipeline_unread(target, make_request(_DECRYPT, {"token": target.token}) * 100)


async def unread_batches(target: Target) -> None:
    """Small requests with large answers."""
    await _pipeline_unread(target, make_request(_BATCH, {"requests": [{"token": ""}] * _MAX_TOKENS}))


async def idle(target: Target) -> None:
    """A good request, and silence then."""
    await _ask_and_idle(target, make_request(_DECRYPT, {"token": target.token}))


async def admin_idle(target: Target) -> None:
    await _ask_and_idle(target, make_request("/livez", method="GET"), target.admin)


async def _ask_and_idle(target: Target, request: bytes, address: str = "") -> None:
    async with target.connect(address) as stream:
        await stream.send(request)
        await stream.hold()


async def churn(target: Target) -> None:
    """A connection for each request."""
    async with target.connect() as stream:
        await stream.send(make_request(_DECRYPT, {"token": target.token}))
        await stream.receive()


async def confusion(target: Target) -> None:
    """What might be read in two ways, each followed by silence: garbage, h2c, two credentials, half a connection."""
    good = make_request(_DECRYPT, {"token": target.token})
    offer = make_request(_DECRYPT, {"token": ""}, headers={"Connection": "Upgrade, HTTP2-Settings", "Upgrade": "h2c"})
    twice = good.replace(b"\r\n", b"\r\nAuthorization: Bearer a\r\nAuthorization: Bearer b\r\n", 1)
    smuggled = make_request(_DECRYPT, good, headers={"Transfer-Encoding": "chunked"})
    for data in (good + b"\x00\xff" * 2_000, offer + good, twice, smuggled):
        async with target.connect() as stream:
            await stream.send(data)
            if not target.is_tls:
                stream.writer.write_eof()
            await stream.hold()
