"""Connections that never become a request: silence, half a handshake, handshakes and resets without end."""

import asyncio
import socket
import ssl
import struct

from tests.attacks.target import Target

_SLOW_S = 0.3
_LINGER_NOT = struct.pack("ii", 1, 0)


def _client_hello() -> bytes:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    outgoing = ssl.MemoryBIO()
    try:
        context.wrap_bio(ssl.MemoryBIO(), outgoing, server_hostname="localhost").do_handshake()
    except ssl.SSLWantReadError:
        return outgoing.read()
    raise AssertionError("a handshake without an answer")


_HELLO = _client_hello()


async def silence(target: Target) -> None:
    """No byte; on a TLS listener, no ClientHello."""
    async with target.connect(handshake=False) as stream:
        await stream.hold()


async def admin_silence(target: Target) -> None:
    async with target.connect(target.admin) as stream:
        await stream.hold()


async def half_hello(target: Target) -> None:
    async with target.connect(handshake=False) as stream:
        await stream.send(_HELLO[: len(_HELLO) // 2])
        await stream.hold()


async def hello_only(target: Target) -> None:
    """The whole ClientHello, and no answer to what the server says then."""
    async with target.connect(handshake=False) as stream:
        await stream.send(_HELLO)
        await stream.hold()


async def slow_hello(target: Target) -> None:
    async with target.connect(handshake=False) as stream:
        for at in range(len(_HELLO)):
            await stream.send(_HELLO[at : at + 1])
            stream.landed()
            await asyncio.sleep(_SLOW_S)
        await stream.hold()


async def large_record(target: Target) -> None:
    """A record that announces 16 KiB and is never whole."""
    async with target.connect(handshake=False) as stream:
        await stream.send(b"\x16\x03\x01\x40\x00\x01\x00\x3f\xfc" + b"a" * 16_000)
        await stream.hold()


async def handshakes(target: Target) -> None:
    """Handshakes, one after the other (on a plain listener, connections)."""
    async with target.connect() as stream:
        stream.landed()


async def resets(target: Target) -> None:
    """Connections that are reset at once: some before they are accepted."""
    async with target.connect(handshake=False) as stream:
        stream.landed()
        stream.writer.get_extra_info("socket").setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _LINGER_NOT)
