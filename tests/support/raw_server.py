"""A server that sends fixed bytes to every request, for answers that a real operator never gives."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any


class RawServer:
    """Gives one answer a connection, the last one for ever.

    Attributes:
        url: where it listens.
        requests: heads of the requests that came, in lower case.
    """

    def __init__(self, answers: tuple[bytes, ...]) -> None:
        self.url = ""
        self.requests: list[str] = []
        self._answers = list(answers)

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        head = (await reader.readuntil(b"\r\n\r\n")).decode().lower()
        length = int(head.partition("content-length: ")[2].partition("\r")[0])
        await reader.readexactly(length)
        self.requests.append(head)
        writer.write(self._answers.pop(0) if len(self._answers) > 1 else self._answers[0])
        writer.close()
        await writer.wait_closed()


def http_answer(body: bytes, *headers: str, status: str = "200 OK", content_type: str = "text/plain") -> bytes:
    """An HTTP answer with a right Content-Length."""
    lines = (f"HTTP/1.1 {status}", f"Content-Type: {content_type}", f"Content-Length: {len(body)}", *headers, "", "")
    return "\r\n".join(lines).encode() + body


@asynccontextmanager
async def raw_server(*answers: bytes, **options: Any) -> AsyncIterator[RawServer]:
    """Run one in the running loop; `options` are those of asyncio.start_server."""
    raw = RawServer(answers)
    server = await asyncio.start_server(raw.serve, "127.0.0.1", **options)
    scheme = "https" if options.get("ssl") else "http"
    raw.url = f"{scheme}://127.0.0.1:{server.sockets[0].getsockname()[1]}"
    async with server:
        yield raw
