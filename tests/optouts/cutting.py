"""A proxy in front of receivers, which cuts answers off."""

import asyncio
import ssl
from collections.abc import Awaitable, Callable, Iterable
from contextlib import suppress
from types import TracebackType
from typing import NamedTuple, Self


class Passage(NamedTuple):
    """What happens to a connection.

    Attributes:
        port: of the receiver that it leads to.
        body_bytes: after how many of the body it is cut off; None for never.
        aborts: whether it is reset; else it is closed in order.
        before_cut: what happens before that.
    """

    port: int
    body_bytes: int | None = None
    aborts: bool = False
    before_cut: Callable[[], Awaitable[None]] | None = None


class Cutter:
    """The proxy. The last passage is for all further connections, too.

    Attributes:
        heads: the head of each request, in lower case.
    """

    def __init__(self, passages: Iterable[Passage], tls: ssl.SSLContext | None = None) -> None:
        self._passages = list(passages)
        self._tls = tls
        self._serving: list[asyncio.Task[None]] = []
        self._far: list[asyncio.StreamWriter] = []
        self.heads: list[str] = []

    async def __aenter__(self) -> Self:
        self._server = await asyncio.start_server(self._serve, "127.0.0.1", 0, ssl=self._tls)
        port = self._server.sockets[0].getsockname()[1]
        self.url = f"http{'s' if self._tls else ''}://localhost:{port}/snapshot"
        return self

    async def __aexit__(
        self, exc_type: type[BaseException] | None, exc: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self._server.close()
        for writer in self._far:
            writer.close()
        await asyncio.gather(*self._serving)

    def ranges(self) -> list[str]:
        """The range of each request; empty for none."""
        lines = [[line for line in head.split("\r\n") if line.startswith("range: ")] for head in self.heads]
        return [found[0].removeprefix("range: ") if found else "" for found in lines]

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        self._serving.append(task)
        passage = self._passages.pop(0) if len(self._passages) > 1 else self._passages[0]
        with suppress(OSError, asyncio.IncompleteReadError):
            head = await reader.readuntil(b"\r\n\r\n")
            self.heads.append(head.decode().lower())
            far_reader, far_writer = await asyncio.open_connection("127.0.0.1", passage.port)
            self._far.append(far_writer)
            far_writer.write(head)
            writer.write(await far_reader.readuntil(b"\r\n\r\n"))
            left = passage.body_bytes
            while left != 0 and (part := await far_reader.read(65_536 if left is None else min(left, 65_536))):
                writer.write(part)
                await writer.drain()
                left = None if left is None else left - len(part)
            if passage.before_cut is not None:
                await passage.before_cut()
            far_writer.close()
        if passage.aborts:
            writer.transport.abort()
        writer.close()
