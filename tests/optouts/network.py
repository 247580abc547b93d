"""An address through which hosts reach a server, and the faults of a network."""

import asyncio
from contextlib import suppress
from types import TracebackType
from typing import Self


class Switch:
    """An address that leads to one of several servers, as that of a service does.

    Attributes:
        delay_s: how long each part waits before it goes on, in both directions.
        part_bytes: how large a part is at most.
    """

    def __init__(self, port: int) -> None:
        self.delay_s = 0.0
        self.part_bytes = 65_536
        self._target = port
        self._writers: set[asyncio.StreamWriter] = set()
        self._is_whole = asyncio.Event()
        self._is_whole.set()

    async def __aenter__(self) -> Self:
        self._server = await asyncio.start_server(self._serve, "127.0.0.1", 0)
        self.port = self._server.sockets[0].getsockname()[1]
        self.url = f"redis://127.0.0.1:{self.port}/0"
        return self

    async def __aexit__(
        self, exc_type: type[BaseException] | None, exc: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self._server.close()
        self.mend()
        self.turn_to(0)

    def turn_to(self, port: int) -> None:
        """Lead to another server from now on; all connections end."""
        self._target = port
        for writer in self._writers:
            writer.close()

    def cut(self) -> None:
        """Let nothing through any more. Connections stay open."""
        self._is_whole.clear()

    def mend(self) -> None:
        """Let everything through again."""
        self._is_whole.set()

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            far_reader, far_writer = await asyncio.open_connection("127.0.0.1", self._target)
        except OSError:
            writer.close()
            return
        both = {writer, far_writer}
        self._writers |= both
        await asyncio.gather(self._pass_on(reader, far_writer), self._pass_on(far_reader, writer))
        self._writers -= both

    async def _pass_on(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with suppress(OSError):
            while part := await reader.read(self.part_bytes):
                await asyncio.sleep(self.delay_s)
                await self._is_whole.wait()
                writer.write(part)
                await writer.drain()
        writer.close()
