"""Connections of an attacker. They verify nothing, and some of them do not read."""

import asyncio
import ssl
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import NamedTuple

_READ_BYTES = 65_536


def _unverified() -> ssl.SSLContext:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname = False
    context.verify_mode = ssl.CERT_NONE
    return context


_TLS = _unverified()


class Stream(NamedTuple):
    """A connection of an attacker.

    Attributes:
        landed: what to call when all that hurts has been sent.
    """

    reader: asyncio.StreamReader
    writer: asyncio.StreamWriter
    landed: Callable[[], None]

    async def send(self, data: bytes) -> None:
        if self.writer.is_closing():  # uvloop would raise RuntimeError
            raise ConnectionResetError
        self.writer.write(data)
        await self.writer.drain()

    async def hold(self) -> None:
        """Read until the server closes the connection."""
        self.landed()
        while await self.reader.read(_READ_BYTES):
            pass

    async def hold_unread(self) -> None:
        """Read nothing, for as long as the attack lasts."""
        self.landed()
        await asyncio.get_running_loop().create_future()

    async def receive(self) -> None:
        """One answer with a Content-Length, of any status."""
        self.landed()
        head = await self.reader.readuntil(b"\r\n\r\n")
        _, _, rest = head.lower().partition(b"content-length: ")
        await self.reader.readexactly(int(rest.partition(b"\r\n")[0] or b"0"))


class Target(NamedTuple):
    """A sidecar to attack.

    Attributes:
        data, admin: `host:port` of the two planes.
        is_tls: whether the data plane speaks TLS there.
        token: a valid token that was generated on the client side.
        landed: see Stream.
    """

    data: str
    admin: str
    is_tls: bool
    token: str
    landed: Callable[[], None] = lambda: None

    @asynccontextmanager
    async def connect(self, address: str = "", *, handshake: bool = True) -> AsyncIterator[Stream]:
        """Connect to the data plane unless told otherwise; without `handshake`, TLS is left to the caller."""
        host, _, port = (address or self.data).rpartition(":")
        context = _TLS if self.is_tls and not address and handshake else None
        reader, writer = await asyncio.open_connection(host, int(port), ssl=context)
        try:
            yield Stream(reader, writer, self.landed)
        finally:
            writer.transport.abort()
